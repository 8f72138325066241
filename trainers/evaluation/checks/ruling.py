"""Does an arm keep within the limits? A limit is passed or failed only where the interval says so.

Where the limit lies inside the interval there are too few questions to say; how many it takes is estimated from the
interval's width, which shrinks with the square root of their number.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from trainers.evaluation.checks.limit import Check, Limit
from trainers.evaluation.core import Answer, Estimate, Measure, Question
from trainers.evaluation.measure.measures import ANSWERED, MEASURES, measured
from trainers.evaluation.stats.intervals import mean, paired_difference, rate

Outcome = Literal["passed", "failed", "undecided"]
_TAIL = 0.025  # of a median's interval, at each side
_LEAST = 2  # questions, below which there is no interval
_MANY = 100  # times as many questions, which nobody will ask
_FEW = 6  # questions, below which a median has none


@dataclass(frozen=True, slots=True)
class Ruling:
    """What became of a limit. `needed` is how many questions it takes to say, about; None: it is said, or no number."""

    limit: Limit
    outcome: Outcome
    estimate: Estimate | None
    needed: int | None
    words: str


def rule(
    check: Check, questions: Sequence[Question], answers: Mapping[str, Sequence[Answer]], arm: str, baseline: str,
    seed: int = 0,
) -> list[Ruling]:  # fmt: skip
    """The rulings, in the order of the check's limits. `answers` are by arm."""
    return [_ruled(limit, questions, answers, arm, baseline, seed) for limit in check.limits]


def overall(rulings: Sequence[Ruling]) -> Outcome:
    """Failed where one limit is, undecided where one is, else passed."""
    outcomes = {ruling.outcome for ruling in rulings}
    return "failed" if "failed" in outcomes else "undecided" if "undecided" in outcomes else "passed"


def _ruled(
    limit: Limit, questions: Sequence[Question], answers: Mapping[str, Sequence[Answer]], arm: str, baseline: str,
    seed: int,
) -> Ruling:  # fmt: skip
    chosen = {question.id: question for question in questions if not limit.kinds or question.kind in limit.kinds}
    after = _values(limit.measure, chosen, answers.get(arm, ()))
    before = _values(limit.measure, chosen, answers.get(baseline, ())) if limit.of == "difference" else after
    common = [ident for ident in chosen if ident in after and ident in before]
    if len(common) < (least := max(_LEAST, limit.questions)):
        why = f"{limit.name}: {len(common)} questions are too few to say; it takes at least {least}"
        return Ruling(limit, "undecided", None, least, why)
    estimate = _estimate(limit, [before[ident] for ident in common], [after[ident] for ident in common], seed)
    return _held(limit, estimate)


def _values(name: str, questions: Mapping[str, Question], answers: Sequence[Answer]) -> dict[str, float]:
    """One value a question: the mean of its samples."""
    samples: dict[str, list[float]] = {}
    for answer in answers:
        if (question := questions.get(answer.question)) is None or answer.status == "failed":
            continue
        value = float(answer.status == "ok") if name == ANSWERED.name else measured(question, answer).get(name)
        if value is not None:
            samples.setdefault(question.id, []).append(value)
    return {ident: sum(some) / len(some) for ident, some in samples.items()}


def _measure(limit: Limit) -> Measure:
    return ANSWERED if limit.measure == ANSWERED.name else MEASURES[limit.measure]


def _estimate(limit: Limit, before: Sequence[float], after: Sequence[float], seed: int) -> Estimate:
    share = _measure(limit).kind == "rate"
    if limit.statistic == "median":
        changes = [b - a for a, b in zip(before, after, strict=True)]
        return median(changes if limit.of == "difference" else after)
    if limit.of == "difference":
        return paired_difference(before, after, seed=seed, share=share)
    return rate(after) if share else mean(after, seed=seed)


def median(values: Sequence[float]) -> Estimate:
    """The median and its 95% interval between order statistics, from the sign test (exact, without assumptions).

    Fewer than six values have no such interval: it is infinite.
    """
    rows, n = sorted(values), len(values)
    middle = statistics.median(rows)
    if n < _FEW:
        return Estimate(middle, -math.inf, math.inf, n)
    below, rank, whole = 0, 0, 2**n
    while below + math.comb(n, rank) <= _TAIL * whole:
        below += math.comb(n, rank)
        rank += 1
    return Estimate(middle, rows[rank - 1], rows[n - rank], n)


def _held(limit: Limit, estimate: Estimate) -> Ruling:
    """Hold an estimate against its limit."""
    sign = 1.0 if limit.at_most is not None else -1.0
    bound = limit.at_most if limit.at_most is not None else limit.at_least
    assert bound is not None
    # As if every limit were one at most: of values with the sign turned where it is one at least.
    point, border = sign * estimate.value, sign * bound
    worse, better = sorted((sign * estimate.low, sign * estimate.high), reverse=True)
    shown = f"{limit.name}: {_number(limit, estimate.value)}{_interval(limit, estimate)} over {estimate.n:,} questions"
    if limit.by == "point":
        worse = better = point
    if worse <= border:
        return Ruling(limit, "passed", estimate, None, f"{shown}: passed")
    if better > border:
        return Ruling(limit, "failed", estimate, None, f"{shown}: FAILED")
    half = (worse - point) if point <= border else (point - better)
    needed, takes = _needed(estimate.n, half, abs(border - point)), "it takes about {:,}"
    if needed is None or needed > _MANY * estimate.n:
        needed, takes = None, "the estimate is too close to the limit for any number"
        if limit.of == "difference" and border > 0:
            needed, takes = _needed(estimate.n, worse - point, border), "it takes about {:,} if there is no difference"
    return Ruling(limit, "undecided", estimate, needed, f"{shown}: TOO FEW to say, {takes.format(needed)}")


def _needed(n: int, half: float, distance: float) -> int | None:
    """How many questions until the interval's end, `half` away now, is only `distance` away."""
    if math.isinf(half):
        return _FEW
    return math.ceil(n * (half / distance) ** 2) if distance > 0 else None


def _number(limit: Limit, value: float) -> str:
    measure = _measure(limit)
    plus = "+" if limit.of == "difference" and value >= 0 else ""
    if measure.kind == "rate" and limit.statistic == "mean":
        return f"{plus}{100 * value:.1f}" + (" points" if limit.of == "difference" else "%")
    return f"{plus}{value:.4g}" + (f" {measure.unit}" if measure.unit else "")


def _interval(limit: Limit, estimate: Estimate) -> str:
    low, high = _number(limit, estimate.low), _number(limit, estimate.high)
    return f" ({low.removesuffix(' points').removesuffix(f' {_measure(limit).unit}')} to {high})"
