"""Finds lines that look like a turn's marker, in a time that grows with the text and with nothing else.

What looks like a marker is one: case, blanks, invisible characters and compatibility forms make no difference. A
pattern is made of each marker once; what a text is then searched with is a scan for the marker's first character.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

# Characters that end a line for some reader or other; only "\n" ends it for all.
BREAKS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
_BLANK_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"  # letters and symbols that print nothing
_MOST = 1024  # invisible characters between two letters of a marker; nobody reads on over more
_WINDOW = 2**19  # characters that one call of the engine of patterns scans, which holds the interpreter's lock


def escape(text: str, marker: str) -> str:
    """`text`, with a backslash before the first visible character of each line that begins with the marker.

    A line that is a marker but for its colon counts too; one that goes on ("# User guide") does not. A line begins
    after any of `BREAKS`, and all of them but "\\n" may also stand inside a marker.
    """
    ascii_only = text.isascii()
    pattern = _pattern(marker, ascii_only=ascii_only)
    if pattern is None:
        return text
    if ascii_only and not any(first in text for first in firsts(marker)):
        return text
    reach = (len(marker) + 2) * (_MOST + 1)
    key = _key(marker)
    starts = [
        m.start()
        for m in search(pattern, text, reach)
        if (m[0] == marker or _is(m, key)) and _begins_line(text, m.start())
    ]
    if not starts:
        return text
    pieces = [text[a:b] for a, b in zip([0, *starts], [*starts, len(text)], strict=True)]
    return "\\".join(pieces)


@lru_cache(64)
def firsts(marker: str) -> tuple[str, ...]:
    """What the visible part of whatever looks like a marker begins with, in a text of ASCII."""
    first = _key(marker)[:1]
    return (first,) if first == first.upper() else (first, first.upper())


def search(pattern: re.Pattern[str], text: str, reach: int) -> Iterator[re.Match[str]]:
    """The matches of a pattern, of at most `reach` characters each, a window at a time."""
    at = 0
    while at < len(text):
        end = at + _WINDOW
        for match in pattern.finditer(text, at, end + reach):
            if match.start() >= end:
                break
            yield match
            at = match.end()
        at = max(at, end)


def prepare(marker: str) -> None:
    """Make the patterns of a marker now rather than in a request: the first takes a look at all of Unicode."""
    for ascii_only in (True, False):
        _pattern(marker, ascii_only=ascii_only)


@lru_cache(4096)
def visible(char: str) -> str:
    """What a reader sees of a character, without its case: "" for blanks, controls, marks and format characters."""
    if "!" <= char <= "~":
        return char.lower()
    folded = unicodedata.normalize("NFKC", char).casefold()
    return "".join(c for c in folded if unicodedata.category(c)[0] not in "ZCM" and c not in _BLANK_LETTERS)


def _is(match: re.Match[str], key: str) -> bool:
    """Whether what was found is a marker: the pattern lets some visible characters pass as invisible."""
    seen, bare = "", key.rstrip(":")
    for at, char in enumerate(match[0], match.start() + 1):
        if more := visible(char):
            seen += more
            if seen.startswith(key) or (seen == bare and _ends_line(match.string, at)):
                return True
            if not key.startswith(seen):
                break
    return False


def _ends_line(text: str, at: int) -> bool:
    while at < len(text) and text[at] not in BREAKS and not visible(text[at]):
        at += 1
    return at == len(text) or text[at] in BREAKS


def _begins_line(text: str, at: int) -> bool:
    if at and text[at - 1] in BREAKS:
        return True
    while at > 0 and not visible(text[at - 1]):
        at -= 1
        if text[at] in BREAKS:
            return True
    return at == 0


# The code points that are looked at one by one, and those that are not: surrogates and private use print nothing, as do
# most beyond plane 1 (but compatibility ideographs). The rest, Han and Hangul, look like themselves.
_ASCII = (range(0x80),)
_TELLING = (
    range(0x3400),
    range(0xA000, 0xAC00),
    range(0xD7A4, 0xD800),
    range(0xF900, 0x20000),
    range(0x2F800, 0x2FA20),
)
_PASSED = ([0xD800, 0xF8FF], [0x20000, 0x2F7FF], [0x2FA20, 0x10FFFF])


class _Looks(NamedTuple):
    """How characters look: those that print nothing, as a class's inside; the others by what they print.

    "\\n" is left out of the first, and so is a character that looks like itself alone of the second. Beyond the Basic
    Multilingual Plane the class holds visible ones too, since hundreds of ranges would slow every scan down.
    """

    nothing: str
    alike: dict[str, str]


@lru_cache(2)
def _looks(*, ascii_only: bool) -> _Looks:
    """The looks of all characters, or of ASCII's."""
    nothing: list[list[int]] = []
    alike: dict[str, list[str]] = {}
    last_alike = 0
    for code in chain(*(_ASCII if ascii_only else _TELLING)):
        char = chr(code)
        kind = unicodedata.category(char)[0]
        plain = kind not in "ZCM" and not unicodedata.decomposition(char) and char.casefold() == char
        if (plain and char not in _BLANK_LETTERS) or code == 10:
            continue
        if seen := "" if kind == "C" else visible.__wrapped__(char):
            alike.setdefault(seen, []).append(char)
            last_alike = code
        elif nothing and (nothing[-1][1] == code - 1 or (code > 0xFFFF and last_alike < nothing[-1][1] > 0xFFFF)):
            nothing[-1][1] = code
        else:
            nothing.append([code, code])
    nothing += () if ascii_only else _PASSED
    ranges = "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in nothing)
    return _Looks(ranges, {seen: "".join(chars) for seen, chars in alike.items()})


@lru_cache(64)
def _pattern(marker: str, *, ascii_only: bool) -> re.Pattern[str] | None:
    """Matches what may be a marker and follows no visible character; None where no text can look like it."""
    looks = _looks(ascii_only=ascii_only)
    key = _key(marker)
    bare = key.rstrip(":")
    if ascii_only and not bare.isascii():
        return None
    skip = f"[{looks.nothing}]{{0,{_MOST}}}+"
    letters = _letters(looks, bare, 0, "", f"(?<![^{looks.nothing}\\n].)", skip)
    if bare == key:
        return re.compile(letters, re.DOTALL)
    blank = f"(?:(?![{BREAKS}])[{looks.nothing}]){{0,{_MOST}}}+"
    colon = _letters(looks, ":", 0, skip, "", skip)
    return re.compile(f"{letters}(?:{colon}|(?={blank}(?:[{BREAKS}]|\\Z)))", re.DOTALL)


def _letters(looks: _Looks, key: str, at: int, before: str, behind: str, skip: str) -> str:
    """The letters of a key from `at` on: `before` the first may stand something, and `behind` it something holds."""
    if at >= len(key):
        return ""
    steps: dict[int, list[str]] = {1: [key[at]]}
    for seen, chars in looks.alike.items():
        if key.startswith(seen, at) or (len(seen) > len(key) - at and seen.startswith(key[at:])):
            steps.setdefault(min(len(seen), len(key) - at), []).append(chars)
    options = [
        f"[{re.escape(''.join(chars))}]{behind}{_letters(looks, key, at + step, skip, '', skip)}"
        for step, chars in steps.items()
    ]
    return before + (options[0] if len(options) == 1 else f"(?:{'|'.join(options)})")


@lru_cache(64)
def _key(marker: str) -> str:
    return "".join(map(visible, marker))
