"""The token bucket of a rate a minute, as one number (GCRA), and the day of a budget.

A bucket holds a minute's worth and refills continuously, as OpenAI's do: after a pause a client may send a minute's
worth at once, and from then on as fast as the bucket refills. It is kept as the time at which it would be full again
(the theoretical arrival time, `tat`, of ITU-T I.371), so nothing has to refill it, and a damaged one mends itself.
"""

from __future__ import annotations

import msgspec

MINUTE = 60.0
MAX_DEBT_S = 600.0  # an answer of a million tokens closes a bucket for no longer
DAY = 86400
_EPSILON = 1e-6  # seconds that sums of floating-point numbers may be off


class Level(msgspec.Struct, frozen=True, gc=False):
    """What a bucket holds; `reset_s` until it is full."""

    limit: int
    remaining: int
    reset_s: float


def sound(tat: float, now: float, debt_s: float = MAX_DEBT_S) -> float:
    """A stored time as a bucket may have it: between full now and closed for `debt_s`.

    What lies further ahead than any debt was stored before the clock was set back, or is damaged; then the bucket is
    empty, and in debt to nobody.
    """
    if now < tat <= now + MINUTE + debt_s:
        return tat
    if not tat > now:  # also where it is no number
        return now
    return now + MINUTE + (debt_s if tat <= now + 2 * MINUTE + debt_s else 0.0)


def take(tat: float, now: float, limit: int, cost: float) -> tuple[float, float]:
    """The bucket's time after `cost` of its `limit` a minute is taken or, where that is negative, put back; and how
    many seconds too early that would be, 0 if it was there.

    What costs more than a whole bucket is there when that is full, and leaves a debt.
    """
    tat = sound(tat, now)
    after = tat + cost * MINUTE / limit
    early = min(after, tat + MINUTE) - now - MINUTE
    return _bounded(after, now), early if early > _EPSILON else 0.0


def moved(tat: float, now: float, seconds: float) -> float:
    """The bucket's time after it has moved by so many seconds, as `take` would move it."""
    after = (tat if tat > now else now) + seconds
    return after if now <= after <= now + MINUTE else _bounded(sound(tat, now) + seconds, now)


def _bounded(tat: float, now: float) -> float:
    return min(max(tat, now), now + MINUTE + MAX_DEBT_S)


def level(tat: float, now: float, limit: int) -> Level:
    """What a bucket of that time holds."""
    tat = sound(tat, now)
    left = (now + MINUTE - tat) * limit / MINUTE
    return Level(limit, int(left + _EPSILON) if left > 0 else 0, tat - now)
