"""The dates, weekdays and times in a text: "3 May", "2025-05-03", "le 3 mai", "5月3日", "Friday", "6:30 pm"."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache

from prompt_opt.gate.language import tables

_TIME = re.compile(
    r"\b(\d{1,2})(?::|\s?h\s?)(\d{2})\b\s*(am|pm|a\.m\.|p\.m\.)?|\b(\d{1,2})\s*(am|pm|a\.m\.|p\.m\.)\b", re.IGNORECASE
)
_ISO = re.compile(r"\b(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})\b")
_SLASHED = re.compile(r"\b(\d{1,2})[/.](\d{1,2})[/.](\d{2,4})\b")
_ZH_DATE = re.compile(r"(?:(\d{4})年)?(\d{1,2})月(?:份)?(?:(\d{1,2})[日号])?")
_ZH_DAY = re.compile(r"(?<![一每两几])(?:周|星期|礼拜)([一二三四五六日天])")
# Months that are words as well (or short): a day or a year has to stand beside them.
_ALSO_WORDS = frozenset({
    "may", "march", "mars", "mayo", "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec",
    "janv", "févr", "avr", "juil", "déc", "ene", "abr", "ago", "dic", "okt", "dez",
})  # fmt: skip


def take(text: str, pattern: re.Pattern[str], keep: Callable[[re.Match[str]], bool]) -> str:
    """The text with the matches that `keep` took blanked out."""
    return pattern.sub(lambda m: " " * len(m[0]) if keep(m) else m[0], text)


@cache
def _months() -> tuple[re.Pattern[str], Mapping[str, int]]:
    names = {
        name.lower(): at
        for table in tables().values()
        for at, forms in enumerate(str(table.get("months", "")).split(), 1)
        for name in forms.split("|")
    }
    month = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    day = r"(?<![\d.,:])(?P<before>\d{1,2})(?:st|nd|rd|th|er|\.|º)?\s*(?:de\s+|of\s+)?"
    after = r"\s+(?P<after>\d{1,2})(?:st|nd|rd|th)?(?![\d:.,]\d|\d)"
    year = r",?\s*(?:de\s+|del\s+|of\s+)?(?P<year>\d{4})\b"
    span = r"(?:(?<![\d.,:])(?P<first>\d{1,2})\.?\s*(?:to|until|and|bis(?: zum)?|und|au|à|et|al|a|y|-|–)\s*(?=\d))?"
    return re.compile(rf"{span}(?:{day})?\b(?P<month>{month})\b\.?(?:{after})?(?:{year})?", re.IGNORECASE), names


@cache
def _weekdays() -> tuple[re.Pattern[str], Mapping[str, int]]:
    names = {
        name.lower(): at
        for table in tables().values()
        for at, forms in enumerate(str(table.get("weekdays", "")).split(), 1)
        for name in forms.split("|")
    }
    return re.compile(rf"\b({'|'.join(map(re.escape, names))})\b", re.IGNORECASE), names


def dates(text: str, out: dict[str, str]) -> str:
    """Put the dates of a text into `out`; the text with them blanked out."""

    def add(m: re.Match[str], year: str | None, month: int, day: str | None) -> bool:
        out[f"{day and int(day)}.{month}" if day else f"month {month}"] = m[0].strip()
        if year:
            out[f"year {int(year)}"] = m[0].strip()
        return True

    pattern, months = _months()

    def named(m: re.Match[str]) -> bool:
        day = m["before"] or m["after"]
        beside = m["before"] or m["year"] or (day and m["month"][0].isupper())  # "al mar 5 segundos"
        if not beside and m["month"].lower() in _ALSO_WORDS:
            return False
        if m["first"]:
            add(m, None, months[m["month"].lower()], m["first"])
        return add(m, m["year"], months[m["month"].lower()], day)

    def slashed(m: re.Match[str]) -> bool:
        out["/".join(str(int(g)) for g in m.groups())] = m[0]
        return True

    def time(m: re.Match[str]) -> bool:
        hour, minute = int(m[1] or m[4]), int(m[2] or 0)
        half = (m[3] or m[5] or "").lower()
        hour += 12 * (half.startswith("p") and hour < 12) - 12 * (half.startswith("a") and hour == 12)
        out[f"{hour}:{minute:02}"] = m[0].strip()
        return True

    def weekday(m: re.Match[str]) -> bool:
        out[f"weekday {days[m[1].lower()]}"] = m[0]
        return True

    def zh_day(m: re.Match[str]) -> bool:
        out[f"weekday {'一二三四五六日'.find(m[1].replace('天', '日')) + 1}"] = m[0]
        return True

    text = take(text, _ISO, lambda m: add(m, m[1], int(m[2]), m[3]))
    text = take(text, _SLASHED, slashed)
    text = take(text, _ZH_DATE, lambda m: add(m, m[1], int(m[2]), m[3]))
    if not months.keys().isdisjoint(_words(text)):  # the patterns of names are the slow ones
        text = take(text, pattern, named)
    text = take(text, _TIME, time)
    day_pattern, days = _weekdays()
    if not days.keys().isdisjoint(_words(text)):
        text = take(text, day_pattern, weekday)
    return take(text, _ZH_DAY, zh_day)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def is_date_word(word: str) -> bool:
    """Whether a small-letter word is the name of a month or a weekday."""
    return word in _months()[1] or word in _weekdays()[1]
