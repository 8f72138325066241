"""Which lines of a document are heads, decided over all of it.

The numbers of its articles must go on from each other, a line that continues a sentence is text, and a table of
contents is none of it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from retrieval.text.heading import Head, head, loose
from retrieval.text.numbered import ENDS, sections
from retrieval.text.piece import Document
from retrieval.text.quoted import quoted

NAME = 120  # characters of a title
LONG = 40  # characters of a line beyond which it may have been wrapped
CONTINUES = re.compile(
    r"(?:[,，、(（]|(?<!\w)(?:of|in|under|by|and|or|to|with|the|see|per|from|de|du|des|la|le|les|et|ou|à|au|aux|dans|par"
    r"|der|dem|nach|gemäß|und|oder|von|im|zu|del|della|dell|delle|dei|y|e|o|en|con|по|в|и|со|с|согласно|van|het|en)"
    r"|根据|依照|按照|依据|违反|适用|[和及或与])$",
)


def find(document: Document) -> dict[int, Head]:
    """Which lines are heads, by their place in `document.lines`."""
    lines = document.lines
    found = {i: h for i, line in enumerate(lines) if not line.verbatim and (h := head(line.text))}
    chosen = _units(found, document)
    inside = quoted(document)
    last_place = {h.label: i for i, h in found.items()}  # an article that is quoted may come again after the quotation
    kept: dict[int, Head] = {}
    last: dict[str, tuple[int, ...]] = {}
    for i, h in found.items():
        if h.word in chosen.parts:
            h = Head("part", h.word, h.label, h.number, h.rest)
        elif h.kind == "article" and h.word not in chosen.articles:
            continue
        if (
            i in inside
            and not lines[i].level
            and (not _follows(h.number, last.get(h.word, (0,))) or last_place[h.label] > inside[i])
        ):
            continue
        if lines[i].level or _stands(document, kept, i, h, last.get(h.word, (0,))):
            kept[i] = h
            last = {**last, h.word: h.number} if h.kind == "article" else {}
    for i in _contents(document, kept):
        del kept[i]
    for i in _out_of_turn(kept):
        del kept[i]
    articles = [i for i, h in kept.items() if h.kind == "article"]
    if len(articles) < 2 and not any(lines[i].level or _only(document, kept, i) for i in articles):
        found = _loose_heads(document, kept)
        if not found and document.numbered:
            return sections(document, {i: h for i, h in kept.items() if h.kind == "part"})
        return found
    return kept


def _only(document: Document, kept: Mapping[int, Head], i: int) -> bool:
    """Whether the one article of a text is its first, on a line of its own with text below."""
    h = kept[i]
    below = next((j for j in range(i + 1, len(document.lines)) if document.lines[j].text.strip()), -1)
    return h.number == (1,) and h.alone and not h.rest and below > 0 and below not in kept


def _out_of_turn(kept: Mapping[int, Head]) -> list[int]:
    """Sentences taken for heads: they do not go on from the one before, and their article does somewhere else."""
    places: dict[tuple[str, tuple[int, ...]], list[tuple[int, bool]]] = {}
    last: dict[str, tuple[int, ...]] = {}
    opened = False  # a part: its first article may have any number
    for i, h in kept.items():
        if h.kind == "part":
            last, opened = {}, True
            continue
        turn = h.number == (1,) or _follows(h.number, last.get(h.word, (0,))) or (opened and not last)
        places.setdefault((h.word, h.number), []).append((i, turn))
        last[h.word] = h.number
    return [
        i
        for found in places.values()
        if any(turn for _, turn in found)
        for i, turn in found
        if not turn and not kept[i].alone and kept[i].rest.endswith(ENDS)
    ]


def _loose_heads(document: Document, kept: Mapping[int, Head]) -> dict[int, Head]:
    """Articles whose numbers run on into their text: three at least, each the next after the last."""
    found = {i: h for i, h in kept.items() if h.kind == "part"}
    last: tuple[int, ...] = (0,)
    for i, line in enumerate(document.lines):
        h = None if line.verbatim or line.level else loose(line.text)
        if h is not None and _follows(h.number, last):
            found[i], last = h, h.number
    return dict(sorted(found.items())) if sum(h.kind == "article" for h in found.values()) >= 3 else {}


def _contents(document: Document, kept: Mapping[int, Head]) -> list[int]:
    """The articles of a table of contents: they have no text of their own, and come again with some.

    The last of a table has what follows the table; its line comes again as it is.
    """
    if not kept:
        return []
    order = list(kept)
    last = {(h.label, h.number): i for i, h in kept.items()}
    found: list[int] = []
    for at, (i, following) in enumerate(zip(order, [*order[1:], len(document.lines)], strict=True)):
        h = kept[i]
        own = any(line.text.strip() for line in document.lines[i + 1 : following])
        titled = not h.rest.endswith(ENDS) and len(h.rest) <= NAME
        again = last[h.label, h.number]
        if h.kind != "article" or not titled or document.lines[i].level or again == i:
            continue
        ends_table = bool(found) and found[-1] == order[at - 1] and _same(h, kept[again])
        if not own or ends_table:
            found.append(i)
    return found


def _same(one: Head, other: Head) -> bool:
    """Whether two heads have one title, a page's number aside."""
    return re.sub(r"\s*\d+$", "", one.rest) == re.sub(r"\s*\d+$", "", other.rest)


@dataclass(frozen=True, slots=True)
class _Units:
    articles: frozenset[str]
    parts: frozenset[str]


def _units(found: Mapping[int, Head], document: Document) -> _Units:
    """Which words name the articles of this document: under "Article 1", a "Section" is a chapter or text.

    Where articles have no text before their first section, as in the United States' Constitution, they are chapters.
    """
    counts = Counter(h.word for h in found.values() if h.kind == "article")
    laws = {word for word in ("article", "条", "조", "§") if counts[word] >= 2}
    if any(h.word == "article" and h.rest.startswith("§ 1") for h in found.values()):
        laws -= {"§"}  # paragraphs of articles, as in Poland
    elif counts["§"] > 2 * counts["article"] > 0 and "§" in laws:
        return _Units(frozenset(laws - {"article"}), frozenset({"article"}))  # articles that each hold an act
    if "article" in laws and counts["section"] >= 2 and _hold(found, document, "article", "section"):
        return _Units(frozenset(laws - {"article"} | {"section"}), frozenset({"article"}))
    if laws:
        return _Units(frozenset(laws), frozenset({"section"} if "article" in laws else ()))
    if counts["section"] >= 2:
        return _Units(frozenset({"section"}), frozenset())
    return _Units(frozenset(word for word, _ in counts.most_common(1)), frozenset())


def _hold(found: Mapping[int, Head], document: Document, outer: str, inner: str) -> bool:
    """Whether each head of the outer kind is followed by one of the inner kind, with a title between at most."""
    for i in (i for i, h in found.items() if h.word == outer):
        filled = [j for j in range(i + 1, min(i + 8, len(document.lines))) if document.lines[j].text.strip()][:2]
        if not any(j in found and found[j].word == inner for j in filled):
            return False
    return True


def _stands(document: Document, kept: Mapping[int, Head], i: int, h: Head, last: tuple[int, ...]) -> bool:
    """Whether a line that reads like a head is one, by the line before it and by its number."""
    before = document.lines[i - 1] if i else None
    if before is None or before.level or (i - 1) in kept:
        return True
    text = before.text.strip()
    if text and CONTINUES.search(text):
        return False
    if h.kind == "part" or not text or _follows(h.number, last):
        return h.kind == "part" or h.alone or h.number > last or h.number[:1] <= (1,)
    wrapped = document.wrapped and len(text) >= LONG and not text.endswith(ENDS)
    return not wrapped and (h.number > last or h.number[:1] <= (1,))


def _follows(number: tuple[int, ...], last: tuple[int, ...]) -> bool:
    """12 after 11, 12a after 12, 13 after 12a."""
    if not number:
        return False
    return number[0] == last[0] + 1 or (number[0] == last[0] and number > last)
