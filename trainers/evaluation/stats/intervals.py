"""What the numbers of an evaluation can bear: 95% intervals of a rate, a mean, a paired difference, an agreement.

Pure functions of one value a question, and a seed. The question is the unit of everything here: several samples of
one question are averaged before (Miller 2024, "Adding error bars to evals"). Which method stands here was decided by
its coverage, which `python -m benchmarks.eval_coverage` prints; the textbook bootstraps (percentile, BCa) fell short
for rates near 0 or 1 and for differences with heavy tails. Tests and planning are in `significance.py`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from trainers.evaluation.core import Estimate
from trainers.evaluation.stats.significance import (
    Values,
    array,
    binary,
    differing,
    holm,
    needed,
    needed_for,
    paired_p,
    pairs,
)
from trainers.run.wilson import Z95, wilson

__all__ = ["differing", "holm", "kappa", "mean", "needed", "needed_for", "paired_difference", "paired_p", "rate"]

LEVEL = 0.95
RESAMPLES = 1999
MANY = 5000  # questions, from which on Student's interval will do and the resamples would only take memory
PRIOR = 0.5  # questions
FEW = 10  # pairs that differ


# ---------------------------------------------------------------- one arm


def rate(yes: Sequence[bool] | Sequence[float] | Values) -> Estimate:
    """A share of yes: Wilson's score interval (1927), which holds for rates near 0 and 1.

    Where a value is a share itself (several samples of a question) the interval is Wilson's for the number of
    questions that would have given the same variance, p(1 - p) / var (Kish's effective size; Korn & Graubard 1998).
    Raises ValueError for no values, or one outside 0 to 1.
    """
    values = array(yes, 1)
    if values.min() < 0 or values.max() > 1:
        raise ValueError("a rate is made of values between 0 and 1")
    n, share = len(values), float(values.mean())
    size = float(n)
    if not binary(values) and n > 1 and 0 < share < 1:
        # Where few say yes (or no), their variance says little yet, and theirs is taken to be that of yes and no.
        whole = share * (1 - share)
        spread = (float(values.var()) * n * whole + PRIOR * whole) / (n * whole + PRIOR)
        size = n * whole / spread
    low, high = wilson(share, size)
    return Estimate(share, low, high, n)


def mean(values: Sequence[float] | Values, *, seed: int = 0) -> Estimate:
    """An average of any numbers: the symmetric bootstrap-t interval (Hall 1988), and never less than Student's.

    Needs two values; with values that are all the same it has no width.
    """
    data = array(values, 2)
    middle = float(data.mean())
    half = _half_width(data, seed)
    return Estimate(middle, middle - half, middle + half, len(data))


def _half_width(data: Values, seed: int) -> float:
    """Of the interval around the mean: the 95% quantile of the resamples' |t|, times the standard error."""
    n, spread = len(data), float(data.std(ddof=1))
    # Equal numbers may have a mean that is a rounding error away from them.
    if spread <= 1e-12 * max(1.0, float(np.abs(data).max())):
        return 0.0
    if n >= MANY:
        return student_quantile(n - 1) * spread / math.sqrt(n)
    scaled = ((data - data.mean()) / spread).astype(np.float32)
    drawn = _resamples(n, seed)
    means = drawn @ scaled / n
    variances = drawn @ (scaled * scaled) / n - means**2
    fine = variances > 1e-6  # a resample of one value only has no t
    t = np.abs(means[fine]) / np.sqrt(variances[fine] / (n - 1))
    quantile = float(np.quantile(t, LEVEL)) if len(t) else 0.0
    return max(quantile, student_quantile(n - 1)) * spread / math.sqrt(n)


@lru_cache(maxsize=2)
def _resamples(n: int, seed: int) -> NDArray[np.float32]:
    """RESAMPLES x n: how often each question was drawn. Shared by all measures, as the questions are."""
    rng = np.random.default_rng([seed, n])
    picks = rng.integers(0, n, (RESAMPLES, n)) + np.arange(RESAMPLES)[:, None] * n
    return np.bincount(picks.ravel(), minlength=RESAMPLES * n).reshape(RESAMPLES, n).astype(np.float32)


@cache
def student_quantile(degrees: int) -> float:
    """The t that 95% of Student's distribution lies within, by bisection (Abramowitz & Stegun 26.7.3 and 26.7.4)."""
    if degrees > 1000:
        return Z95 + (Z95**3 + Z95) / (4 * degrees)  # 26.7.5, its first term

    def within(t: float) -> float:
        angle = math.atan(t / math.sqrt(degrees))
        cosine, odd = math.cos(angle), degrees % 2
        term, total = (cosine if odd else 1.0), 0.0
        for k in range(1 if odd else 0, degrees - 1, 2):
            total += term
            term *= cosine**2 * (k + 1) / (k + 2)
        return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total

    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) < LEVEL else (low, middle)
    return high


# ---------------------------------------------------------------- two arms


def paired_difference(
    before: Sequence[float], after: Sequence[float], *, seed: int = 0, share: bool = False
) -> Estimate:
    """after - before over the same questions, by position.

    Of yes and no (0 and 1): Tango's score interval for paired rates (1998), which keeps its coverage where few pairs
    differ. Of anything else the symmetric paired bootstrap-t, as `mean`; but of a rate's shares (`share`: several
    samples of a question) that differ in fewer than FEW pairs, Student's interval with one pair more for and one more
    against (after Agresti & Min 2005, Bonett & Price 2012). Raises ValueError for fewer than two pairs.
    """
    one, two = pairs(before, after)
    n = len(one)
    change = two - one
    middle = float(change.mean())
    if binary(one) and binary(two):
        low, high = _tango(int((change > 0).sum()), int((change < 0).sum()), n)
    elif share and np.count_nonzero(change) < FEW:
        low, high = _smoothed(change)
    else:
        half = _half_width(change, seed)
        low, high = middle - half, middle + half
    return Estimate(middle, min(low, middle), max(high, middle), n)


def _tango(gained: int, lost: int, n: int) -> tuple[float, float]:
    """The differences that a score test does not reject (Tango 1998, equations 8 to 10)."""
    middle = (gained - lost) / n

    def beyond(delta: float) -> bool:
        b = (2 * n - gained + lost) * delta - gained - lost
        c = -lost * delta * (1 - delta)
        q = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)  # of the pairs that lose, given delta
        variance = n * (2 * q + delta * (1 - delta))
        return abs(gained - lost - n * delta) > Z95 * math.sqrt(max(variance, 0.0))

    return _edge(beyond, middle, -1.0), _edge(beyond, middle, 1.0)


def _edge(beyond: Callable[[float], bool], inside: float, outside: float) -> float:
    """Where, between a point that is not beyond and one that may be, the border lies."""
    if not beyond(outside):
        return outside
    for _ in range(50):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if beyond(middle) else (middle, outside)
    return outside


def _smoothed(change: Values) -> tuple[float, float]:
    """The interval of the mean of differences between -1 and 1, with a pair added at the larger end of each sign."""
    size = max(float(np.abs(change).max()), 0.5)
    more = np.append(change, (-size, size))
    half = student_quantile(len(change) - 1) * float(more.std(ddof=1)) / math.sqrt(len(more))
    return max(-1.0, float(more.mean()) - half), min(1.0, float(more.mean()) + half)


# ---------------------------------------------------------------- agreement


def kappa(a: Sequence[str], b: Sequence[str]) -> Estimate:
    """Cohen's kappa (1960) of two labellings of the same items, by position: agreement beyond what chance gives.

    The interval is Wilson's for the agreement, with the chance agreement as found (as Cohen's own standard error has
    it). Where both always give the same one label chance explains everything and kappa is taken as 0.
    """
    if len(a) != len(b) or not a:
        raise ValueError("kappa needs two labels for each of one item or more")
    n = len(a)
    agreed = sum(x == y for x, y in zip(a, b, strict=True)) / n
    left, right = Counter(a), Counter(b)
    chance = sum(left[label] * right[label] for label in left) / n**2
    if chance >= 1.0:
        return Estimate(0.0, 0.0, 0.0, n)
    low, high = wilson(agreed, n)
    value, low, high = ((x - chance) / (1 - chance) for x in (agreed, low, high))
    return Estimate(value, max(-1.0, low), min(1.0, high), n)
