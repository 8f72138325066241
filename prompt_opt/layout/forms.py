"""Other forms of a laid-out chat, for engines whose chat templates refuse the usual one. Pure.

What the policy says stays; only where it stands, or what stands beside it, changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import takewhile

import msgspec
from msgspec.structs import replace

from prompt_opt.core import SYSTEM_ROLES, Message, Prompt, Span


def fold_system(prompt: Prompt) -> Prompt:
    """The leading system text at the top of the first user turn, for templates without a system role.

    A prompt without the one or the other stays as it is.
    """
    messages = prompt.messages or ()
    leading = list(takewhile(lambda m: m.role in SYSTEM_ROLES, messages))
    first = next((i for i, m in enumerate(messages) if m.role == "user"), None)
    if not leading or first is None:
        return prompt
    gone = len(leading)
    text = "".join(f"{message.text}\n\n" for message in leading if message.text)
    rest = list(messages[gone:])
    rest[first - gone] = _prepended(rest[first - gone], text)
    moved: list[Span] = []
    for i, message in enumerate(leading):
        if message.text:
            own = [span for span in prompt.spans if span.message == i]
            moved += [replace(span, message=first - gone) for span in own[:-1]]
            moved += [replace(span, text=span.text + "\n\n", message=first - gone) for span in own[-1:]]
    others = [replace(s, message=s.message - gone) for s in prompt.spans if s.message is not None and s.message >= gone]
    at = next((i for i, span in enumerate(others) if span.message == first - gone), len(others))
    return replace(prompt, messages=tuple(rest), spans=(*others[:at], *moved, *others[at:]))


def with_reasoning(prompt: Prompt) -> Prompt:
    """An empty `reasoning_content` on our own assistant turns, for engines that want one on each."""
    if prompt.messages is None:
        return prompt
    ours = {s.message for s in prompt.spans if s.origin in ("profile", "rewrite")}
    return replace(prompt, messages=tuple(_reasoned(m) if i in ours else m for i, m in enumerate(prompt.messages)))


def _reasoned(message: Message) -> Message:
    if message.role != "assistant":
        return message
    fields = msgspec.json.decode(message.json(), type=dict[str, msgspec.Raw])
    return replace(message, raw=msgspec.json.encode({"reasoning_content": "", **fields}))


def _prepended(message: Message, text: str) -> Message:
    if isinstance(message.content, list):
        return message.with_content([{"type": "text", "text": text}, *message.content])
    return message.with_content(text + (message.content or ""))


FORMS: Mapping[str, Callable[[Prompt], Prompt]] = {"system": fold_system, "reasoning": with_reasoning}
