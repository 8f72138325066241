"""Whether two arms differ: paired tests, Holm's correction, and how many questions a difference takes to be seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
FLIPS = 19_999  # the smallest p that the sign-flip test can give is 1 in 20,000
DECISIVE = 6  # pairs, all going one way, that give a p under 0.05: 2 / 2^6
ENOUGH = 200  # of the flips beyond what was observed; more would only make a large p more exact
_NORMAL = NormalDist()


def array(values: Sequence[float] | Sequence[bool] | Values, least: int) -> Values:
    """Values as a float64 array; ValueError where there are fewer than `least`, or one is not finite."""
    out = np.asarray(values, dtype=np.float64)
    if out.ndim != 1 or len(out) < least:
        raise ValueError(f"an interval needs {least} value{'s' if least > 1 else ''} or more, of one number each")
    if not np.isfinite(out).all():
        raise ValueError("a value is not a finite number")
    return out


def pairs(before: Sequence[float], after: Sequence[float]) -> tuple[Values, Values]:
    """Two arrays of one length, by position; ValueError where they are not, or hold fewer than two."""
    one, two = array(before, 2), array(after, 2)
    if len(one) != len(two):
        raise ValueError(f"{len(one)} values before and {len(two)} after cannot be pairs")
    return one, two


def binary(values: Values) -> bool:
    """Whether every value is 0 or 1."""
    return bool(np.isin(values, (0.0, 1.0)).all())


def paired_p(before: Sequence[float], after: Sequence[float], *, seed: int = 0) -> tuple[str, float]:
    """The test's name and its two-sided p, that the arms do not differ.

    Of yes and no: McNemar's exact test, the binomial of the pairs that differ. Of anything else: the sign-flip
    permutation test of the mean difference (Fisher 1935), all flips where they are few, else drawn until ENOUGH are
    beyond what was observed or FLIPS are drawn (Besag & Clifford 1991: such a p is valid).
    """
    one, two = pairs(before, after)
    change = two - one
    if binary(one) and binary(two):
        return "McNemar, exact", _mcnemar(int((change > 0).sum()), int((change < 0).sum()))
    change = change[change != 0.0]
    return "sign-flip permutation", _flip_p(change, seed) if len(change) else 1.0


def _mcnemar(gained: int, lost: int) -> float:
    differ, fewer = gained + lost, min(gained, lost)
    tail = sum(math.comb(differ, k) for k in range(fewer + 1))  # in whole numbers: no rounding at any size
    return float(min(1.0, 2 * tail / 2**differ))


def _flip_p(change: Values, seed: int) -> float:
    n = len(change)
    least = abs(float(change.sum())) * (1 - 1e-9)  # a sum of the same numbers in another order may differ by a rounding
    if n <= 14:
        flips = np.arange(2**n)[:, None] >> np.arange(n) & 1
        return float((np.abs((1 - 2 * flips) @ change) >= least).mean())
    rng = np.random.default_rng([seed, n])
    beyond, drawn, step = 0, 0, max(64, min(1000, 4_000_000 // n))
    while drawn < FLIPS:
        step = min(step, FLIPS - drawn)
        bits = np.unpackbits(rng.integers(0, 256, (step, (n + 7) // 8), dtype=np.uint8), axis=1, count=n)
        hits = np.cumsum(np.abs(change.sum() - 2 * (bits @ change)) >= least)
        if beyond + hits[-1] >= ENOUGH:
            return ENOUGH / (drawn + 1 + int(np.searchsorted(hits, ENOUGH - beyond)))
        beyond, drawn = beyond + int(hits[-1]), drawn + step
    return (beyond + 1) / (drawn + 1)


def differing(before: Sequence[float], after: Sequence[float]) -> int:
    """How many pairs differ; by them alone both tests judge."""
    one, two = pairs(before, after)
    return int(np.count_nonzero(two - one))


def holm(ps: Sequence[float], differ: Sequence[int] | None = None) -> list[float]:
    """The p values corrected for being many (Holm 1979): with 0.05 as the limit, the chance that any of the true null
    hypotheses is rejected stays under 5%, however they depend on each other.

    `differ` says how many pairs differ in each. Of fewer than DECISIVE no test can reach 0.05, whichever way they go,
    so such a comparison gets a p of 1 and the others need not pay for it (Tarone 1990).
    """
    counted = [i for i in range(len(ps)) if differ is None or differ[i] >= DECISIVE]
    out, running = [1.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(counted, key=lambda i: ps[i])):
        running = max(running, min(1.0, (len(counted) - rank) * ps[i]))
        out[i] = running
    return out


# ---------------------------------------------------------------- how many


def needed(before: Sequence[float], after: Sequence[float], *, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """How many questions would show a difference as large as the observed one; None where there is none.

    The observed difference is itself uncertain: this is a guide to the size of the next run, not a promise.
    """
    one, two = pairs(before, after)
    change = two - one
    effect = float(change.mean())
    if binary(one) and binary(two):
        return needed_for(effect, float(np.abs(change).mean()), power=power, alpha=alpha) if effect else None
    spread = float(change.std(ddof=1))
    if abs(effect) <= 1e-12 * max(1.0, float(np.abs(change).max())):
        return None
    return needed_for(effect, spread, kind="mean", power=power, alpha=alpha)


def needed_for(
    effect: float,
    discordant_or_sd: float,
    *,
    kind: Literal["rate", "mean"] = "rate",
    power: float = 0.8,
    alpha: float = 0.05,
    comparisons: int = 1,
) -> int:
    """How many questions show an effect in `power` of all runs.

    Args:
        effect: the difference to find, of two rates (0.1 for ten points) or of two means in their unit.
        discordant_or_sd: for a rate, the share of questions whose answers differ between the arms, at least |effect|
            (Miettinen 1968; Connor 1987, equation 3; 2/|effect| more for the exact test's caution). For a mean, the
            standard deviation of the differences per question.
        comparisons: how many there are with the baseline; the first step of Holm's correction divides alpha by it.

    Raises:
        ValueError: no effect, or an effect that this many differing questions cannot have.
    """
    size, spread = abs(effect), discordant_or_sd
    if not size or not math.isfinite(size) or spread < 0:
        raise ValueError("the effect must be a number other than 0, and what it is found in not negative")
    limit, strength = _NORMAL.inv_cdf(1 - alpha / comparisons / 2), _NORMAL.inv_cdf(power)
    # An exact p takes a certain number of differing pairs to be small, even should all go one way.
    fewest = math.ceil(math.log2(2 * comparisons / alpha))
    if kind == "mean":
        # The second term is for the spread being estimated (Guenther 1981).
        return max(fewest, math.ceil(((limit + strength) * spread / size) ** 2 + limit**2 / 2))
    if not size <= spread <= 1:
        raise ValueError(f"an effect of {size:g} needs {size:g} to 1 of the answers to differ, not {spread:g}")
    found = ((limit * math.sqrt(spread) + strength * math.sqrt(spread - size**2)) / size) ** 2
    return math.ceil(max(found + 2 / size, fewest / spread))
