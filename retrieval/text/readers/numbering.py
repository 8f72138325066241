"""The numbers that Word writes before paragraphs ("第三条", "Article 4.", "(a)"): they stand in no paragraph's text."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from retrieval.text.readers.counters import han, letters, roman

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_FORMATS: dict[str, Callable[[int], str]] = {
    "decimal": str,
    "decimalZero": lambda n: f"{n:02}",
    "upperRoman": lambda n: roman(n).upper(),
    "lowerRoman": roman,
    "upperLetter": lambda n: letters(n).upper(),
    "lowerLetter": letters,
    "none": lambda n: "",
    "ordinal": lambda n: f"{n}{'th' if n % 100 in (11, 12, 13) else {1: 'st', 2: 'nd', 3: 'rd'}.get(n % 10, 'th')}",
    "decimalEnclosedCircle": lambda n: chr(0x245F + n) if 0 < n <= 20 else str(n),
    "ideographTraditional": lambda n: "甲乙丙丁戊己庚辛壬癸"[(n - 1) % 10],
    "ganada": lambda n: "가나다라마바사아자차카타파하"[(n - 1) % 14],
    "russianLower": lambda n: "абвгдежзиклмнопрстуфхцчшщэюя"[(n - 1) % 28],
    "russianUpper": lambda n: "АБВГДЕЖЗИКЛМНОПРСТУФХЦЧШЩЭЮЯ"[(n - 1) % 28],
    **dict.fromkeys(
        ("chineseCounting", "chineseCountingThousand", "japaneseCounting", "ideographDigital", "taiwaneseCounting",
         "taiwaneseCountingThousand"), han),
}  # fmt: skip


class Numbering:
    """Counts a document's numbered paragraphs as Word does; ask for each paragraph once, in order."""

    def __init__(self, document: Any) -> None:
        self._levels: dict[tuple[str, int], tuple[str, str, int]] = {}  # format, text, start
        self._lists: dict[str, str] = {}  # a number's id to its abstract one
        self._restarts: dict[tuple[str, int], int] = {}  # where a list begins anew, by its number's id and depth
        self._legal: set[tuple[str, int]] = set()  # levels whose outer numbers are digits, whatever those are
        self._counts: dict[str, list[int]] = {}
        try:
            root = document.part.numbering_part.element
        except (NotImplementedError, KeyError):  # python-docx makes none where the document has none
            return
        for abstract in root.iter(f"{_W}abstractNum"):
            for level in abstract.iter(f"{_W}lvl"):
                key = (abstract.get(f"{_W}abstractNumId"), int(level.get(f"{_W}ilvl")))
                start = _value(level, "start")
                self._levels[key] = (_value(level, "numFmt") or "decimal", _value(level, "lvlText"),
                                     int(start) if start else 1)  # fmt: skip
                if level.find(f"{_W}isLgl") is not None:
                    self._legal.add(key)
        for number in root.iter(f"{_W}num"):
            self._lists[number.get(f"{_W}numId")] = _value(number, "abstractNumId")
            for override in number.iter(f"{_W}lvlOverride"):
                if start := _value(override, "startOverride"):
                    self._restarts[number.get(f"{_W}numId"), int(override.get(f"{_W}ilvl"))] = int(start)

    def label(self, paragraph: Any) -> str:
        """What Word writes before this paragraph; "" for nothing, or for a bullet's sign."""
        key, depth = _place(paragraph)
        abstract = self._lists.get(key, "")
        level = self._levels.get((abstract, depth))
        if level is None:
            return ""
        counts = self._counts.setdefault(abstract, [])
        if (restart := self._restarts.pop((key, depth), None)) is not None and len(counts) > depth:
            counts[depth] = restart - 1
        elif restart is not None:
            counts += [self._start(abstract, at) - 1 for at in range(len(counts), depth)] + [restart - 1]
        while len(counts) <= depth:
            counts.append(self._start(abstract, len(counts)) - 1)
        counts[depth] += 1
        del counts[depth + 1 :]
        if level[0] == "bullet":
            return "-"

        def shown(found: re.Match[str]) -> str:
            at = int(found[1]) - 1
            how = self._levels.get((abstract, at), ("decimal", "", 1))[0]
            how = "decimal" if (abstract, depth) in self._legal else how
            return _FORMATS.get(how, str)(counts[at] if at == depth else max(counts[at], 1) if at < len(counts) else 1)

        return re.sub(r"%(\d)", shown, level[1]).strip()

    def _start(self, abstract: str, depth: int) -> int:
        return self._levels.get((abstract, depth), ("", "", 1))[2]


def _place(paragraph: Any) -> tuple[str, int]:
    """The number's id and depth, of the paragraph itself or else of its style."""
    properties, style, depth = paragraph._p.pPr, paragraph.style, ""
    while True:
        found = properties.find(f"{_W}numPr") if properties is not None else None
        if found is not None:
            depth = depth or _value(found, "ilvl")
            if key := _value(found, "numId"):
                return key, int(depth or 0)
        if style is None:
            return "", 0
        properties, style = style.element.find(f"{_W}pPr"), style.base_style


def _value(element: Any, name: str) -> str:
    found = element.find(f"{_W}{name}")
    return str(found.get(f"{_W}val") or "") if found is not None else ""
