"""From verdicts to numbers: how often an arm is preferred, and what its place and its length had to do with it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from trainers.evaluation.core import Estimate
from trainers.evaluation.stats.intervals import rate, student_quantile
from trainers.evaluation.stats.significance import paired_p
from trainers.judge.pairwise import Verdict

Floats = NDArray[np.float64]

RIDGE = 1e-3  # on every coefficient: keeps a fit finite where the verdicts leave no doubt, and moves no other visibly
RESAMPLES = 999
STEEP = 4.0
FEW = 10  # pairs on which the correction for length may hang


@dataclass(frozen=True, slots=True)
class Bias:
    """A share that would be a half without the bias, the p of that, and of how many verdicts it is made."""

    share: Estimate
    test: str
    p: float

    @property
    def excess(self) -> float:
        """By how much the estimate differs from one half."""
        return self.share.value - 0.5


@dataclass(frozen=True, slots=True)
class Controlled:
    """The win rate at equal length, and how much a longer answer is preferred.

    `longer` is the win rate, all else equal, of the answer that is longer by `spread` characters, one standard
    deviation of the differences around none. `rarer` is the number of pairs in which the arm's answer is the longer
    one, or the shorter one if these are fewer: where it is small the correction is drawn from few pairs.
    """

    rate: Estimate
    longer: Estimate
    spread: float
    rarer: int


@dataclass(frozen=True, slots=True)
class Preference:
    """All that the verdicts on an arm against the baseline say. Rates are those of the arm, ties counted as halves."""

    items: int
    unreadable: int
    refused: int
    wins: int
    losses: int
    ties: int  # both orders said so
    split: int  # the orders contradict each other; a tie too
    win_rate: Estimate | None  # the verdict counts where both orders agree
    mean_rate: Estimate | None  # the mean of both orders
    controlled: Controlled | None
    position: Bias | None
    length: Bias | None

    @property
    def consistent(self) -> int:
        """How many items got the same verdict in both orders."""
        return self.wins + self.losses + self.ties


def preference(verdicts: Sequence[Verdict], *, seed: int = 0) -> Preference:
    """Everything at once; what no readable verdict supports is None."""
    read = [v for v in verdicts if v.readable]
    outcomes = [v.outcome for v in read]
    split = sum(not v.consistent for v in read)
    enough = len({v.question for v in read}) > 1
    return Preference(
        items=len(verdicts),
        refused=sum("refused" in (v.forth, v.back) for v in verdicts),
        unreadable=sum(not v.readable and "refused" not in (v.forth, v.back) for v in verdicts),
        wins=outcomes.count("win"), losses=outcomes.count("loss"), ties=outcomes.count("tie") - split, split=split,
        win_rate=win_rate(verdicts) if read else None,
        mean_rate=win_rate(verdicts, both=True) if read else None,
        controlled=length_controlled(verdicts, seed=seed) if enough else None,
        position=position_bias(verdicts, seed=seed) if enough else None,
        length=length_bias(verdicts, seed=seed) if enough and any(v.longer for v in read) else None,
    )  # fmt: skip


# ---------------------------------------------------------------- rates


def win_rate(verdicts: Sequence[Verdict], *, both: bool = False) -> Estimate:
    """The arm's share: a win counts 1, a tie a half, orders that contradict each other a half.

    With `both` each order counts by itself. No place is preferred in either: every answer stood in both.
    """
    read = [v for v in verdicts if v.readable]
    score = {"win": 1.0, "tie": 0.5, "loss": 0.0, "": 0.5}
    values = [v.score if both else score[v.outcome] for v in read]
    return share(values, [v.question for v in read])


def share(values: Sequence[float], groups: Sequence[Hashable]) -> Estimate:
    """The mean of values from 0 to 1, of which those of a group (a question) depend on each other.

    Groups of one: `intervals.rate`. Else Student's interval with the spread of the groups' sums (the sandwich that
    linear models with clusters use; Liang & Zeger 1986), and where there is no spread `rate` of the groups' means.
    """
    sums: dict[Hashable, list[float]] = defaultdict(list)
    for group, value in zip(groups, values, strict=True):
        sums[group].append(value)
    if len(sums) == len(values):
        return rate(list(values))
    middle, n, size = float(np.mean(values)), len(values), len(sums)
    off = np.array([sum(each) - len(each) * middle for each in sums.values()])
    if size < 2 or not off.any():
        return rate([float(np.mean(each)) for each in sums.values()])
    half = student_quantile(size - 1) * sqrt(size / (size - 1) * float(off @ off)) / n
    return Estimate(middle, max(0.0, middle - half), min(1.0, middle + half), n)


# ---------------------------------------------------------------- place and length


def position_bias(verdicts: Sequence[Verdict], *, seed: int = 0) -> Bias:
    """The share of verdicts for the first place, ties as halves. Every answer stood there once, so a half is fair."""
    read = [v for v in verdicts if v.readable]
    return _bias([v.first for v in read], [v.question for v in read], seed)


def length_bias(verdicts: Sequence[Verdict], *, seed: int = 0) -> Bias:
    """The share of verdicts for the longer answer, both orders, where the lengths differ.

    Longer answers may be better ones: `length_controlled` asks what is left of the preference at equal length, and
    `calibration` whether people like the longer ones as much.
    """
    read = [v for v in verdicts if v.readable and v.longer]
    return _bias([v.score if v.longer > 0 else 1 - v.score for v in read], [v.question for v in read], seed)


def _bias(values: Sequence[float], groups: Sequence[str], seed: int) -> Bias:
    found, means = share(values, groups), by_question(values, groups)
    if len(means) < 2:
        return Bias(found, "too few", 1.0)
    test, p = paired_p([1 - value for value in means], means, seed=seed)
    return Bias(found, test, p)


def by_question(values: Sequence[float], groups: Sequence[Hashable]) -> list[float]:
    """One mean for each question: what a test that wants independent values is given."""
    sums: dict[Hashable, list[float]] = defaultdict(list)
    for group, value in zip(groups, values, strict=True):
        sums[group].append(value)
    return [sum(each) / len(each) for each in sums.values()]


def length_controlled(verdicts: Sequence[Verdict], *, seed: int = 0, steep: bool = True) -> Controlled:
    """The win rate that the judge would give if both answers were of the same length, in both places.

    As AlpacaEval 2 LC (Dubois et al., arXiv 2404.04475, equation 2) for one arm: a logistic regression of the verdict,

        logit P(arm preferred) = a + b tanh(d / s) + c tanh(STEEP d / s),

    d the difference in characters and s its root mean square, read off at d = 0. Ours differs in three points. A pair
    counts as the mean of both orders, so that the place needs no term. The third term is new, for judges who take the
    longer answer however little longer it is: there the first alone leaves a part of the length in the rate
    (`benchmarks/judging.py` shows it; `steep=False` is the paper's). And their term for a question's difficulty wants
    many models' answers. The interval is symmetric in the logit: Student's, with the spread that a bootstrap over the
    questions gives; where every verdict is the same, `share`'s. Where one arm is longer in every pair, and the verdicts
    or the differences are all the same, nothing tells length from worth: the rate is unknown, from 0 to 1.
    """
    read = [v for v in verdicts if v.readable]
    lengths = np.array([v.longer for v in read], dtype=np.float64)
    scores = np.array([v.score for v in read])
    spread = float(np.sqrt(np.mean(lengths**2))) or 1.0
    terms = _terms(lengths / spread, steep)
    rarer = min(int((lengths > 0).sum()), int((lengths < 0).sum()))
    groups = [v.question for v in read]
    unknown = Estimate(0.5, 0.0, 1.0, len(read))
    same = bool(np.all(scores == scores[0]))
    if (lengths.all() and not rarer) and (same or np.ptp(lengths) == 0):
        return Controlled(unknown, unknown, spread, rarer)
    if same or not lengths.any():
        flat = share(scores.tolist(), groups)
        return Controlled(flat, unknown, spread, rarer)
    fits = logistic(terms, scores, _drawn(groups, seed))
    at = _terms(np.array([1.0]), steep)[0, 1:]
    return Controlled(
        _interval(fits[:, 0], terms.shape[1], len(read), len(set(groups))),
        _interval(fits[:, 1:] @ at, terms.shape[1], len(read), len(set(groups))),
        spread,
        rarer,
    )


def _terms(scaled: Floats, steep: bool) -> Floats:
    shapes = [np.ones_like(scaled), np.tanh(scaled)] + ([np.tanh(STEEP * scaled)] if steep else [])
    return np.stack(shapes, axis=1)


def _drawn(groups: Sequence[str], seed: int) -> Floats:
    """(1 + RESAMPLES) x items: how often each item counts; first as they are, then as questions are drawn."""
    names = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    of = np.array([names[group] for group in groups])
    drawn = np.random.default_rng([seed, len(names)]).multinomial(
        len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES
    )
    return np.vstack([np.ones(len(groups)), drawn[:, of]])


def logistic(terms: Floats, values: Floats, weights: Floats) -> Floats:
    """Coefficients (fits x terms) of weighted logistic regressions with a ridge, all at once, by Newton's method.

    Args:
        terms: items x terms. values: items, from 0 to 1; a half is a tie (a quasi-likelihood, Papke & Wooldridge 1996).
        weights: fits x items.
    """
    ridge = RIDGE * np.eye(terms.shape[1])
    out = np.zeros((len(weights), terms.shape[1]))
    for _ in range(60):
        chance = 1 / (1 + np.exp(-np.clip(out @ terms.T, -30, 30)))
        slope = (weights * (values - chance)) @ terms - out @ ridge
        bend = np.einsum("fi,ij,ik->fjk", weights * chance * (1 - chance), terms, terms, optimize=True) + ridge
        step = np.clip(np.linalg.solve(bend, slope[..., None])[..., 0], -3, 3)  # far from the top Newton overshoots
        out += step
        if np.abs(step).max() < 1e-7:
            break
    return out


def _interval(fits: Floats, terms: int, n: int, questions: int) -> Estimate:
    """Of a logit, as rates: Student's with the resamples' spread, half of their middle 68%."""
    low, high = np.quantile(fits[1:], [0.1587, 0.8413])
    free = max(1, questions - terms)
    half = student_quantile(free) * (high - low) / 2 * sqrt(questions / free)
    value, low, high = (float(1 / (1 + np.exp(-x))) for x in (fits[0], fits[0] - half, fits[0] + half))
    return Estimate(value, low, high, n)
