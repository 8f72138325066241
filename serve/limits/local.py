"""The counts of one machine, exact over all its worker processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from math import inf
from pathlib import Path

from serve.limits.counts import BYTES, COUNT, REQUESTS, SPENT, TODAY, TOKENS, USED, Counts
from serve.limits.lease import LEASE_S, Lease, part
from serve.limits.ledger import Refusal, Standing, Subject
from serve.limits.rate import DAY, MINUTE, Level, level, moved, take

_ENOUGH = 2**50  # where nothing is limited


class LocalLedger:
    """One process's way to the counts; there is one per process (`Counts`)."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Raises OSError where the file cannot be written, or there is no room for it."""
        self._counts, self._clock = Counts(path), clock
        self._leases: dict[str, Lease] = {}  # by tag

    def know(self, subjects: Sequence[Subject]) -> None:
        """Make room for the counts of these subjects. Raises OSError where there is none."""
        slots = self._counts.slots([subject.tag for subject in subjects])
        for subject in subjects:
            known = self._leases.get(subject.tag)
            if known is None or known.subject != subject:
                if known is not None:
                    self._return([known])
                self._leases[subject.tag] = Lease(subject, slots[subject.tag])

    def sweep(self) -> None:
        """Give back what is leased, count what is owed, and forget what processes held that have died."""
        self._return(self._leases.values())
        self._counts.sweep()

    async def admit(self, subjects: Sequence[Subject], tokens: int, body: int) -> Standing:
        """As `Ledger.admit`; it never waits."""
        return self.take(subjects, tokens, body, leased=True)

    def at_once(self, subjects: Sequence[Subject], tokens: int, body: int) -> Standing | None:
        """As `Ledger.at_once`: from what is leased."""
        now, known = self._clock(), self._leases
        for subject in subjects:
            it = known[subject.tag]
            if now >= it.until or it.requests < 1 or it.tokens < tokens or it.slots < 1 or it.bytes < body:
                return None
        requests = left = inf  # of the tightest bucket, as far as we know
        rpm = tpm = 0
        for subject in subjects:
            it = known[subject.tag]
            it.requests -= 1
            it.tokens -= tokens
            it.slots -= 1
            it.bytes -= body
            if (here := it.other_requests + it.requests) < requests:
                requests, rpm = here, it.rpm
            if (here := it.other_tokens + it.tokens) < left:
                left, tpm = here, it.tpm
        return Standing(
            Level(rpm, int(requests), (rpm - requests) * MINUTE / rpm) if rpm else None,
            Level(tpm, int(left), (tpm - left) * MINUTE / tpm) if tpm else None,
        )

    def take(
        self, subjects: Sequence[Subject], tokens: int, body: int = 0, *, ask: bool = True, leased: bool = False
    ) -> Standing:
        """Ask the counts; without `ask` it is counted whether or not there is room. `leased`: take a lease as well."""
        now, leases = self._clock(), [self._leases[subject.tag] for subject in subjects]
        self._counts.lock()
        try:
            self._settle(leases, now)
            standing = self._take(subjects, tokens, body, now, ask)
            if leased and standing.refusal is None:
                self._lease(leases, now)
            return standing
        finally:
            self._counts.unlock()

    def charge(self, subjects: Sequence[Subject], tokens: int) -> None:
        """As `Ledger.charge`."""
        for subject in subjects:
            it = self._leases[subject.tag]
            it.tokens -= tokens
            if not it.low <= it.tokens <= it.high:
                self._return([it])

    def release(self, subjects: Sequence[Subject], tokens: int, body: int) -> None:
        """As `Ledger.release`. No lock: nobody else writes our column."""
        for subject in subjects:
            it = self._leases[subject.tag]
            if it.slots < it.most_slots:
                it.slots += 1
            else:
                self._counts.ints[it.slot + COUNT + self._counts.column] -= 1
            if it.bytes + body <= it.most_bytes:
                it.bytes += body
            elif body:
                self._counts.ints[it.slot + BYTES + self._counts.column] -= body
            it.tokens -= tokens
            if not it.low <= it.tokens <= it.high:
                self._return([it])

    def hold(self, subjects: Sequence[Subject], before: int, now: int) -> Refusal | None:
        """As `Ledger.hold`."""
        used = self._counts.ints[USED]
        self._counts.lock()
        try:
            if now > before:
                self._settle([self._leases[subject.tag] for subject in subjects], self._clock())
            for subject in subjects if now > before else ():
                limit, first = subject.bounds[4], self._leases[subject.tag].slot + BYTES
                if limit and sum(self._counts.ints[first : first + used]) - before + now > limit:
                    return Refusal(subject, "body_mb", 1.0)
            for subject in subjects:
                self._counts.ints[self._leases[subject.tag].slot + BYTES + self._counts.column] += now - before
            return None
        finally:
            self._counts.unlock()

    def _return(self, leases: Iterable[Lease]) -> None:
        """Give these back, and count what is owed; a lock only where there is something."""
        due = [it for it in leases if it.until or it.tokens]
        if due:
            self._counts.lock()
            try:
                self._settle(due, self._clock())
            finally:
                self._counts.unlock()

    # -- under the lock

    def _settle(self, leases: Iterable[Lease], now: float) -> None:
        """Count what was used of these leases instead of what they were."""
        ints, times, today, column = self._counts.ints, self._counts.floats, int(now // DAY), self._counts.column
        for it in leases:
            slot, (rpm, tpm, budget, _, _) = it.slot, it.subject.bounds
            if it.tokens and tpm:
                times[slot + TOKENS] = moved(times[slot + TOKENS], now, -it.tokens * MINUTE / tpm)
            if it.tokens and budget:
                self._spend(slot, today, self._spent(slot, today) - int(it.tokens))
            if it.until:
                if it.requests and rpm:
                    times[slot + REQUESTS] = moved(times[slot + REQUESTS], now, -it.requests * MINUTE / rpm)
                ints[slot + COUNT + column] -= int(it.slots)
                ints[slot + BYTES + column] -= int(it.bytes)
            it.clear()

    def _lease(self, leases: Iterable[Lease], now: float) -> None:
        """Take a part of what is free of each."""
        ints, times, today, column = self._counts.ints, self._counts.floats, int(now // DAY), self._counts.column
        used = ints[USED]
        full = now + MINUTE
        for it in leases:
            slot, (rpm, tpm, budget, concurrent, most) = it.slot, it.subject.bounds
            requests = tokens = inf
            if rpm:
                tat = times[slot + REQUESTS]
                free = (full - tat) * rpm / MINUTE
                requests = part(free, used)
                times[slot + REQUESTS] = tat + requests * MINUTE / rpm
                it.other_requests = free - requests
            if tpm or budget:
                free = (full - times[slot + TOKENS]) * tpm / MINUTE if tpm else inf
                tokens = part(min(free, budget - self._spent(slot, today)) if budget else free, used)
                if tpm:
                    times[slot + TOKENS] += tokens * MINUTE / tpm
                    it.other_tokens = free - tokens
                if budget:
                    self._spend(slot, today, self._spent(slot, today) + int(tokens))
            slots = part((concurrent or _ENOUGH) - _sum(ints, slot + COUNT, used), used)
            size = part((most or _ENOUGH) - _sum(ints, slot + BYTES, used), used)
            ints[slot + COUNT + column] += int(slots)
            ints[slot + BYTES + column] += int(size)
            it.grant(now + LEASE_S, requests, tokens, slots, size)

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
            slot, (rpm, tpm, budget, concurrent, most) = self._leases[subject.tag].slot, subject.bounds
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
                slot = self._leases[subject.tag].slot
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
