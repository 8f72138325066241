"""Where a base model's answer ends: the stops of the layout and of the client, found in a stream of pieces.

An engine's own `stop` saves it work; this is what makes the answer right, whatever the engine does with stops and
wherever a stop is split over chunks. Nothing is removed but the stop, the layout's closing fence, and, where the
layout has no fence of its own, the blank lines before the next turn.

It reads one character at a time and keeps a few counters, so the pieces that a text comes in make no difference.
"""

from __future__ import annotations

import re
from collections import deque
from functools import lru_cache
from typing import Literal


class Ending:
    """Reads one choice's text in pieces and passes on what surely belongs to the answer.

    Args:
        stops: the layout's stops, each beginning with a newline; the start of the answer counts as a line start.
        fence: the fence that the answer stands in. One of four or more ends the answer by its own line; one of
            three, which code blocks use as well, is removed at the end if it is the one left open.
        client: the client's stop strings, which may stand anywhere.
    """

    def __init__(self, stops: tuple[str, ...], fence: str = "", client: tuple[str, ...] = ()) -> None:
        self.ended = False
        self.stop = ""  # the client's stop string that ended the text
        self.length = 0  # characters of the answer passed on so far
        self._news, longest = _scan(stops, client)
        self._anchored = [_Stop(stop, _begun(stop)) for stop in stops]
        self._stops = [*self._anchored, *[_Stop(stop) for stop in client if stop]] if client else self._anchored
        self._tail = _Tail(fence)
        # Where the answer would end before each of the last characters; before the first one, at the start.
        self._cuts: deque[int] = deque((0,), longest)
        self._held: list[str] = []

    def feed(self, piece: str) -> str:
        """Take the next piece; return what can be passed on. After `ended`, nothing is."""
        if self.ended or not piece:
            return ""
        if self._passes(piece):
            self.length = self._tail.at = self.length + len(piece)
            return piece
        self._held.append(piece)
        i = 0
        while i < len(piece):
            i = self._skip(piece, i)
            if i < len(piece) and (end := self._step(piece[i])) is not None:
                self.ended = True
                return self._pass(end)
            i += 1
        return self._pass(min([self._tail.start, *(self._cuts[-stop.size] for stop in self._stops if stop.size)]))

    def close(self) -> str:
        """The engine has ended: return what was held back, without the closing fence."""
        if self.ended:
            return ""
        self.ended = True
        return self._pass(self._tail.cut)

    def _passes(self, piece: str) -> bool:
        """Whether it is more of a line of text, with nothing held back before it and nothing that matters in it."""
        if not self._tail.plain or self.length != self._tail.at:
            return False
        for stop in self._stops:
            if stop.size:
                return False
        return self._news.search(piece) is None

    def _skip(self, piece: str, i: int) -> int:
        """The next character that matters: inside a line of text, the newline or what a stop begins with."""
        if not self._tail.plain:
            return i
        for stop in self._stops:
            if stop.size:
                return i
        news = self._news.search(piece, i)
        j = news.start() if news else len(piece)
        self._tail.at += j - i
        return j

    def _step(self, char: str) -> int | None:
        """Take a character; return where the answer ends if it has ended now."""
        self._cuts.append(self._tail.cut)
        end = self._tail.step(char)
        done = [stop for stop in self._stops if stop.step(char)]
        if not done:
            return end
        longest = max(done, key=lambda stop: len(stop.text))
        self.stop = "" if longest in self._anchored else longest.text
        return self._cuts[-len(longest.text)]

    def _pass(self, end: int) -> str:
        """The text up to `end` that has not been passed on."""
        if end <= self.length:
            return ""
        text = "".join(self._held)
        size = end - self.length
        self._held = [text[size:]]
        self.length = end
        return text[:size]


class _Stop:
    """One stop string, and how much of it the text so far ends with (Knuth, Morris and Pratt)."""

    __slots__ = ("_back", "size", "text")

    def __init__(self, text: str, size: int = 0) -> None:
        self.text, self.size, self._back = text, size, _back(text)

    def step(self, char: str) -> bool:
        """Take a character; whether the stop is complete."""
        while self.size and self.text[self.size] != char:
            self.size = self._back[self.size - 1]
        self.size += self.text[self.size] == char
        return self.size == len(self.text)


@lru_cache(256)
def _back(stop: str) -> tuple[int, ...]:
    """For each prefix of a stop, the length of the longest one that it ends with."""
    back, size = [0] * len(stop), 0
    for i in range(1, len(stop)):
        while size and stop[i] != stop[size]:
            size = back[size - 1]
        size += stop[i] == stop[size]
        back[i] = size
    return tuple(back)


@lru_cache(256)
def _begun(stop: str) -> int:
    """How much of a stop a line's start is, which is as good as a newline before it."""
    found = _Stop(stop)
    found.step("\n")
    return found.size


@lru_cache(256)
def _scan(stops: tuple[str, ...], client: tuple[str, ...]) -> tuple[re.Pattern[str], int]:
    """What finds the next newline or first character of a stop, and the length of the longest stop."""
    texts = [stop for stop in (*stops, *client) if stop]
    firsts = "".join(dict.fromkeys([stop[0] for stop in texts]))
    return re.compile(f"[{re.escape(firsts)}\n]"), max(map(len, texts), default=1)


class _Tail:
    """What the text so far ends with: a closing fence or blank lines, that may turn out not to be the answer's.

    `at` counts the characters; positions are between them. A line is a "run" while it holds fence characters alone,
    "bare" when blanks follow three of them, "info" when other text does, and "text" otherwise.
    """

    at = 0
    _line: Literal["run", "bare", "info", "text"] = "run"
    _run = 0
    _newline = 0  # where the line's own newline begins
    _blank = 0  # where the blank lines before it begin
    _inside = 0  # the run that opened the code block that the text is in; followed under a fence of three only
    _open: tuple[int, int] | None = None  # a whole line of fence, with nothing after it yet: position, run

    def __init__(self, fence: str) -> None:
        self._mark, self._width = fence[:1], len(fence)
        self._lazy = len(fence) == 3

    @property
    def plain(self) -> bool:
        """Nothing but a newline can make a difference now."""
        return self._line == "text" and self._open is None

    @property
    def start(self) -> int:
        """Up to here the text can't be part of a closing fence, or of blank lines that are the layout's."""
        if self._open:
            return self._open[0]
        if self._line == "run" and not self._run:
            return self._newline if self._width > 3 else self._blank
        return self._newline if self._line in ("run", "bare") and not self._inside else self.at

    @property
    def cut(self) -> int:
        """Where the answer ends if the text ends here."""
        if self._open:
            return self._open[0]
        if self._line == "run" and not self._run and self._width <= 3:
            return self._blank
        return self._newline if self._closes and not self._inside else self.at

    @property
    def _closes(self) -> bool:
        return self._line in ("run", "bare") and self._run >= max(self._width, 3, self._inside)

    def step(self, char: str) -> int | None:
        """Take a character; return where the answer ends if its closing fence is complete."""
        end = None
        if char == "\n":
            end = self._end_line()
        else:
            self._go_on(char)
        self.at += 1
        return end

    def _end_line(self) -> int | None:
        if self._closes and self._width > 3:
            return self._newline
        if self._line != "run" or self._run:
            self._blank = self.at
        if self._inside:
            self._inside = 0 if self._closes else self._inside
        elif self._lazy and self._line == "info":
            self._inside = self._run
        elif self._lazy and self._closes:
            self._open = (self._newline, self._run)
        self._line, self._run, self._newline = "run", 0, self.at
        return None

    def _go_on(self, char: str) -> None:
        blank = char in " \t\r"
        if self._open and not blank:
            # Text follows the line of fence, so it was the opening of a code block.
            self._inside, self._open = self._open[1], None
        if self._line == "run" and char == self._mark:
            self._run += 1
        elif self._line in ("run", "bare") and blank and self._run >= 3:
            self._line = "bare"
        elif self._line == "info" or (self._line in ("run", "bare") and self._run >= 3 and self._lazy):
            self._line = "text" if char == self._mark else "info"
        else:
            self._line = "text"
