"""Where a base model's answer ends: the stops of the layout and of the client, found in a stream of pieces.

An engine's own `stop` saves it work; this is what makes the answer right, whatever the engine does with stops and
wherever a stop is split over chunks. Nothing is removed but the stop and the layout's closing fence.
"""

from __future__ import annotations

import re


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
        self._stops = [(stop, True) for stop in stops] + [(stop, False) for stop in client if stop]
        self._lazy = len(fence) == 3
        closing = re.escape(fence[:1]) + "{%d,}" % len(fence)
        self._closing = re.compile(rf"\n{closing}[ \t]*(?=\n)") if len(fence) > 3 else None
        self._last = re.compile(rf"\n{closing}\s*\Z") if fence else None
        # What may yet become a closing fence: a newline and a run of its characters, at the end.
        self._maybe = re.compile(rf"\n{re.escape(fence[:1])}*[ \t]*\Z") if fence else re.compile(r"\n\s*\Z")
        self._text = "\n"  # all text so far, after a newline that is not the model's
        self._passed = 1  # how much of it has been passed on

    @property
    def length(self) -> int:
        """Characters of the answer passed on so far."""
        return self._passed - 1

    def feed(self, piece: str) -> str:
        """Take the next piece; return what can be passed on. After `ended`, nothing is."""
        if self.ended or not piece:
            return ""
        before = len(self._text)
        self._text += piece
        # A stop found now must end in the new piece, so it can't begin further back than its own length.
        start = max(self._passed - 1, 0)
        if (end := self._find(start)) is not None:
            self.ended = True
            return self._pass(self._without_fence(end))
        return self._pass(self._safe(min(start, before)))

    def close(self) -> str:
        """The engine has ended: return what was held back, without the closing fence."""
        if self.ended:
            return ""
        self.ended = True
        return self._pass(self._without_fence(len(self._text)))

    def _pass(self, end: int) -> str:
        end = max(end, self._passed)
        out, self._passed = self._text[self._passed : end], end
        return out

    def _find(self, start: int) -> int | None:
        """The index where the answer ends, or None. Blank lines before a layout's stop are the layout's."""
        found = []
        for stop, anchored in self._stops:
            i = self._text.find(stop, start if anchored else max(start, self._passed))
            while anchored and i > self._passed and self._text[i - 1] == "\n":
                i -= 1
            if i >= 0:
                found.append(i)
        if self._closing and (match := self._closing.search(self._text, start)):
            found.append(match.start())
        return min(found, default=None)

    def _safe(self, start: int) -> int:
        """Up to where the text can't be part of a stop or of the closing fence any more."""
        text = self._text
        end = len(text)
        for stop, _ in self._stops:
            for size in range(min(len(stop) - 1, len(text) - start), 0, -1):
                if text.endswith(stop[:size]):
                    end = min(end, len(text) - size)
                    break
        if match := self._maybe.search(text, start, len(text)):
            end = min(end, match.start())
        # A last line of three backticks may be the closing one: it waits until other text follows it.
        if self._lazy and self._last and (match := self._last.search(text, start, end)):
            end = match.start()
        while end > start and text[end - 1] == "\n":
            end -= 1
        return end

    def _without_fence(self, end: int) -> int:
        """`end`, moved before the closing fence where the text before `end` closes with it."""
        if self._last is None or not (match := self._last.search(self._text, max(self._passed - 1, 0), end)):
            return end
        if self._lazy:
            inside = False
            for line in self._text[1 : match.start()].split("\n"):
                if line.startswith("```"):
                    inside = not inside if line.strip() == "```" or not inside else inside
            if inside:
                return end
        return match.start()
