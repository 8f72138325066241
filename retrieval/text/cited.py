"""Several articles in one question: "§§ 433, 434 BGB", "Articles 5 to 7", "§ 12 StGB und § 823 BGB"."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from retrieval.text.numeral import behind

SPAN = 30  # articles of a range; a longer one is asked for by its ends
PLACES, NUMBERS = 4, 16  # that are looked for
_PLURAL = re.compile(
    r"§§|arts|articles|articoli|artikelen|artiklar|artículos|artigos|artikel|άρθρα|sections|ss\b|rules|regulations|статьи",
    re.IGNORECASE,
)
_AND = "and|und|et|y|e|en|och|og|or|oder|ou|o|&|и"
_RANGE = "-|–|bis|to|à|a|al|tot|through|до"
_MORE = re.compile(
    rf"\s*(?P<link>,?\s?(?:{_AND})(?=\s)|,|{_RANGE})\s*(?:§\s*)?(?P<n>\d+)(?P<sub>[a-z]?)(?![\w.])",
    re.IGNORECASE,
)
_LINK = re.compile(rf"\s*(?:$|[,;.?!:、，；。？！)]|(?:{_AND}|和|及|与|與|至|到)(?!\w))")
_TO = re.compile("[至到~～-]")
_WORD = re.compile(r"[^\W\d_]{2,}")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a text cites one article or a list of them, in characters, and their numbers as keys."""

    start: int
    end: int
    numbers: tuple[str, ...]
    within: str  # the number before a point: "Art. 138.2" may be a paragraph of article 138
    han: bool  # written as in 第十二条, behind the act's name


def places(text: str, found: Iterable[re.Match[str]], key: Callable[[re.Match[str]], str]) -> list[Place]:
    """The citations of a text with the rest of their lists; `key` is of one article's number."""
    made: list[Place] = []
    for match in found:
        if made and match.start() < made[-1].end:
            continue
        numbers, end = _several(match, key(match)), match.end()
        plural = bool(_PLURAL.match(match[0].lstrip()))
        while plural and (more := _MORE.match(text, end)):
            own = more["n"] if not more["sub"] else f"{more['n']}.{behind(more['sub'])}"
            link = more["link"].strip().lower()
            numbers += _between(numbers[-1], own) if numbers and link in _RANGE.split("|") else [own]
            end = more.end()
        han = bool(match["han"] or match["bare"] or match["ko"])
        if made and han and numbers and _TO.fullmatch(text[made[-1].end : match.start()].strip()):
            numbers = _between(made[-1].numbers[-1], numbers[0]) if made[-1].numbers else numbers
        article, point, _ = (match["latin"] or "").partition(".")
        within = article if point else ""
        made.append(Place(match.start(), end, tuple(dict.fromkeys(numbers))[:NUMBERS], within, han))
        if len(made) == PLACES:
            break
    return made


def _several(match: re.Match[str], number: str) -> list[str]:
    """One number, or what else it can mean: §§ 433-435 is a range, § 434 f is 434 too, § 823 I its first paragraph."""
    if not number:
        return []
    first, _, last = (match["latin"] or match["han"] or "").partition("-")
    if last and number.count(".") == 1 and first.isdecimal() and last.isdecimal() and int(first) < int(last):
        return [number, *_between(first, last), first]
    if match["letter"] and match["letter"][0].isspace() and match["letter"].strip().lower() in "fivx":
        return [number, number.rpartition(".")[0]]
    return [number]


def _between(first: str, last: str) -> list[str]:
    """The numbers behind the first one, up to the last."""
    if first.isdecimal() and last.isdecimal() and 0 < int(last) - int(first) <= SPAN:
        return [str(n) for n in range(int(first) + 1, int(last) + 1)]
    (article, _, start), (same, _, end) = first.rpartition("."), last.rpartition(".")
    if article and article == same:  # §§ 312a to 312c
        return [f"{article}.{n}" for n in _between(start, end)]
    return [last]


def names(text: str, found: Sequence[Place]) -> list[str]:
    """For each place the text that names its act: all the rest where there is one place only."""
    ends = [0, *(place.end for place in found)]
    starts = [*(place.start for place in found), len(text)]
    between = [text[a:b] for a, b in zip(ends, starts, strict=True)]
    if len(found) < 2:
        return [" ".join(between)] * len(found)
    return [_nearest(between, i, place.han) for i, place in enumerate(found)]


def _nearest(between: Sequence[str], i: int, han: bool) -> str:
    """Of the texts before and behind the places, the one that belongs to place `i`."""
    before = next((part for part in reversed(between[: i + 1]) if _WORD.search(part)), "")
    behind = between[i + 1]
    if before and (han or _LINK.match(behind)):
        return before
    return behind if not _LINK.match(behind) else next((p for p in between[i + 1 :] if _names(p)), behind)


def _names(part: str) -> bool:
    link = _LINK.match(part)
    return bool(_WORD.search(part[link.end() if link else 0 :]))
