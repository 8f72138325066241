"""What an index holds and what a search asks of it: Passage, Filter, Hit."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, fields, replace
from datetime import date

# A region that means "everywhere". An empty region does too.
NATIONAL = frozenset({"", "全国", "national"})
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True, slots=True)
class Passage:
    """One principle. `in_force_to` is the last day in force; empty dates are open ends."""

    id: str
    text: str
    title: str = ""
    source: str = ""
    url: str = ""
    region: str = ""
    language: str = ""
    kind: str = ""
    tags: tuple[str, ...] = ()
    in_force_from: str = ""
    in_force_to: str = ""
    parent: str = ""  # the document that this is a chunk of; empty: it is whole

    def __post_init__(self) -> None:
        for name in _TEXTS:
            value = getattr(self, name)
            if not isinstance(value, str):
                raise ValueError(f"{name} must be text, not {type(value).__name__}")
            _check_text(name, value)
        if not self.id.strip():
            raise ValueError("id is empty")
        if any(c in self.id for c in "\t\r\n"):
            raise ValueError("id holds a tab or a line break")
        if not self.text.strip():
            raise ValueError("text is empty")
        if not isinstance(self.tags, tuple) or not all(isinstance(t, str) and t for t in self.tags):
            raise ValueError("tags must be a list of non-empty texts")
        for tag in self.tags:
            _check_text("tags", tag)
        for name in ("in_force_from", "in_force_to"):
            check_date(name, getattr(self, name))
        if self.in_force_from and self.in_force_to and self.in_force_to < self.in_force_from:
            raise ValueError("in_force_to lies before in_force_from")

    @property
    def document(self) -> str:
        """The id of the document that this is, or is a chunk of."""
        return self.parent or self.id

    @property
    def content_hash(self) -> bytes:
        """Equal for two passages that say the same in the same place."""
        return _digest([" ".join(self.text.split()), self.title.strip(), self.region, self.language])

    @property
    def signature(self) -> bytes:
        """Equal for two passages that agree in every field."""
        return _digest([getattr(self, name) for name in _FIELDS])

    @property
    def search_text(self) -> str:
        """What is embedded and what terms are taken from."""
        return f"{self.title}\n{self.text}" if self.title else self.text


_FIELDS = tuple(f.name for f in fields(Passage))
_TEXTS = tuple(name for name in _FIELDS if name != "tags")


@dataclass(frozen=True, slots=True)
class Filter:
    """Which passages a search may return, decided before it searches.

    A passage that leaves its region empty (or calls it national) bears on every region, and one without a
    language may be returned for every language, unless `strict`. `on` is an ISO date; None means any date.
    """

    region: str | None = None
    language: str | None = None
    kind: str | None = None
    tags: tuple[str, ...] = ()  # all of them
    on: str | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        if self.on is not None:
            check_date("on", self.on)
            if not self.on:
                raise ValueError("on is empty: leave it out for any date")

    @property
    def empty(self) -> bool:
        """Whether the filter admits everything."""
        return self.region is self.language is self.kind is self.on is None and not self.tags

    def admits(self, passage: Passage) -> bool:
        """The meaning of a filter, one passage at a time; `columns.py` computes the same for all at once."""
        if self.region is not None and passage.region != self.region and (self.strict or not national(passage.region)):
            return False
        if self.language is not None and not speaks(passage.language, self.language, self.strict):
            return False
        if self.kind is not None and passage.kind != self.kind:
            return False
        if self.on is not None and not in_force(passage.in_force_from, passage.in_force_to, self.on):
            return False
        return set(self.tags) <= set(passage.tags)


@dataclass(frozen=True, slots=True)
class Hit:
    """One passage found. `score` is 0 to 1 and comparable between queries on one index."""

    id: str
    text: str
    title: str
    source: str
    url: str
    region: str
    language: str
    score: float
    dense: float | None = None  # cosine
    lexical: float | None = None  # BM25
    dense_rank: int | None = None  # from 1; None: this side did not return it
    lexical_rank: int | None = None
    rerank: float | None = None
    document: str = ""
    kind: str = ""
    tags: tuple[str, ...] = ()
    in_force_from: str = ""
    in_force_to: str = ""


def national(region: str) -> bool:
    """Whether a region means everywhere."""
    return region in NATIONAL


def speaks(language: str, wanted: str, strict: bool = False) -> bool:
    """zh-CN speaks zh; an unlabelled passage may speak anything."""
    if not language:
        return not strict
    return primary(language) == primary(wanted)


def primary(language: str) -> str:
    """The primary subtag of a language tag, lower-cased: zh for zh-CN."""
    return re.split(r"[-_]", language.lower(), maxsplit=1)[0]


def in_force(start: str, end: str, on: str) -> bool:
    """Whether the ISO date `on` lies between two dates, both included; an empty one is an open end."""
    return (not start or start <= on) and (not end or on <= end)


def check_date(name: str, value: str) -> None:
    """Accept an empty text or a date like 2026-01-31.

    Raises:
        ValueError: it is neither; the message opens with `name`.
    """
    if value:
        try:
            date.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{name} is not a date like 2026-01-31: {value!r}") from None
        if not _DATE.fullmatch(value):  # fromisoformat also takes 20260131 and 2026-W05-6, which do not sort
            raise ValueError(f"{name} is not a date like 2026-01-31: {value!r}")


def parse_filter(clauses: list[str]) -> Filter:
    """`region=江苏`, `tag=privacy`, `on=2026-01-31`, `strict` into a Filter."""
    found = Filter()
    for clause in clauses:
        name, _, value = clause.partition("=")
        if name == "strict":
            found = replace(found, strict=value.lower() not in {"0", "false", "no"})
        elif name in {"tag", "tags"} and value:
            found = replace(found, tags=(*found.tags, *value.split(",")))
        elif name in {"region", "language", "kind", "on"} and value:
            found = replace(found, **{name: value})  # type: ignore[arg-type]
        else:
            raise ValueError(f"unknown filter {clause!r}: use region=, language=, kind=, tag=, on= or strict")
    return found


def _check_text(name: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} holds half a surrogate pair at character {error.start + 1}") from None
    if "\0" in value:
        raise ValueError(f"{name} holds a NUL character")


def _digest(values: list[object]) -> bytes:
    return hashlib.sha256(json.dumps(values, ensure_ascii=False).encode()).digest()[:16]
