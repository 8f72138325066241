"""A document's lines to pieces: one for each article, or for each section between headings.

Chapters are context: they stand in the titles of their articles, not in any text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from retrieval.text.heading import Head, plain
from retrieval.text.heads import CONTINUES, NAME, find
from retrieval.text.numbered import ENDS
from retrieval.text.piece import Document, Line, Piece

_CAPTION = re.compile(r"[（(][^（）()]{1,40}[）)]")
_NOTED = re.compile(r"[.;:!?]\d{1,2}$")  # a sentence's end with the mark of a note
_NUMBER_FIRST = re.compile(r"(\d+(?:\.\d+)*[a-zA-Z]?)[.)]?\s")


@dataclass(slots=True)
class _Section:
    """What is being gathered. `trail` are the parts of the title."""

    trail: list[str]
    key: str
    line: int
    text: list[str] = field(default_factory=list)


def pieces(document: Document) -> Iterator[Piece]:
    """The passages of a document, each with the key of its place; keys are distinct."""
    heads = find(document)
    title = str(document.labels.get("title") or "") or (_name(document, heads) if heads else "")
    keys: dict[str, int] = {}
    for section in _sections(document, heads, title):
        text = "\n".join(section.text).strip("\n")
        if not text.strip():
            continue
        fields = {**document.labels, "title": document.joint.join(section.trail), "text": text}
        yield Piece(section.line, fields, distinct_key(section.key, section.trail, keys))


def _sections(document: Document, heads: Mapping[int, Head], title: str) -> Iterator[_Section]:
    above: list[tuple[int, str]] = []  # headings
    parts: list[tuple[str, str]] = []  # chapters below them
    outer: list[tuple[str, str]] = []  # the numbered heads that 2.3 stands in, by their numbers
    first = [title] if title and (document.labels.get("title") or 0 not in _filled(document, heads)) else []
    captioned = _captioned(document, heads)
    structured = bool(heads) or any(line.level for line in document.lines)
    section, skipped = _Section(list(first), "0" if structured else "", 1), -1
    for at, line in enumerate(document.lines):
        found = heads.get(at)
        if at == skipped:
            continue
        if line.level:
            yield section
            above = [(level, text) for level, text in above if level < line.level]
            above.append((line.level, plain(line.text)))
            parts = []
            trail = [text for _, text in above]
            section = _Section(_under(first, trail), _heading_key(found, trail), line.number + 1)
        elif found:
            captions = [section.text.pop().strip()] if at in captioned and section.text else []
            yield section
            if found.kind == "part":
                name, skipped = _part_name(document, heads, at, found)
                parts = _replaced(parts, found.word, name)
            trail = _under(first, [text for _, text in above] + [text for _, text in parts])
            section = _Section(trail, slug(found.label), line.number)
            if found.kind == "article":
                label, text = _title_and_text(found, document, heads, at)
                if not found.rest and (below := _title_below(document, heads, at)) >= 0:
                    label, skipped = f"{label} {plain(document.lines[below].text)}", below
                outer = _outer(found, outer)
                section.trail = [*trail, *(text for _, text in outer), " ".join([label, *captions])]
                section.text = [text] if text else []
                outer = [*outer, (found.label, label)] if found.word == "1" else []
        else:
            if not section.text:
                section.line = line.number
            section.text += [_tidy(line, document)] if section.text or line.text.strip() else []
    yield section


def _filled(document: Document, heads: Mapping[int, Head]) -> set[int]:
    """0 where the first line with text is a head, so that the document has no name line."""
    first = next((i for i, line in enumerate(document.lines) if line.text.strip()), -1)
    return {0} if first in heads or (first >= 0 and document.lines[first].level) else set()


def _name(document: Document, heads: Mapping[int, Head]) -> str:
    if any(line.level for line in document.lines) or _filled(document, heads):
        return ""
    return next((plain(line.text) for line in document.lines if line.text.strip()), "")[:NAME]


def _under(first: list[str], trail: list[str]) -> list[str]:
    return trail if first and trail and trail[0].strip() == first[0].strip() else [*first, *trail]


def _replaced(parts: list[tuple[str, str]], word: str, name: str) -> list[tuple[str, str]]:
    """The chapters above after a new one: it ends the last of its own kind and what stood in that."""
    kinds = [kind for kind, _ in parts]
    return [*(parts[: kinds.index(word)] if word in kinds else parts), (word, name)]


def _part_name(document: Document, heads: Mapping[int, Head], at: int, found: Head) -> tuple[str, int]:
    """A chapter's label and title, which may stand on the next line; and that line's place, or -1."""
    name = " ".join([found.label, found.rest]).strip()
    after = next((i for i in range(at + 1, min(at + 3, len(document.lines))) if document.lines[i].text.strip()), -1)
    if found.rest or after < 0 or after in heads or document.lines[after].level:
        return name, -1
    text = plain(document.lines[after].text)
    if len(text) > NAME or text.endswith(ENDS) or text[:1].islower() or text[:1] in "(（":
        return name, -1
    return f"{name} {text}", after


def _title_and_text(found: Head, document: Document, heads: Mapping[int, Head], at: int) -> tuple[str, str]:
    """What of an article's first line is its title, and what its text."""
    rest, label = found.rest, found.label
    mark = re.match(r"([【〔\[〈（(]\s*[^\d\W][^】〕\]〉）)]{0,60}[】〕\]〉）)])[\s.:：]*(.*)", rest, re.DOTALL)
    if mark and (mark[2] or _has_text(document, heads, at)):
        return f"{label} {mark[1]}" if not mark[1].startswith(("（", "【", "〔")) else f"{label}{mark[1]}", mark[2]
    if not rest:
        return label, ""
    if (
        found.word == "1"
        and _has_parts(found, document, heads, at)
        and (rest.isupper() or not rest.endswith((*ENDS, ",", "，")))
    ):
        return f"{label} {rest}", ""
    if rest.isupper() and _has_text(document, heads, at):  # SEC. 101. SHORT TITLE.
        return f"{label} {rest.rstrip('.')}", ""
    if (
        found.word not in {"条", "조"}
        and len(rest) <= NAME
        and not rest.endswith((*ENDS, ",", "，"))
        and not (document.wrapped and CONTINUES.search(rest))
        and _has_text(document, heads, at)
    ):
        between = re.match(rf"{re.escape(found.label)}([.．、]?)", plain(document.lines[at].text))
        sign = between[1] if between else ""
        return f"{label}{sign}{'' if sign == '、' else ' '}{rest}", ""
    return label, rest


def _outer(found: Head, outer: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those of the numbered heads that this one's number begins with: 2 of 2.3, and not of 2A."""
    return [(number, text) for number, text in outer if found.label.startswith(f"{number}.")]


def _title_below(document: Document, heads: Mapping[int, Head], at: int) -> int:
    """The line that titles an article whose number stands alone, or -1.

    It is short, ends like no sentence, is followed by text, and that text does not go on with it.
    """
    lines = document.lines
    filled = [i for i in range(at + 1, min(at + 8, len(lines))) if lines[i].text.strip()][:2]
    if len(filled) < 2 or any(i in heads or lines[i].level or lines[i].verbatim for i in filled):
        return -1
    title, text = (plain(lines[i].text) for i in filled)
    bracketed = re.fullmatch(r"\([^\W\d].{1,80}\)", title)
    looks = (
        not _NOTED.search(title) and title[0].isupper() and len(title) <= 80 and not title.endswith((*ENDS, ",", "،"))
    )
    if bracketed:
        return filled[0]
    apart = filled[1] > filled[0] + 1 or (len(title) <= 60 and not text[0].islower())
    return filled[0] if looks and apart and not CONTINUES.search(title) else -1


def _has_parts(found: Head, document: Document, heads: Mapping[int, Head], at: int) -> bool:
    """Whether the next line with text is the head of a part of this section: 1.1 below 1."""
    below = next((i for i in range(at + 1, len(document.lines)) if document.lines[i].text.strip()), -1)
    number = heads[below].number if below in heads else ()
    return len(number) > len(found.number) and number[: len(found.number)] == found.number


def _has_text(document: Document, heads: Mapping[int, Head], at: int) -> bool:
    for i in range(at + 1, len(document.lines)):
        if document.lines[i].text.strip():
            return i not in heads and not document.lines[i].level
    return False


def _captioned(document: Document, heads: Mapping[int, Head]) -> frozenset[int]:
    """The articles whose title stands on the line before them: every second one at least, or none.

    In Japan it is in brackets, and two are enough; in Turkey and Sweden it is not.
    """
    articles = [i for i, h in heads.items() if h.kind == "article"]
    found = [i for i in articles if _captions(document, heads, i)]
    bracketed = [i for i in found if _CAPTION.fullmatch(document.lines[i - 1].text.strip())]
    if len(found) >= max(2, len(articles) / 2):
        return frozenset(found)
    return frozenset(bracketed) if len(bracketed) >= 2 else frozenset()


def _captions(document: Document, heads: Mapping[int, Head], at: int) -> bool:
    """Whether the line before a head looks like its title."""
    if not at or (at - 1) in heads or document.lines[at - 1].verbatim or document.lines[at - 1].level:
        return False
    caption = document.lines[at - 1].text.strip()
    if _CAPTION.fullmatch(caption):
        return True
    above = document.lines[at - 2].text.strip() if at > 1 else ""
    begins = at < 2 or (at - 2) in heads or not above or above.endswith(ENDS)
    titled = 0 < len(caption) <= 60 and caption[0].isupper() and not caption.endswith((*ENDS, ",", "،"))
    return begins and titled and bool(heads[at].rest) and not heads[at].rest[0].islower()


def _tidy(line: Line, document: Document) -> str:
    return line.text.strip() if document.tidy and not line.verbatim else line.text.rstrip()


def _heading_key(found: Head | None, trail: list[str]) -> str:
    if found is not None and found.kind == "article":
        return slug(found.label)
    number = _NUMBER_FIRST.match(trail[-1])
    return number[1] if number else slug(trail[-1])


def slug(text: str) -> str:
    """Letters and digits of any script, joined by hyphens; a number stays with its Han, Hangul or § sign."""
    text = re.sub(r"(?<=[第제§条條之の])\s+|\s+(?=[条條조之の])", "", text)
    # Marks belong to the letters that they stand on: \w leaves them out.
    words = "".join(c if unicodedata.category(c)[0] in "LMN" or c in ".§()_" else " " for c in text).split()
    return "-".join(words).strip(".-")[:80] or "-"


def distinct_key(key: str, trail: list[str], keys: dict[str, int]) -> str:
    """The key, counted in `keys`; a repeated one with what stands above it in the trail, or with a count."""
    if key in keys and len(trail) > 1:
        key = f"{slug(trail[-2])}/{key}"
    keys[key] = keys.get(key, 0) + 1
    return key if keys[key] == 1 else f"{key}~{keys[key]}"
