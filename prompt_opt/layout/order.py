"""The one layout: where everything stands in the prompt that goes upstream. Pure; pinned by golden files.

Most stable first, so that the engine's prefix cache keeps what repeats:

    1. tools (not ours, untouched)
    2. one leading system message: instruction, pinned principles by id, the client's own system text
    3. exemplars, as turns
    4. history, untouched
    5. retrieved principles by id, quoted as data, inside the last user turn
    6. the last user turn: original, rewritten, or original plus complement

The chat render, here, edits messages and leaves every other one as the client's own bytes. The base render, in
`turns`, writes the same order as one text that ends on an open answer.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import msgspec

from prompt_opt.core import SYSTEM_ROLES, Advice, Chat, Exemplar, Message, Origin, Policy, Prompt, Span
from prompt_opt.layout.defuse import defuse
from prompt_opt.layout.quotation import pinned, retrieved
from prompt_opt.layout.turns import NoPlace, base_prompt

__all__ = ["NoPlace", "lay_out", "shed"]
_NO_SYSTEM = Message("system", "", bare=True)


def lay_out(chat: Chat, advice: Advice, policy: Policy, specials: Collection[str] = ()) -> Prompt:
    """Merge `advice` into `chat`.

    Args:
        specials: texts of the engine's special tokens, where they are known.

    Raises:
        NoPlace: tools, images or an empty chat in the base render.
    """
    return (
        base_prompt(chat, advice, policy.profile, specials)
        if policy.render == "base"
        else _chat(chat, advice, specials)
    )


def shed(advice: Advice) -> Advice | None:
    """The next smaller advice when the context is short, or None when nothing is left to drop.

    The order: retrieved principles from the lowest score, the complement, demos, exemplars from the last, the rewrite,
    the instruction, pinned principles.
    """
    if advice.principles:
        worst = min(advice.principles, key=lambda p: (p.score, p.id))
        return replace(advice, principles=tuple(p for p in advice.principles if p is not worst))
    if advice.complement is not None:
        return replace(advice, complement=None)
    if advice.demos:
        return replace(advice, demos=advice.demos[:-1])
    if advice.exemplars:
        return replace(advice, exemplars=advice.exemplars[:-1])
    if advice.rewrite is not None:
        return replace(advice, rewrite=None)
    if advice.instruction:
        return replace(advice, instruction="")
    if advice.pinned:
        return replace(advice, pinned=())
    return None


def _chat(chat: Chat, advice: Advice, specials: Collection[str]) -> Prompt:
    """The chat with the advice in it. Where a message's content is a string, its spans join to it.

    A rule may come from anywhere, a rewriter's words as well, and engines read special tokens in a message's text:
    those of rules, rewrites, hints and demos are escaped. What the client wrote itself goes as it came.
    """
    spans: list[Span] = []
    out: list[Message] = []
    messages = chat.messages
    start = 0  # of what is no leading system message
    while start < len(messages) and messages[start].role in SYSTEM_ROLES:
        start += 1
    _system(messages[:start], advice, specials, spans, out)
    turns, told = _exemplars(advice.exemplars, len(out))
    out += turns
    spans += told
    last = len(messages) - 1
    while last >= start and messages[last].role != "user":
        last -= 1
    for i in range(start, len(messages)):
        message = messages[i]
        if i == last:
            for demo in advice.demos:
                for role, text in (("user", demo.user), ("assistant", demo.assistant)):
                    _put(Message(role, defuse(text, (), specials)[0]), "rewrite", spans, out)
            message, pieces = _last_turn(message, advice, specials)
            spans += [Span(origin, text, len(out)) for origin, text in pieces if text]
            out.append(message)
        else:
            _put(message, "system" if message.role in SYSTEM_ROLES else "history", spans, out)
    return Prompt(tuple(spans), messages=tuple(out))


def _system(
    leading: Sequence[Message], advice: Advice, specials: Collection[str], spans: list[Span], out: list[Message]
) -> None:
    """Add the leading system messages, the policy's text before the first one's.

    A second one, if the client sends it, stays a message of its own: its bytes are not ours to edit.
    """
    pieces: list[tuple[Origin, str]] = [("profile", advice.instruction)] if advice.instruction else []
    if advice.pinned:
        pieces.append(("pinned", defuse(pinned(advice.pinned, advice.cite), (), specials)[0]))
    if pieces:
        first = leading[0] if leading else _NO_SYSTEM
        text, said = "\n\n".join([piece for _, piece in pieces]), first.text
        out.append(_prepend(_as_system(first), f"{text}\n\n" if said else text))
        ends = ["\n\n"] * (len(pieces) - 1) + ["\n\n" if said else ""]
        spans += [Span(origin, piece + end, 0) for (origin, piece), end in zip(pieces, ends, strict=True)]
        if said:
            spans.append(Span("system", said, 0))
    for message in leading[bool(pieces) :]:
        _put(message, "system", spans, out)


def _put(message: Message, origin: Origin, spans: list[Span], out: list[Message]) -> None:
    """Add a message as it is."""
    if text := message.text:
        spans.append(Span(origin, text, len(out)))
    out.append(message)


@lru_cache(256)
def _exemplars(exemplars: tuple[Exemplar, ...], at: int) -> tuple[tuple[Message, ...], tuple[Span, ...]]:
    """The exemplars as turns from message `at` on, and their spans: a policy's are the same for every request."""
    said = [turn for e in exemplars for turn in (("user", e.user), ("assistant", e.assistant))]
    turns = [Message(role, text) for role, text in said]
    spans = (Span("profile", text, i) for i, (_, text) in enumerate(said, at) if text)
    return tuple(Message(turn.role, turn.content, raw=turn.json()) for turn in turns), tuple(spans)


def _as_system(message: Message) -> Message:
    """The message in the role that every template knows.

    A template without the role `developer` (Qwen 3's, for one) drops such a message without a word, and the policy's
    text with it; OpenAI's models treat the two roles alike.
    """
    if message.role == "system" or message.raw is None:
        return message
    fields = msgspec.json.decode(message.raw, type=dict[str, msgspec.Raw])
    raw = msgspec.json.encode({**fields, "role": msgspec.Raw(b'"system"')})
    return msgspec.structs.replace(message, role="system", raw=raw)


def _prepend(message: Message, text: str) -> Message:
    """The message with `text` before its own; every other field of the client's stays."""
    if isinstance(message.content, list):
        return message.with_content([{"type": "text", "text": text}, *message.content])
    return message.with_content(text + (message.content or ""))


def _last_turn(message: Message, advice: Advice, specials: Collection[str]) -> tuple[Message, list[tuple[Origin, str]]]:
    """The last user message and its pieces: rules, the text or its rewrite, the complement."""
    if not advice.principles and not advice.complement and advice.rewrite is None:
        return message, [("user", message.text)]
    before, behind = retrieved(advice.principles, advice.frame, advice.cite) if advice.principles else ("", "")
    before = defuse(before, (), specials)[0] if before else ""
    body = message.text if advice.rewrite is None else defuse(advice.rewrite, (), specials)[0]
    hint = f"\n\n{defuse(advice.complement, (), specials)[0]}" if advice.complement else ""
    pieces: list[tuple[Origin, str]] = [
        ("retrieved", before),
        ("user" if advice.rewrite is None else "rewrite", body),
        ("rewrite", hint),
        ("retrieved", behind),
    ]
    after = hint + behind
    if not before and not after and advice.rewrite is None:
        return message, pieces
    if not isinstance(message.content, list):
        return message.with_content(before + body + after), pieces
    parts = message.content if advice.rewrite is None else _rewritten(message.content, body)
    head, tail = ([{"type": "text", "text": text}] if text else [] for text in (before, after))
    return message.with_content([*head, *parts, *tail]), pieces


def _rewritten(parts: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    """The parts with `text` in the first text's place and the other texts gone; images and the like stay in order."""
    texts = [i for i, part in enumerate(parts) if isinstance(part.get("text"), str)]
    if not texts:
        return [{"type": "text", "text": text}, *parts]
    kept = [{**part, "text": text} if i == texts[0] else part for i, part in enumerate(parts)]
    return [part for i, part in enumerate(kept) if i not in texts[1:]]
