"""Finds the marks of an answer while it passes, and takes unknown ones out where it is told to.

Whatever the pieces that an answer comes in, what goes out and what is found are those of the whole answer. Where marks
may be taken out, what may become one is held back until it is one or none: never more characters than the longest has.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from prompt_opt.citation.marks import PAIRS, Part, Rules

Unknown = Literal["keep", "remove"]
_OPENERS = "".join(map(re.escape, PAIRS))
_NEXT = re.compile(rf"`+| ?[{_OPENERS}]| \Z")
_STOP = re.compile(rf"[\n{_OPENERS}{''.join(map(re.escape, PAIRS.values()))}]")
_FENCE = 3  # backticks that begin and end a block of code


class Mark(NamedTuple):
    """A mark in an answer: characters `start` to `end` of the engine's text."""

    start: int
    end: int
    parts: tuple[Part, ...]


class Scanner:
    """Reads one text of an answer, piece by piece.

    Args:
        rules: what the prompt shows.
        unknown: what becomes of the mark of a rule that it does not show.
        given: the client's own text: brackets that stand in it are the client's, not marks.
    """

    def __init__(self, rules: Rules, unknown: Unknown = "keep", given: str = "") -> None:
        self._rules, self._remove, self._given = rules, unknown == "remove", given
        self.marks: list[Mark] = []
        self._texts: list[str] = []
        self._held = ""  # may become a mark
        self._at = 0  # characters of the engine's text before `_held`
        self._before = self._out = "\n"  # the character before `_held`; the last that has passed
        self._ticks = 0  # backticks that end what has been read
        self._code = False  # inside a block of code
        self._gap = False  # a mark was taken out at a line's begin, so a blank is not to begin it

    @property
    def text(self) -> str:
        """The engine's own text, so far."""
        return "".join(self._texts)

    def feed(self, piece: str) -> str:
        """What of the answer can pass now."""
        self._texts.append(piece)
        passed = self._read(self._held + piece, last=False)
        return passed if self._remove else piece

    def close(self) -> str:
        """The rest, at the answer's end."""
        rest = self._read(self._held, last=True)
        return rest if self._remove else ""

    def _read(self, text: str, *, last: bool) -> str:
        out: list[str] = []
        at = 0
        for end, passed in self._steps(text, last=last):
            out.append(self._through(passed))
            at = end
        self._held, self._at = text[at:], self._at + at
        self._before = text[at - 1] if at else self._before
        return "".join(out)

    def _steps(self, text: str, *, last: bool) -> Iterator[tuple[int, str]]:
        """Where each step ends, and what passes of it; what is behind the last one is held back."""
        at = 0
        while (found := _NEXT.search(text, at)) is not None:
            begin, opener = found.start(), found.end() - 1
            if begin > at:
                self._ticks = 0
                yield begin, text[at:begin]
            at = begin
            if text[begin] == "`":
                self._fence(len(found[0]))
                yield (at := found.end()), found[0]
                continue
            if text[opener] == " ":
                if last or self._code or not self._remove:
                    break
                return
            end = None if self._code else self._closed(text, opener, last=last)
            if end == -1:
                return
            self._ticks = 0
            mark = None if end is None else self._mark(text, opener, end)
            passed = found[0]
            if end is None or mark is None:
                end = found.end()
            else:
                passed = self._mended(text, begin, opener, end, mark)
            yield (at := end), passed
        if len(text) > at:
            self._ticks = 0
            yield len(text), text[at:]

    def _through(self, text: str) -> str:
        if not text:
            return text
        if self._gap and text[0] == " ":
            text = text[1:]
        self._gap, self._out = False, text[-1:] or self._out
        return text

    def _fence(self, ticks: int) -> None:
        before, self._ticks = self._ticks, self._ticks + ticks
        if before < _FENCE <= self._ticks:
            self._code = not self._code

    def _closed(self, text: str, opener: int, *, last: bool) -> int | None:
        """Where the bracket at `opener` has closed; None for never, -1 where that is still to come."""
        inside, most = opener + 1, self._rules.longest
        stop = _STOP.search(text, inside, inside + most)
        if stop is None:
            return -1 if not last and len(text) - inside < most else None
        if stop[0] != PAIRS[text[opener]]:
            return None
        # What follows tells a mark from a link's text.
        return -1 if stop.end() == len(text) and not last else stop.end()

    def _mark(self, text: str, opener: int, end: int) -> Mark | None:
        """The mark between two places, if it is one."""
        parts = self._rules.read(text[opener], text[opener + 1 : end - 1])
        if not parts:
            return None
        before = text[opener - 1] if opener else self._before
        if all(part.rule is None for part in parts):
            link = text[opener] == "[" and (before in "!\\" or text[end : end + 1] == "(")
            index = before.isalnum() and all(part.text.isdigit() for part in parts)  # a[1]
            if link or index or text[opener:end] in self._given:
                return None
        mark = Mark(self._at + opener, self._at + end, parts)
        self.marks.append(mark)
        return mark

    def _mended(self, text: str, begin: int, opener: int, end: int, mark: Mark) -> str:
        """What passes in the place of a mark and of the blank before it, if there is one."""
        known = [part.text for part in mark.parts if part.rule is not None]
        if not self._remove or len(known) == len(mark.parts):
            return text[begin:end]
        blank = text[begin:opener]
        if known:
            return f"{blank}{text[opener]}{', '.join(known)}{text[end - 1]}"
        if blank:
            return blank if text[end : end + 1].isalnum() else ""
        self._gap = self._out == "\n"
        return ""
