"""What scores say: whether the better answer is the likelier one, by how much, and what length alone would say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from trainers.evaluation.core import Estimate, Measure
from trainers.evaluation.likelihood.pair_file import Pair
from trainers.evaluation.likelihood.scorer import Scored
from trainers.evaluation.stats.intervals import rate

_ROWS = (
    Measure("prefers_better", "rate", "higher", "the better answer has the highest log p, summed over its tokens"),
    Measure("prefers_better_per_token", "rate", "higher", "the same by the mean log p of a token"),
    Measure("margin", "mean", "higher", "log p of the better answer less that of the likeliest other", "nats"),
    Measure("margin_per_token", "mean", "higher", "the same by the mean of a token", "nats a token"),
    Measure("better_per_token", "mean", "", "mean log p of a token of the better answer", "nats a token"),
)
MEASURES: Mapping[str, Measure] = MappingProxyType({measure.name: measure for measure in _ROWS})


@dataclass(frozen=True, slots=True)
class Row:
    """What was scored of a pair under an arm; `error` instead where the engine or the policy refused it."""

    arm: str
    pair: str
    scores: tuple[Scored, ...] = ()
    error: str = ""

    @property
    def key(self) -> str:
        """The row's name in scores.jsonl."""
        return key_of(self.arm, self.pair)


def key_of(arm: str, pair: str) -> str:
    """The name under which a score is kept."""
    return f"{arm}\n{pair}"


def read_row(row: dict[str, Any]) -> tuple[str, Row]:
    """(key, row) of a line of scores.jsonl."""
    scores = tuple(Scored(float(logprob), int(tokens)) for logprob, tokens in row["scores"])
    made = Row(row["arm"], row["pair"], scores, row["error"])
    return made.key, made


def write_row(_: str, row: Row) -> dict[str, Any]:
    """The line of scores.jsonl of a row."""
    scores = [[score.logprob, score.tokens] for score in row.scores]
    return {"arm": row.arm, "pair": row.pair, "scores": scores, "error": row.error}


def measured(pair: Pair, scores: Sequence[Scored]) -> dict[str, float]:
    """Every measure of a pair under one arm. Of equal answers none is preferred."""
    sums = [score.logprob for score in scores]
    means = [score.logprob / score.tokens for score in scores]
    total, mean = (_margin(values, pair.right) for values in (sums, means))
    return {
        "prefers_better": float(total > 0), "prefers_better_per_token": float(mean > 0),
        "margin": total, "margin_per_token": mean, "better_per_token": means[pair.right],
    }  # fmt: skip


def _margin(values: Sequence[float], right: int) -> float:
    return values[right] - max(value for number, value in enumerate(values) if number != right)


def by_length(pairs: Sequence[Pair]) -> dict[str, Estimate]:
    """How often the shortest answer, and the longest, is the better one: what a rule without a model would reach.

    In characters; a pair of equal length is none of either.
    """
    sizes = [[len(text) for text in pair.answers] for pair in pairs]
    return {name: rate(list(_alone(pairs, sizes, of))) for name, of in (("shorter", min), ("longer", max))}


def _alone(pairs: Sequence[Pair], sizes: Sequence[list[int]], of: Callable[[list[int]], int]) -> Iterator[float]:
    for pair, each in zip(pairs, sizes, strict=True):
        yield float(each[pair.right] == of(each) and each.count(of(each)) == 1)
