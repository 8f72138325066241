"""The numbers that OpenDocument lists and headings carry by their styles: they stand in no paragraph's text."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from retrieval.text.archive import attribute, local
from retrieval.text.readers.counters import han, letters, roman

OUTLINE = "the document's outline"  # the style of headings; no list's name has a blank in it
_FORMATS: dict[str, Callable[[int], str]] = {
    "1": str, "i": roman, "I": lambda n: roman(n).upper(), "a": letters, "A": lambda n: letters(n).upper(),
    "一": han, "壹": han,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Level:
    """How one level of a list is numbered; `shown` levels stand in a label, the last ones down to this."""

    form: str
    prefix: str
    suffix: str
    shown: int
    start: int
    pattern: str  # "第%1%条", where the file states one
    bullet: bool


class Numbering:
    """Counts list items and headings as LibreOffice does; ask for each once, in order."""

    def __init__(self, *parts: Any) -> None:
        self._levels: dict[tuple[str, int], Level] = {}
        self._counts: dict[str, list[int]] = {}
        for root in (part for part in parts if part is not None):
            for style in root.iter():
                if local(style) in {"list-style", "outline-style"}:
                    name = attribute(style, "name") if local(style) == "list-style" else OUTLINE
                    levels = ((int(attribute(node, "level") or 1), node) for node in style if local(node))
                    self._levels |= {(name, depth): _level(node) for depth, node in levels}

    def restart(self, style: str) -> None:
        """A list of this style begins that does not continue an earlier one."""
        self._counts.pop(style, None)

    def label(self, style: str, depth: int, start: str = "") -> str:
        """What stands before the next item at this depth, from 1; "-" for a bullet, "" for nothing."""
        level = self._levels.get((style, depth))
        if level is None or level.bullet:
            return "-" if style != OUTLINE else ""
        counts = self._counts.setdefault(style, [])
        while len(counts) < depth:
            counts.append(self._start(style, len(counts) + 1) - 1)
        counts[depth - 1] = int(start) if start else counts[depth - 1] + 1
        del counts[depth:]
        return self._shown(style, level, counts)

    def _start(self, style: str, depth: int) -> int:
        level = self._levels.get((style, depth))
        return level.start if level else 1

    def _shown(self, style: str, level: Level, counts: list[int]) -> str:
        if level.pattern:
            return re.sub(r"%(\d+)%", lambda found: self._number(style, int(found[1]), counts), level.pattern).strip()
        if not level.form:
            return ""
        depths = range(max(1, len(counts) - level.shown + 1), len(counts) + 1)
        numbers = [number for depth in depths if (number := self._number(style, depth, counts))]
        return f"{level.prefix}{'.'.join(numbers)}{level.suffix}".strip()

    def _number(self, style: str, depth: int, counts: list[int]) -> str:
        level = self._levels.get((style, depth))
        if level is None or not level.form or depth > len(counts):
            return ""
        return _FORMATS.get(level.form[:1], str)(max(counts[depth - 1], 1))


def _level(node: Any) -> Level:
    return Level(
        attribute(node, "num-format"), attribute(node, "num-prefix"), attribute(node, "num-suffix"),
        int(attribute(node, "display-levels") or 1), int(attribute(node, "start-value") or 1),
        attribute(node, "num-list-format"), local(node) not in {"list-level-style-number", "outline-level-style"},
    )  # fmt: skip
