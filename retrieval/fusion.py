"""Two ranked lists into one: a convex mix of scores that were brought to 0 to 1 first.

  score = w · lexical + (1 - w) · dense

dense is the cosine's share of the way from what the embedder gives unrelated texts (`zero`) up to 1, and 0 below it:
e5's cosines lie between .7 and .9, MiniLM's between 0 and .7. lexical is (BM25 over the most that any passage could
score)^2: a few common words in a long question say less than their share. Neither depends on what else was found, so
scores compare between queries and a floor on them means something; reciprocal ranks, which know only order, let the
weaker side outvote the stronger.
(Bruch, Gai, Ingber: An Analysis of Fusion Functions for Hybrid Retrieval, arXiv 2210.11934.)
"""

from __future__ import annotations

import math
from operator import itemgetter
from typing import NamedTuple

TIE = 2e-6
STEEP = 2.0  # of 1, 1.5, 2 and 3 the one that loses to the better side nowhere: benchmarks/retrieval.py
Key = int | str
Ranked = list[tuple[Key, float]]  # best first


class Candidate(NamedTuple):  # a hundred of them a search: a frozen dataclass takes three times as long to make
    """One candidate; a rank counts from 1, None where that side did not return it."""

    key: Key
    score: float
    dense: float | None
    lexical: float | None
    dense_rank: int | None
    lexical_rank: int | None


def fuse(
    lexical: Ranked, ceiling: float, dense: Ranked, more: Ranked, weight: float, zero: float = 0.0
) -> list[Candidate]:
    """Best first, ties by key. `more` has the cosines of what only `lexical` found; unrelated texts have `zero`."""
    bm25, cosine = dict(lexical), dict(more) | dict(dense)
    lexical_rank = {key: i for i, (key, _) in enumerate(lexical, 1)}
    rest = 1.0 - weight
    dense_rank = {key: i for i, (key, _) in enumerate(dense, 1)}
    scores = [
        (-round(weight * normal_lexical(bm25.get(key), ceiling) + rest * normal_dense(cosine.get(key), zero), 6), key)
        for key in bm25.keys() | cosine.keys()
    ]
    return [
        Candidate(key, -score, cosine.get(key), bm25.get(key), dense_rank.get(key), lexical_rank.get(key))
        for score, key in _by_score(scores)
    ]


def _by_score(scores: list[tuple[float, Key]]) -> list[tuple[float, Key]]:
    """The lowest first, ties by key; scores a hair apart are the same sum in another order."""
    scores.sort(key=itemgetter(0))
    last, start = -1.0, 0
    for i, (score, _) in enumerate([*scores, (math.inf, "")]):
        if score - last > TIE:
            if i - start > 1:
                scores[start:i] = sorted(scores[start:i], key=itemgetter(1))
            start = i
        last = score
    return scores


def normal_lexical(score: float | None, ceiling: float) -> float:
    """A BM25 score as 0 to 1: its share of the ceiling, to the power STEEP."""
    return min(1.0, score / ceiling) ** STEEP if score and ceiling > 0 else 0.0


def normal_dense(score: float | None, zero: float = 0.0) -> float:
    """A cosine as 0 to 1: how far it lies from `zero` towards 1."""
    return min(1.0, max(0.0, (score - zero) / (1.0 - zero))) if score else 0.0
