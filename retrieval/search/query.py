"""One search as it is asked, and what becomes of its candidates."""

from __future__ import annotations

from dataclasses import dataclass

from retrieval.fusion import Candidate
from retrieval.passage import Filter, Hit, Passage

MODES = ("hybrid", "dense", "lexical")
ANY = Filter()


@dataclass(frozen=True, slots=True)
class Ask:
    """One search; also what its result is cached by, together with the revision."""

    query: str
    k: int
    where: Filter = ANY
    mode: str = "hybrid"
    floor: float | None = None
    most: int | None = None
    exact: bool = False
    owner: str = ""  # who asks: no cache answers one from what it keeps of another, or its quickness would tell

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"unknown mode {self.mode!r}: {', '.join(MODES)}")
        if self.k < 1:
            raise ValueError("k must be at least 1")
        # Half a surrogate pair can come out of JSON and is no text.
        object.__setattr__(self, "query", self.query.encode("utf-8", "replace").decode())


def hit(p: Passage, f: Candidate) -> Hit:
    """A candidate and its passage, as one hit."""
    return Hit(
        p.id, p.text, p.title, p.source, p.url, p.region, p.language, f.score, f.dense, f.lexical,
        f.dense_rank, f.lexical_rank, None, p.document, p.kind, p.tags, p.in_force_from, p.in_force_to,
    )  # fmt: skip


def varied(hits: list[Hit], most: int | None) -> list[Hit]:
    """At most so many of one source, and no text twice."""
    if most is None:
        return hits
    kept, taken, texts = [], dict[str, int](), set[str]()
    for found in hits:
        source, text = found.source or found.document, " ".join(found.text.split())
        if taken.get(source, 0) < most and text not in texts:
            kept.append(found)
            taken[source] = taken.get(source, 0) + 1
            texts.add(text)
    return kept
