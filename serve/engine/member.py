"""One URL of a pool: whether it is healthy, what is pending there, and how far it may be trusted with more.

    unknown ── health check succeeds ──> up ── unreachable, unhealthy or failing ──> ejected ──> up, slowly

A failing member is one whose answers fail although its health check succeeds. It stays ejected for a time that doubles
with each ejection, then takes a single request, and twice as many with each answer until it is trusted again.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Sequence
from typing import Literal

from serve import metrics
from serve.engine.upstream import Upstream

FAILURES = 3  # in a row, after which a member is ejected
_EJECTED_S = 5.0  # for the first time; doubled with each further ejection
_EJECTED_MOST_S = 60.0
_DOUBTED_S = 0.5  # without an answer to a health check, after which others are preferred
_TRUSTED = 64  # pending requests from which on a returning member is not limited any more


class Member:
    """The state of one URL. Times are `time.monotonic()` seconds."""

    def __init__(self, engine: str, url: str) -> None:
        self.url, self.pending = url, 0
        self.state: Literal["unknown", "up", "ejected"] = "unknown"
        self.reason = ""
        self.checking: asyncio.Task[None] | None = None
        self.asked = math.inf  # since when a health check waits for its answer
        self.gauge = metrics.pending.labels(engine, url)
        self.waiting: set[Upstream] = set()  # requests without an answer, of an engine whose requests may be repeated
        self.failing = False  # ejected for its answers
        self.until = 0.0  # until then it gets no request: it said so (Retry-After), or it is failing
        self.cap = math.inf  # requests that may be pending here
        self._failures = 0  # in a row
        self._ejections = 0  # for its answers, since it was last trusted

    def take(self) -> None:
        """Count a request that is sent here."""
        self.pending += 1
        self.gauge.inc()

    def release(self) -> None:
        """Count a request that is over."""
        self.pending -= 1
        self.gauge.dec()

    # -- by its answers

    def served(self) -> None:
        """Note an answer that was none of a failing engine: trust it with twice as much."""
        self._failures = 0
        if self.cap < _TRUSTED:
            self.cap *= 2
        elif self._ejections:
            self.cap, self._ejections = math.inf, 0

    def failed(self) -> bool:
        """Note a failure; True where it was one too many. While a member returns, one is."""
        self._failures += 1
        return self._failures >= FAILURES or self.cap < _TRUSTED

    def doubtful(self, now: float) -> bool:
        """Whether a health check is taking so long that the engine may hang."""
        return now - self.asked > _DOUBTED_S

    def rest(self, seconds: float) -> None:
        """Send nothing here for so long, as its Retry-After asks."""
        self.until = max(self.until, time.monotonic() + seconds)

    # -- its state

    def eject(self, reason: str, *, failing: bool) -> None:
        """Take it out; `failing` where its answers are the reason, so that health alone does not bring it back."""
        self.state, self.reason, self.failing, self._failures = "ejected", reason, failing, 0
        if failing:
            self.rest(min(_EJECTED_S * 2**self._ejections, _EJECTED_MOST_S))
            self._ejections += 1
        else:
            self.until = 0.0  # what comes back is another life of it

    def returns(self) -> bool:
        """Whether a successful health check is enough for it to come back now."""
        return not self.failing or time.monotonic() >= self.until

    def admit(self) -> None:
        """Take it in again, or for the first time."""
        if self.state == "ejected":
            self.cap = 1
        self.state, self.reason, self.failing = "up", "", False


def ranked(members: Sequence[Member], prefix: str) -> tuple[Member, ...]:
    """The members in a prefix's order of preference.

    Rendezvous hashing: all processes agree, and the loss of a member moves no other's prefixes.
    """

    def weight(member: Member) -> bytes:
        return hashlib.blake2b(f"{prefix}\n{member.url}".encode(), digest_size=8).digest()

    return tuple(sorted(members, key=weight, reverse=True))
