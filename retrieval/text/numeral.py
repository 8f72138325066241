"""Numbers as statutes write them, in digits of any script, Han or Roman, to integers that compare."""

from __future__ import annotations

import re
import unicodedata

HAN = "〇零○一二三四五六七八九十百千两兩廿卅"
_DIGITS = {c: i for i, c in enumerate("〇一二三四五六七八九")} | {"零": 0, "○": 0, "两": 2, "兩": 2}
_UNITS = {"十": 10, "百": 100, "千": 1000}
_ROMAN = {"i": 1, "v": 5, "x": 10, "l": 50, "c": 100, "d": 500, "m": 1000}
_LONG = 18  # digits; a longer run numbers no article, and Python refuses to read one of thousands
_WELL_FORMED = re.compile(r"m{0,3}(cm|cd|d?c{0,3})(xc|xl|l?x{0,3})(ix|iv|v?i{0,3})")
# "Article premier", "Artículo único", "Erster Abschnitt": the first few, in the languages that spell them out.
_WORDS = {
    "premier": 1, "première": 1, "1er": 1, "1re": 1, "unique": 1, "único": 1, "unico": 1, "primero": 1, "primo": 1,
    "primeira": 1, "primeiro": 1, "preliminar": 0, "préliminaire": 0, "liminaire": 0, "one": 1, "two": 2, "three": 3,
    "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "segundo": 2, "tercero": 3,
    "primera": 1, "segunda": 2, "tercera": 3, "cuarta": 4, "quinta": 5, "sexta": 6, "séptima": 7, "octava": 8,
    "novena": 9, "décima": 10, "terceira": 3, "quarta": 4, "sétima": 7, "oitava": 8, "nona": 9,
    "первая": 1, "الأولى": 1, "الثانية": 2, "الثالثة": 3, "الرابعة": 4, "الخامسة": 5, "السادسة": 6, "السابعة": 7,
    "الثامنة": 8, "التاسعة": 9, "العاشرة": 10,
}  # fmt: skip


# The first is of 11, 21, … alone.
_ARABIC_UNITS = ["الحادية", "الثانية", "الثالثة", "الرابعة", "الخامسة", "السادسة", "السابعة", "الثامنة", "التاسعة"]
_ARABIC_TENS = {"عشرة": 10, "عشر": 10, "والعشرون": 20, "والثلاثون": 30, "والأربعون": 40, "والخمسون": 50}
_ARABIC = re.compile(rf"({'|'.join(_ARABIC_UNITS)})\s({'|'.join(_ARABIC_TENS)})(?!\w)")


def ordinals(text: str) -> str:
    """The text with Arabic ordinals of two words as digits: الثانية عشرة is 12."""
    return _ARABIC.sub(lambda found: str(_ARABIC_UNITS.index(found[1]) + 1 + _ARABIC_TENS[found[2]]), text)


def value(text: str) -> int | None:
    """The number that a text is: 12, ١٢, １２, 十二, 一百三十三, 一二, XII, premier.

    None for what is no number, or too long for the number of an article.
    """
    text = unicodedata.normalize("NFKC", text).strip().lower().rstrip("ºª°.")
    if not text:
        return None
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > _LONG:
        return None
    if text.isdecimal():
        return int(text)
    if all(c in HAN for c in text):
        return han(text)
    if _WELL_FORMED.fullmatch(text):
        return _roman(text)
    return None


def behind(text: str) -> int | None:
    """The value of what follows a number: one Latin letter counts by its place, so the c of § 312c is 3."""
    letter = text.lower()
    return ord(letter) - 96 if len(letter) == 1 and "a" <= letter <= "z" else value(text)


def han(text: str) -> int:
    """一百三十三 is 133, and so is 一三三."""
    text = text.replace("廿", "二十").replace("卅", "三十")
    if not any(c in _UNITS for c in text):
        return int("".join(str(_DIGITS[c]) for c in text))
    total, digit = 0, 0
    for c in text:
        if c in _UNITS:
            total += (digit or (1 if total == 0 or c == "十" else 0)) * _UNITS[c]
            digit = 0
        else:
            digit = _DIGITS[c]
    return total + digit


def _roman(text: str) -> int:
    values = [_ROMAN[c] for c in text]
    return sum(-v if v < max(values[i:]) else v for i, v in enumerate(values))
