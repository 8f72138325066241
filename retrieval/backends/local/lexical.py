"""The lexical side: BM25 (k1 1.2, b 0.75) over title and text, by tantivy.

A chunk is ranked by the terms of its whole document (where that has few chunks, see `postings`), since that finds
documents better than chunks alone do; of one document's chunks the one that has the query's terms itself comes first.
Term statistics count a withdrawn passage until its segment is merged; results never contain it.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.backends.local.columns import Allowed, Columns, best_first
from retrieval.passage import primary
from retrieval.text import analysis, ordinary
from retrieval.text.language import possible

COMMON, SLOW = 0.5, 0.2  # the share of passages beyond which a term, or a slow one, is left out of a query …
SMALL = 20_000  # … of an index with more passages than this: in a small one no term is slow
TINY = 100  # passages of an index in which the words of asking are as rare as any: they are left out of a query
KNOWN = 50_000  # terms whose frequency is remembered, at some 100 bytes each
HALF = 0.5  # the weight of a part of a compound in a query
ECHO = 0.3  # what a chunk without any term of the query loses of its document's score
FEW = 2048  # allowed passages up to which they are named to tantivy instead of sifted out of its answers
TIE = 1e-5  # scores that differ by a smaller share are the same, summed in another order
TIED_UPTO = 1024  # how far a tie at the cut is followed, to break it by age and not by where a segment lies
READ, MOST = 20_000, 192  # characters of a query that are read, and how many terms, the rarest, are asked for
Counts = dict[str, float]  # how often a query asks for a term
Numbers = npt.NDArray[np.int64]
Ranked = tuple[Numbers, npt.NDArray[np.float32]]
Found = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], float]  # rows, scores, ceiling
NOTHING: Found = (np.zeros(0, np.int64), np.zeros(0, np.float32), 0.0)


@dataclass(frozen=True, slots=True)
class Reader:
    """One moment of the terms: of documents, and of their chunks. `languages` are those that they were analysed in."""

    searcher: Any
    chunks: Any
    schema: Any
    languages: frozenset[str]
    revision: int
    known: dict[str, int] = field(default_factory=dict)  # entries that have a term, of terms asked for before

    def frequency(self, term: str) -> int:
        """How many entries hold a term; remembered, since most words of a question come again in others."""
        found = self.known.get(term)
        if found is None:
            if len(self.known) >= KNOWN:
                self.known.clear()
            found = self.known[term] = int(self.searcher.doc_freq("terms", term))
        return found


def search(
    reader: Reader, query: str, k: int, columns: Columns, allowed: Allowed, *, language: str | None, exact: bool
) -> Found:
    """The k best of the rows that are allowed, and the ceiling of their scores (see `_wanted`)."""
    spoken = frozenset({primary(language)}) & reader.languages if language else reader.languages
    counts, ceiling = _wanted(reader, query, spoken or reader.languages, len(columns.n))
    if not counts or not allowed.count:
        return NOTHING
    wanted, mask = _any_of(reader.schema, counts), allowed.mask
    if allowed.count <= FEW and not allowed.all:
        wanted = _among(reader.schema, wanted, columns.n[mask].tolist())
    depth = int(1.3 * k * min(30.0, len(mask) / allowed.count)) + 8
    while True:  # k allowed ones should be among so many; if not, among more
        hits = reader.searcher.search(wanted, limit=depth, count=False).hits
        rows, scores, entry = _rows(reader, hits, columns)
        kept = mask[rows]
        rows, scores, entry = rows[kept], scores[kept], entry[kept]
        apart = len(rows) > k and scores[-1] < scores[k - 1] * (1 - TIE)
        if apart or len(hits) < depth or (len(rows) > k and depth >= TIED_UPTO and not exact):
            break
        depth = max(4 * depth, int(1.3 * depth * k / max(1, len(rows))))
    rows, scores = _tell_chunks_apart(reader, counts, rows[:k], scores[:k], entry[:k], columns)
    return rows, scores, ceiling


def _wanted(reader: Reader, query: str, languages: frozenset[str], passages: int) -> tuple[Counts, float]:
    """The query's terms and its ceiling: what a passage scores that has each so often that once more adds nothing.

    That words follow one another, and the parts of compounds, are not needed for the ceiling and come on top.
    """
    query, asked = query[:READ], possible(query[:READ], languages)
    counts: Counts = {**Counter(analysis.query_terms(query, asked))}
    total = reader.searcher.num_docs + 1
    if passages < TINY:
        asking = frozenset().union(*(ordinary.words(language) for language in languages))
        counts = {term: count for term, count in counts.items() if term not in asking} or counts

    def frequency(term: str) -> int:
        return min(reader.frequency(term), int(total))

    counts = {term: count for term, count in counts.items() if frequency(term) or not analysis.optional(term)}
    if len(counts) > MOST:  # of so long a text the words count, not what follows what
        counts = {term: count for term, count in counts.items() if not term.startswith(analysis.PAIR)}
        rarest = sorted(counts, key=lambda t: (frequency(t) == 0, frequency(t), t))[:MOST]
        counts = {term: counts[term] for term in rarest}
    slow, common = max(SLOW * total, SMALL), max(COMMON * total, SMALL)
    rare = {t: count for t, count in counts.items() if frequency(t) <= (slow if _slow(t) else common)}
    counts = rare or counts
    needed = {term: count for term, count in counts.items() if not term.startswith(analysis.PAIR)} or counts
    ceiling = sum(2.2 * count * analysis.weight(term) * _idf(frequency(term), total) for term, count in needed.items())
    for stem in analysis.compound_terms(query, asked, frequency):
        if 0 < frequency(stem) <= common:
            counts[stem] = counts.get(stem, 0.0) + HALF
    return counts, ceiling


def _idf(df: int, total: int) -> float:
    return math.log1p((total - df + 0.5) / (df + 0.5))


def _slow(term: str) -> bool:
    """A lone character or a word beside its stem: where these are common they cost most and tell least.

    Of the others "the", "of" and their like are common: reading their 100,000 passages took two thirds of a search.
    """
    return term.startswith("=") or (len(term) == 1 and not term.isascii())


def _tell_chunks_apart(
    reader: Reader, counts: Counts, rows: Numbers, scores: npt.NDArray[np.float32], entry: Numbers,
    columns: Columns,
) -> Ranked:  # fmt: skip
    """Lower those chunks whose document owes its score to another of them; `entry` says which share a document."""
    tied = np.flatnonzero(np.bincount(entry, minlength=1)[entry] > 1)
    if not len(tied):
        return rows, scores
    numbers, entry = columns.n[rows[tied]].tolist(), entry[tied]
    own = _among(reader.schema, _any_of(reader.schema, counts), numbers)
    hits = reader.chunks.search(own, limit=len(numbers), count=False).hits
    found = reader.chunks.fast_field_values("n", [address for _, address in hits])
    score_of = dict(zip(found, [score for score, _ in hits], strict=True))
    mine = np.array([score_of.get(n, 0.0) for n in numbers], np.float32)
    best = np.zeros(int(entry.max()) + 1, np.float32)
    np.maximum.at(best, entry, mine)
    share = np.divide(mine, best[entry], out=np.ones_like(mine), where=best[entry] > 0)
    scores = scores.copy()
    scores[tied] *= 1.0 - ECHO * (1.0 - share)
    return best_first(rows, scores, TIE)


def _among(schema: Any, wanted: Any, numbers: list[int]) -> Any:
    """The same scores, of these passages only. A set of terms is quicker to build, single ones quicker to run."""
    import tantivy

    query, must = tantivy.Query, tantivy.Occur.Must
    if len(numbers) > 100:
        allowed = query.term_set_query(schema, "n", numbers)
    else:
        allowed = query.boolean_query([(tantivy.Occur.Should, query.term_query(schema, "n", n)) for n in numbers])
    return query.boolean_query([(must, wanted), (must, query.const_score_query(allowed, 0.0))])


def _any_of(schema: Any, counts: Counts) -> Any:
    import tantivy

    query, clauses = tantivy.Query, []
    for term, count in counts.items():
        clause, weight = query.term_query(schema, "terms", term, "freq"), count * analysis.weight(term)
        clauses.append((tantivy.Occur.Should, clause if weight == 1.0 else query.boost_query(clause, weight)))
    return query.boolean_query(clauses)


def _rows(reader: Reader, hits: Any, columns: Columns) -> tuple[Numbers, npt.NDArray[np.float32], Numbers]:
    """Rows, scores and entry of the chunks of those hits that this process knows already."""
    addresses = [address for _, address in hits]
    first, last = (np.array(reader.searcher.fast_field_values(f, addresses), np.int64) for f in ("n", "last"))
    start, end = np.searchsorted(columns.n, first), np.searchsorted(columns.n, last, "right")
    entry = np.repeat(np.arange(len(first)), end - start)
    rows = np.arange(len(entry)) + (end - np.cumsum(end - start))[entry]
    ordered, scores = best_first(rows, np.array([score for score, _ in hits], np.float32)[entry], TIE)
    by_row = np.argsort(rows)
    return ordered, scores, entry[by_row[np.searchsorted(rows, ordered, sorter=by_row)]]
