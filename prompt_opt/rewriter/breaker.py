"""A circuit breaker: what has failed several times in a row is left alone for a while, then tried once."""

from __future__ import annotations

import time
from collections.abc import Callable


class Breaker:
    """`threshold` failures in a row open it for `rest_s` seconds; then one call goes through and decides."""

    def __init__(self, threshold: int = 5, rest_s: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._threshold, self._rest, self._clock = threshold, rest_s, clock
        self._failures, self._until, self._trying = 0, 0.0, False
        self._why = ""

    def open_reason(self) -> str:
        """Why the breaker is open and no call may go, or "". After a rest one call goes, alone until it has ended."""
        if self._failures < self._threshold:
            return ""
        if self._until <= self._clock() and not self._trying:
            self._trying = True
            return ""
        return self._reason()

    def resting(self) -> str:
        """Why a call that is under way is not worth waiting for, or ""."""
        return self._reason() if self._failures >= self._threshold and self._until > self._clock() else ""

    def _reason(self) -> str:
        left = max(1, round(self._until - self._clock()))
        return f"circuit breaker open for {left} s after {self._failures} failures ({self._why})"

    def succeeded(self) -> None:
        """A call came back with an answer."""
        self._failures, self._trying = 0, False

    def failed(self, why: str) -> None:
        """A call failed or was late."""
        self._failures += 1
        self._why, self._trying = why, False
        if self._failures >= self._threshold:
            self._until = self._clock() + self._rest

    def abandoned(self) -> None:
        """A call ended without saying anything of the rewriter: its client left."""
        self._trying = False
