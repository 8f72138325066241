"""The counts of one machine, exact over all its worker processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path

from serve.limits.counts import BYTES, COUNT, REQUESTS, SPENT, TODAY, TOKENS, USED, Counts
from serve.limits.ledger import Refusal, Standing, Subject
from serve.limits.rate import DAY, MINUTE, level, moved, take

_DEFERRED = 256  # the part of a limit that a process may have used and not yet counted


class LocalLedger:
    """One process's way to the counts; there is one per process (`Counts`)."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Raises OSError where the file cannot be written, or there is no room for it."""
        self._counts, self._clock = Counts(path), clock
        self._slots: dict[str, int] = {}  # by tag
        self._owed: dict[str, int] = {}  # by tag: tokens that are counted under the next lock
        self._owing: dict[str, Subject] = {}

    def know(self, subjects: Sequence[Subject]) -> None:
        """Make room for the counts of these subjects. Raises OSError where there is none."""
        self._slots |= self._counts.slots([subject.tag for subject in subjects])

    def sweep(self) -> None:
        """Count what is owed, and forget what processes held that have died."""
        self.settle()
        self._counts.sweep()

    async def admit(self, subjects: Sequence[Subject], tokens: int, body: int) -> Standing:
        """As `Ledger.admit`; it never waits."""
        return self.take(subjects, tokens, body)

    def take(self, subjects: Sequence[Subject], tokens: int, body: int = 0, *, ask: bool = True) -> Standing:
        """The same at once; without `ask` it is counted whether or not there is room."""
        now = self._clock()
        self._counts.lock()
        try:
            if self._owed:
                self._settle(now)
            return self._take(subjects, tokens, body, now, ask)
        finally:
            self._counts.unlock()

    def charge(self, subjects: Sequence[Subject], tokens: int) -> None:
        """As `Ledger.charge`."""
        due = False
        for subject in subjects:
            tag = subject.tag
            self._owing[tag] = subject
            self._owed[tag] = owed = self._owed.get(tag, 0) + tokens
            _, tpm, budget, _, _ = subject.bounds
            least = tpm if tpm and not 0 < budget < tpm else budget
            due = due or abs(owed) * _DEFERRED > least
        if due:
            self.settle()

    def settle(self) -> None:
        """Count the tokens that are owed."""
        if self._owed:
            self._counts.lock()
            try:
                self._settle(self._clock())
            finally:
                self._counts.unlock()

    def release(self, subjects: Sequence[Subject], body: int = 0) -> None:
        """As `Ledger.release`. No lock: nobody else writes our column."""
        ints, column = self._counts.ints, self._counts.column
        for subject in subjects:
            slot = self._slots[subject.tag]
            ints[slot + COUNT + column] -= 1
            if body:
                ints[slot + BYTES + column] -= body

    def hold(self, subjects: Sequence[Subject], before: int, now: int) -> Refusal | None:
        """As `Ledger.hold`."""
        used = self._counts.ints[USED]
        self._counts.lock()
        try:
            for subject in subjects if now > before else ():
                limit, first = subject.bounds[4], self._slots[subject.tag] + BYTES
                if limit and sum(self._counts.ints[first : first + used]) - before + now > limit:
                    return Refusal(subject, "body_mb", 1.0)
            for subject in subjects:
                self._counts.ints[self._slots[subject.tag] + BYTES + self._counts.column] += now - before
            return None
        finally:
            self._counts.unlock()

    # -- under the lock

    def _settle(self, now: float) -> None:
        times, today = self._counts.floats, int(now // DAY)
        for tag, tokens in self._owed.items():
            slot, (_, tpm, budget, _, _) = self._slots[tag], self._owing[tag].bounds
            if tpm:
                times[slot + TOKENS] = moved(times[slot + TOKENS], now, tokens * MINUTE / tpm)
            if budget:
                self._spend(slot, today, self._spent(slot, today) + tokens)
        self._owed.clear()

    def _take(self, subjects: Sequence[Subject], tokens: int, body: int, now: float, ask: bool) -> Standing:
        """Ask all buckets and counters, then change them.

        This is most of what limits cost a request, so buckets that are neither damaged nor short of anything are
        reckoned here rather than by `rate.take`.
        """
        ints, times, today = self._counts.ints, self._counts.floats, int(now // DAY)
        used = ints[USED]
        full = now + MINUTE
        changed: list[tuple[int, float]] = []  # what the buckets' times become
        spent: list[tuple[int, int]] = []  # what the budgets become
        requests = left = (inf, 1, now)  # of the tightest bucket: what is left times a minute, its limit, its time
        refusal: Refusal | None = None
        for subject in subjects:
            slot, (rpm, tpm, budget, concurrent, most) = self._slots[subject.tag], subject.bounds
            if most and body and _sum(ints, slot + BYTES, used) + body > most:
                refusal = Refusal(subject, "body_mb", 1.0)
            if concurrent and _sum(ints, slot + COUNT, used) >= concurrent:
                refusal = Refusal(subject, "concurrent", 1.0)
            if rpm:
                tat = times[slot + REQUESTS]
                tat = (tat if tat > now else now) + MINUTE / rpm
                if not tat <= full:
                    tat, early = take(times[slot + REQUESTS], now, rpm, 1)
                    refusal = Refusal(subject, "requests_per_minute", early) if early else refusal
                changed.append((slot + REQUESTS, tat))
                if (here := (full - tat) * rpm) < requests[0]:
                    requests = here, rpm, tat
            if tpm:
                tat = times[slot + TOKENS]
                tat = (tat if tat > now else now) + tokens * MINUTE / tpm
                if not tat <= full:
                    tat, early = take(times[slot + TOKENS], now, tpm, tokens)
                    refusal = Refusal(subject, "tokens_per_minute", early) if early else refusal
                changed.append((slot + TOKENS, tat))
                if (here := (full - tat) * tpm) < left[0]:
                    left = here, tpm, tat
            if budget:
                total = self._spent(slot, today) + tokens
                if total > budget:
                    refusal = Refusal(subject, "tokens_per_day", DAY - now % DAY)
                spent.append((slot, total))
            if refusal is not None and ask:
                break
        else:
            for at, tat in changed:
                times[at] = tat
            for slot, total in spent:
                self._spend(slot, today, total)
            column = self._counts.column
            for subject in subjects:
                slot = self._slots[subject.tag]
                ints[slot + COUNT + column] += 1
                if body:
                    ints[slot + BYTES + column] += body
        return Standing(
            level(requests[2], now, requests[1]) if requests[0] < inf else None,
            level(left[2], now, left[1]) if left[0] < inf else None,
            refusal,
        )

    def _spent(self, slot: int, today: int) -> int:
        return self._counts.ints[slot + SPENT] if self._counts.ints[slot + TODAY] == today else 0

    def _spend(self, slot: int, today: int, tokens: int) -> None:
        self._counts.ints[slot + TODAY], self._counts.ints[slot + SPENT] = today, max(0, tokens)


def _sum(ints: memoryview, first: int, columns: int) -> int:
    """What all processes hold; of one it is one number, and a slice would cost more than the rest."""
    return ints[first] if columns == 1 else sum(ints[first : first + columns])
