"""The base render: a chat as one text that a base model continues, ending on an open answer.

A turn is a marker line and a text. In the "fenced" form the text stands in a fence longer than any run inside it; the
forms "open" and "spaced" are those of the original project's later prompt files, byte for byte.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache

import msgspec

from prompt_opt.core import SYSTEM_ROLES, Advice, Chat, Exemplar, Message, Origin, Profile, Prompt, Span
from prompt_opt.layout.defuse import close_block, defuse, fence_for
from prompt_opt.layout.quotation import pinned, retrieved

_SYSTEM_HEADING = "The operator of this conversation adds:"


class NoPlace(ValueError):
    """The chat holds something that a base model's prompt has no place for; the message names it."""


class _Piece(msgspec.Struct, frozen=True):
    """A part of a turn's text; `label` names it in the notes on what safety changed, "" is the profile's own."""

    origin: Origin
    label: str
    text: str


def base_prompt(chat: Chat, advice: Advice, profile: Profile, specials: Collection[str]) -> Prompt:
    """The chat and the advice as one text.

    Raises:
        NoPlace: tools, images or no turn at all.
    """
    _refuse(chat)
    sheet = _Sheet(profile, specials)
    sheet.head(advice)
    if advice.pinned and (rules := sheet.safe("pinned", pinned(advice.pinned, advice.cite))):
        sheet.aside([("pinned", rules)])
    if system := "\n\n".join([m.text for m in chat.messages if m.role in SYSTEM_ROLES and m.text]):
        system = sheet.safe("system", system)
        fence = fence_for(system, profile.fence or "```")
        sheet.aside([("profile", f"{_SYSTEM_HEADING}\n{fence}\n"), ("system", system), ("profile", f"\n{fence}")])
    shown, notes = _shown(profile, advice.exemplars, frozenset(specials))
    sheet.add("profile", shown)
    sheet.notes += notes
    turns = _turns(chat.messages)
    prefill = turns.pop()[1] if turns[-1][0] == "assistant" else ""
    asked = ""
    if turns:
        for role, text in turns[:-1]:
            sheet.turn(role, [_Piece("history", "history", text)])
        asked = sheet.turn(turns[-1][0], _question(turns[-1][1], advice))
    prefill = sheet.safe("prefill", prefill) if prefill else ""
    # A question that holds long fences may want them in its answer: the answer's own fence outgrows both.
    fence = fence_for(f"{asked}\n{prefill}", profile.fence) if profile.fence else ""
    sheet.add("profile", sheet.opening("assistant", fence))
    sheet.add("history", prefill)
    return Prompt(sheet.spans(), stops=stops(profile, fence), fence=fence, notes=tuple(dict.fromkeys(sheet.notes)))


@lru_cache(256)
def stops(profile: Profile, fence: str) -> tuple[str, ...]:
    """What ends an answer under this profile, anchored to line starts so that a comment `x  # User` does not.

    With a fence of four or more, the fence's own line ends the answer. With the original's fence of three, which an
    answer's code blocks use as well, or with none, the next turn's marker does: its whole line, or all up to its colon.
    """
    marker = profile.user_marker
    if len(fence) > 3:
        return (f"\n{fence}\n", f"\n{marker}\n{fence[: len(profile.fence)]}")
    return (f"\n{marker}" if marker.endswith(":") else f"\n{marker}\n",)


class _Sheet:
    """The text as it is written, piece by piece, and the notes on what safety changed in it."""

    __slots__ = ("_texts", "notes", "profile", "specials")

    def __init__(self, profile: Profile, specials: Collection[str]) -> None:
        self.profile, self.specials = profile, specials
        self.notes: list[str] = []
        self._texts: list[tuple[Origin, list[str]]] = []  # of neighbours of one origin all texts

    def add(self, origin: Origin, text: str) -> None:
        """Write text; neighbours of one origin become one span."""
        if not text:
            return
        texts = self._texts
        if texts and texts[-1][0] == origin:
            texts[-1][1].append(text)
        else:
            texts.append((origin, [text]))

    def safe(self, label: str, text: str) -> str:
        """The text, made harmless."""
        if not text:
            return text
        markers = (self.profile.user_marker, self.profile.assistant_marker)
        text, done = defuse(text, markers, self.specials, self.profile.fence[:1] or "`")
        if done:
            self.notes += [f"{label}: {note}" for note in done]
        return text

    def head(self, advice: Advice) -> None:
        """What comes before the exemplars. The original's preamble is one piece: dropped whole or not at all."""
        profile = self.profile
        if not advice.instruction and not advice.exemplars:
            return
        if profile.preamble:
            self.add("profile", profile.preamble)
        elif texts := [text for text in (profile.framing, advice.instruction) if text]:
            self.add("profile", "\n\n".join(texts) + "\n")

    def aside(self, pieces: Iterable[tuple[Origin, str]]) -> None:
        """A paragraph that is no turn."""
        self.add("profile", "\n\n" if self.profile.preamble else "\n")
        for origin, text in pieces:
            self.add(origin, text)
        self.add("profile", "" if self.profile.preamble else "\n")

    def exemplars(self, exemplars: Sequence[Exemplar]) -> None:
        """The exemplars: a file's own bytes where there are some, turns elsewhere."""
        profile = self.profile
        for exemplar in exemplars:
            if exemplar.raw:
                self.add("profile", exemplar.raw)
            else:
                label = "" if exemplar in profile.exemplars else "exemplar"
                self.turn("user", [_Piece("profile", label, exemplar.user)])
                self.turn("assistant", [_Piece("profile", label, exemplar.assistant)])
        # A file's last exemplar ends as the first turn wants it; its preamble, and an exemplar before the last, don't.
        cut = exemplars[-1].raw and tuple(exemplars) != profile.exemplars if exemplars else profile.preamble
        if cut:
            self.add("profile", {"fenced": "\n", "open": "", "spaced": "\n\n"}[profile.form])

    def turn(self, role: str, pieces: Sequence[_Piece]) -> str:
        """Write a turn; return its text."""
        texts = [self._harmless(piece) if piece.label and piece.text else piece.text for piece in pieces]
        whole = texts[0] if len(texts) == 1 else "".join(texts)
        fence = fence_for(whole, self.profile.fence) if self.profile.fence else ""
        self.add("profile", self.opening(role, fence))
        for piece, text in zip(pieces, texts, strict=True):
            self.add(piece.origin, text)
        self.add("profile", f"\n{fence}\n" if fence else "\n\n" if self.profile.form == "spaced" else "\n")
        return whole

    def opening(self, role: str, fence: str) -> str:
        """A turn up to the start of its text."""
        marker = self.profile.assistant_marker if role == "assistant" else self.profile.user_marker
        if fence:
            return f"\n{marker}\n{fence}\n"
        return f"\n{marker}\n\n" if self.profile.form == "spaced" else f"\n\n{marker}\n"

    def text(self) -> str:
        return "".join([text for _, texts in self._texts for text in texts])

    def spans(self) -> tuple[Span, ...]:
        """All of it; a text that does not begin with a file's preamble begins without a blank line."""
        spans = [Span(origin, "".join(texts)) for origin, texts in self._texts]
        first = spans[0]
        if first.text[0] == "\n" and not (self.profile.preamble and first.text.startswith(self.profile.preamble)):
            spans[0] = Span(first.origin, first.text.lstrip("\n"))
        return tuple([span for span in spans if span.text])

    def _harmless(self, piece: _Piece) -> str:
        """The piece, made harmless; where turns have no fence, no code block in it is left open."""
        text = self.safe(piece.label, piece.text)
        if self.profile.fence or (closed := close_block(text)) == text:
            return text
        self.notes.append(f"{piece.label}: code block closed")
        return closed


@lru_cache(64)
def _shown(profile: Profile, exemplars: tuple[Exemplar, ...], specials: frozenset[str]) -> tuple[str, tuple[str, ...]]:
    """The exemplars as text, and the notes on them: the same for every request of a policy."""
    sheet = _Sheet(profile, specials)
    sheet.exemplars(exemplars)
    return sheet.text(), tuple(sheet.notes)


def _question(text: str, advice: Advice) -> list[_Piece]:
    """The last user turn: rules, the text or its rewrite, the complement."""
    asked = _Piece("user", "user", text) if advice.rewrite is None else _Piece("rewrite", "rewrite", advice.rewrite)
    if not advice.principles and not advice.complement:
        return [asked]
    before, behind = retrieved(advice.principles, advice.frame, advice.cite)
    return [
        _Piece("retrieved", "retrieved", before),
        asked,
        _Piece("rewrite", "complement", f"\n\n{advice.complement}" if advice.complement else ""),
        _Piece("retrieved", "retrieved", behind),
    ]


def _turns(messages: Iterable[Message]) -> list[tuple[str, str]]:
    """(role, text), neighbours of one role joined, system texts left out."""
    turns: list[tuple[str, list[str]]] = []
    for message in messages:
        if message.role in SYSTEM_ROLES or _silent(message):
            continue
        role = "assistant" if message.role == "assistant" else "user"
        if turns and turns[-1][0] == role:
            turns[-1][1].append(message.text)
        else:
            turns.append((role, [message.text]))
    return [(role, "\n\n".join(texts)) for role, texts in turns]


def _silent(message: Message) -> bool:
    """Whether it has no content at all, like a model's reasoning, which some APIs send as a message of its own."""
    return message.role == "assistant" and message.content is None


def _refuse(chat: Chat) -> None:
    for name in ("tools", "functions", "tool_choice"):
        if name in chat.params and msgspec.json.decode(chat.params[name]) not in (None, [], "none", "auto"):
            raise NoPlace(f"{name} can't be given to a base model: its prompt has no place for tools")
    asked = False
    for i, message in enumerate(chat.messages):
        if message.tool:
            raise NoPlace(
                f"messages[{i}] calls a tool or carries its result: a base model's prompt has no place for it"
            )
        if not isinstance(message.content, str) and message.media:
            raise NoPlace(
                f"messages[{i}] holds a part of type {message.media[0]!r}: a base model's prompt is text only"
            )
        asked = asked or not (message.role in SYSTEM_ROLES or _silent(message))
    if not asked:
        raise NoPlace("messages holds no turn to answer")
