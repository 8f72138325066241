"""The weight of the two sides, found on an index's own questions.

Each side is asked once; every weight is then a matter of arithmetic. What is reported is two-fold: the weight that
is best on one half of the questions, scored on the other, both ways.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from retrieval.fusion import Key, Ranked, fuse
from retrieval.search.evaluation import Qrels, ndcg
from retrieval.search.index import WEIGHT, Index
from retrieval.search.query import ANY

STEPS = tuple(i / 20 for i in range(21))
DEPTH = 100


@dataclass(frozen=True, slots=True)
class Tuned:
    """`held_out` is the two-fold nDCG@10; `at` that of each weight on all questions."""

    weight: float
    held_out: float
    folds: tuple[float, float]
    at: dict[float, float]


@dataclass(frozen=True, slots=True)
class Sides:
    """What each side found for one query, and the document that each passage belongs to."""

    lexical: Ranked
    ceiling: float
    dense: Ranked
    more: Ranked
    documents: dict[Key, str]
    zero: float = 0.0  # the cosine of unrelated texts


def sides(index: Index, query: str, depth: int = DEPTH) -> Sides:
    """Ask both sides for `depth` candidates each.

    Raises:
        ValueError: the index has no embedder, so there is one side only.
    """
    if index.embedder is None:
        raise ValueError("an index without an embedder has one side only: there is nothing to tune")
    index.refresh()
    view, vector = index.backend.view(ANY), index.embedder.queries([query])[0]
    lexical, ceiling = index.backend.lexical(view, query, depth)
    dense = index.backend.dense(view, vector, depth, False)
    found = {key for key, _ in dense}
    more = index.backend.cosines(view, vector, [key for key, _ in lexical if key not in found])
    keys = [key for key, _ in [*dense, *more]]
    documents = {k: p.document for k, p in index.backend.fetch(keys).items()}
    return Sides(lexical, ceiling, dense, more, documents, index.zero)


def tune(index: Index, queries: dict[str, str], qrels: Qrels, asked: Iterable[str] | None = None) -> Tuned:
    """`asked` may be the query ids wrapped in a progress bar."""
    judged = [q for q in (asked if asked is not None else queries) if q in qrels and q in queries]
    if len(judged) < 2:
        raise ValueError("fewer than two of the queries have judgements: nothing to tune on")
    table = {q: _at_each_weight(sides(index, queries[q]), qrels[q]) for q in judged}
    halves = judged[0::2], judged[1::2]
    best = tuple(_best(table, half) for half in halves)
    crossed = [table[q][best[1 - i]] for i, half in enumerate(halves) for q in half]
    at = {w: sum(table[q][w] for q in judged) / len(judged) for w in STEPS}
    return Tuned(_best(table, judged), sum(crossed) / len(crossed), (best[0], best[1]), at)


def ranked(found: Sides, weight: float) -> list[str]:
    """Documents, each at its best chunk."""
    fused = fuse(found.lexical, found.ceiling, found.dense, found.more, weight, found.zero)
    return list(dict.fromkeys(found.documents[f.key] for f in fused if f.key in found.documents))


def _at_each_weight(found: Sides, rated: dict[str, int]) -> dict[float, float]:
    return {w: ndcg(ranked(found, w), rated) for w in STEPS}


def _best(table: dict[str, dict[float, float]], queries: list[str]) -> float:
    """Of the weights within half a point of the best, the one nearest to the untuned: a lone peak is luck."""
    mean = {w: sum(table[q][w] for q in queries) / len(queries) for w in STEPS}
    good = [w for w in STEPS if mean[w] >= max(mean.values()) - 0.005]
    return min(good, key=lambda w: (abs(w - WEIGHT), w))
