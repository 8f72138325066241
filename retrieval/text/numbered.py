"""Policies, contracts and handbooks: sections counted 1, 1.1, 1.1.1, or I, II, or A, B, or 一、二、.

A list of items is counted too; sections have a title, or a number of two levels, and text of their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise

from retrieval.text.heading import Head, led, numbers, plain
from retrieval.text.numeral import HAN, value
from retrieval.text.piece import Document

ENDS = tuple('.!?。！？；;：:)）”"」】』›»|>')
# "1.1 …": a rule of a policy or a contract, with or without a title.
_DEEP = re.compile(r"(\d{1,3}(?:\.\d{1,3}){1,4}[a-z]?)[.)]?[ \t　]+(?=[^\W\d_]|[\"“«„'‘(（])")
_COUNTED = re.compile(r"([IVXLC]{1,7}|[A-Z])[.)][ \t]+(?=\S)")
_NUMBERED = re.compile(r"(\d{1,3}(?:\.\d{1,3})*[a-zA-Z]?)(?:[.)．]|(?=\s))[ \t　]*(?=\S)")
_HAN_NUMBERED = re.compile(rf"([{HAN}]{{1,4}})、\s*(?=\S)")


# How a line begins that one of the functions below may know; most do not, and this is the cheapest question.
_COUNTS = re.compile(rf"[\s*_\ufeff\u00ad\u200b]*(?:\d|[A-Z]{{1,7}}\\?[.)]|[{HAN}]{{1,4}}、)")


def sections(document: Document, parts: Mapping[int, Head]) -> dict[int, Head]:
    """The numbered heads of a document without articles, with its `parts`.

    Chapters I, A or 一 have 1, 2, 3 in them, or one of these is all.
    """
    digits = _digits(document, parts)
    for word in ("、", "I", "A"):
        outer = _series(document, word)
        if outer:
            inner = _digits(document, outer) if word != "、" else {}
            if not inner:
                return outer
            chapters = {i: replace(h, kind="part") for i, h in outer.items()}
            return dict(sorted((chapters | inner).items()))
    found = digits or _rules(document)
    return dict(sorted({**parts, **found}.items())) if found else {}


def _series(document: Document, word: str) -> dict[int, Head]:
    """Heads counted by Han numbers, Roman ones or letters: each the next, two at least, each with text of its own."""
    reader: Callable[[str], Head | None] = numbered if word == "、" else counted
    found: dict[int, Head] = {}
    for i, line in enumerate(document.lines):
        h = None if line.verbatim or line.level else reader(line.text)
        if h is not None and word in ("I", "A") and h.label in ("I", "V", "X", "L", "C"):  # a letter and a Roman number
            h = replace(h, word=word, number=((value(h.label) if word == "I" else ord(h.label) - 64) or 0,))
        if h is None or h.word != word or h.number != (len(found) + 1,) or not _apart(document, i, found, h):
            continue
        found[i] = h
    return found if len(found) >= 2 and _filled(document, found) else {}


def _digits(document: Document, outer: Mapping[int, Head]) -> dict[int, Head]:
    """Heads like "1. Title" and "1.2 Text" whose numbers go on from each other, or begin anew in an outer part."""
    found: dict[int, Head] = {}
    last: tuple[int, ...] = (0,)
    before: tuple[int, ...] = (0,)  # the last number of the part above
    for i, line in enumerate(document.lines):
        if i in outer:
            before, last = max(before, last) if last == (0,) else last, (0,)
            continue
        h = None if line.verbatim or line.level else numbered(line.text) or deep(line.text)
        if h is None or h.word != "1" or not _apart(document, i, {**outer, **found}, h):
            continue
        following = next((n for n in document.lines[i + 1 :] if n.text.strip()), None)
        inner = (numbered(following.text) or deep(following.text)) if following is not None else None
        nested = inner is not None and inner.number[: len(h.number)] == h.number and len(inner.number) > len(h.number)
        own = len(h.number) > 1 or (following is not None and (nested or inner is None))
        if own and (
            _next(h.number, last)
            or (last == (0,) and _next(h.number, before))
            or (h.number > last and len(found) > 1 and _blank_before(document, i))
        ):
            found[i], last = h, h.number
    return found if len(found) >= 2 else {}


def _next(number: tuple[int, ...], last: tuple[int, ...]) -> bool:
    """2 after 1, 1.1 after 1, 1.2 after 1.1, 2 after 1.4.3; 4a after 4."""
    if number in {(*last, 1), (*last, 0)}:
        return True
    depth = len(number)
    if depth > len(last):
        return last == (0,) and set(number[1:]) <= {1} and number[0] == 1
    return number[:-1] == last[: depth - 1] and number[-1] == last[depth - 1] + 1


def _blank_before(document: Document, i: int) -> bool:
    return i == 0 or not document.lines[i - 1].text.strip()


def _apart(document: Document, i: int, found: Mapping[int, Head], h: Head) -> bool:
    """Whether a head may stand here: after a blank line, another head, or a paragraph that has ended."""
    if _blank_before(document, i) or (i - 1) in found:
        return True
    before = document.lines[i - 1].text.strip()
    first = not any(document.lines[j].text.strip() for j in range(i - 1))  # the document's name stands above
    return first or before.endswith(ENDS[:5]) or (not document.wrapped and h.alone)


def _filled(document: Document, found: Mapping[int, Head]) -> bool:
    """Whether each head but the last is followed by text before the next."""
    places = list(found)
    return all(
        any(line.text.strip() for line in document.lines[i + 1 : j])
        for i, j in pairwise(places)
    )  # fmt: skip


def _titled(document: Document, i: int) -> bool:
    """Whether a line that stands alone above is the title of this one."""
    return _blank_before(document, i - 1) and _titles(document.lines[i - 1].text.strip(), 0)


def _rules(document: Document) -> dict[int, Head]:
    """Paragraphs "1. …", "2. …" of a text whose rules have no titles: three at least, apart, counted from 1."""
    found: dict[int, Head] = {}
    for i, line in enumerate(document.lines):
        h = item(line.text) if not line.verbatim and not line.level else None
        if h is not None and h.number == (len(found) + 1,) and (_blank_before(document, i) or _titled(document, i)):
            found[i] = h
    return found if len(found) >= 3 else {}


def numbered(text: str) -> Head | None:
    """The head that a short line like "1. Title", "2.3 Title" or "一、总则" may be."""
    if not _COUNTS.match(text):
        return None
    text = plain(text)
    found = _NUMBERED.match(text) or _HAN_NUMBERED.match(text)
    if not found or not _titles(text, found.end()):
        return None
    rest = text[found.end() :]
    word = "、" if found.re is _HAN_NUMBERED else "1"
    return Head("article", word, found[1], numbers(found[1]), rest, True)


def _titles(text: str, at: int) -> bool:
    """Whether what follows a number is a title: short, with a capital where its script has them, and no sentence.

    Capitals throughout may end in a full stop.
    """
    rest = text[at:].strip()
    if not rest or len(text) > 120 or led(text):
        return False
    begins = rest[0].isupper() or not (rest[0].islower() or rest[0].isdigit() or rest[0] in "(（-–—.,%")
    return begins and (rest[-1] not in ".;:,。；：，、!?！？" or (rest[-1] == "." and rest.isupper()))


def counted(text: str) -> Head | None:
    """The head that a short line like "IV. Gifts" or "B. Leave" may be; `word` says by which it is counted."""
    if not _COUNTS.match(text):
        return None
    text = plain(text)
    found = _COUNTED.match(text)
    if not found or not _titles(text, found.end()):
        return None
    number = value(found[1]) if len(found[1]) > 1 or found[1] == "I" else ord(found[1]) - 64
    rest = text[found.end() :]
    return Head("article", "I" if set(found[1]) <= set("IVXLC") else "A", found[1], (number or 0,), rest, True)


def deep(text: str) -> Head | None:
    """The number and text of a paragraph like "1.2 Badges are worn."."""
    if not _COUNTS.match(text):
        return None
    text = plain(text)
    found = _DEEP.match(text)
    if not found or led(text) or text[found.end()].islower():
        return None
    return Head("article", "1", found[1], numbers(found[1]), text[found.end() :])


def item(text: str) -> Head | None:
    """The number and text of a paragraph like "3. No person shall keep a dog."."""
    if not _COUNTS.match(text):
        return None
    found = re.match(r"(\d{1,3})\.\s+(?=\S)", plain(text))
    return Head("article", "1", found[1], (int(found[1]),), plain(text)[found.end() :]) if found else None
