"""A circuit breaker: what has failed several times in a row is left alone for a while, then tried once."""

from __future__ import annotations

import time
from collections.abc import Callable


class _Run:
    """Failures in a row."""

    def __init__(self) -> None:
        self.failures, self.until, self.trying, self.why = 0, 0.0, False, ""
        self.owners: set[str] = set()


class Breaker:
    """`threshold` failures in a row open it for `rest_s` seconds; then one call goes through and decides.

    One owner's failures (a tenant's) open it for that owner only, who may have sent what no rewriter can do in time.
    It takes two owners to open it for all.
    """

    def __init__(self, threshold: int = 5, rest_s: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._threshold, self._rest, self._clock = threshold, rest_s, clock
        self._all = _Run()
        self._own: dict[str, _Run] = {}

    def open_reason(self, owner: str = "") -> str:
        """Why the breaker is open and no call may go, or "". After a rest one call goes, alone until it has ended."""
        run = self._open(owner)
        if run is None:
            return ""
        if run.until <= self._clock() and not run.trying:
            run.trying = True
            return ""
        return self._reason(run)

    def resting(self, owner: str = "") -> str:
        """Why a call that is under way is not worth waiting for, or ""."""
        run = self._open(owner)
        return self._reason(run) if run is not None and run.until > self._clock() else ""

    def _open(self, owner: str) -> _Run | None:
        if self._all.failures >= self._threshold and len(self._all.owners) > 1:
            return self._all
        own = self._own.get(owner)
        return own if own is not None and own.failures >= self._threshold else None

    def _reason(self, run: _Run) -> str:
        left = max(1, round(run.until - self._clock()))
        return f"circuit breaker open for {left} s after {run.failures} failures ({run.why})"

    def succeeded(self) -> None:
        """A call came back with an answer: the rewriter is well, whoever asked."""
        self._all = _Run()
        self._own.clear()

    def failed(self, why: str, owner: str = "") -> None:
        """A call failed or was late."""
        for run in (self._all, self._own.setdefault(owner, _Run())):
            run.failures += 1
            run.owners.add(owner)
            run.why, run.trying = why, False
            if run.failures >= self._threshold:
                run.until = self._clock() + self._rest

    def abandoned(self, owner: str = "") -> None:
        """A call ended without saying anything of the rewriter: its client left, or its prompt was refused."""
        for run in (self._all, self._own.get(owner)):
            if run is not None:
                run.trying = False
