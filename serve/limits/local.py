"""The counts of one machine, exact over all its worker processes."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from math import inf
from pathlib import Path

from serve.limits.counts import BYTES, COUNT, REQUESTS, SPENT, TODAY, TOKENS, USED, Counts
from serve.limits.lease import LEASE_S, Lease, part
from serve.limits.ledger import LedgerFailed
from serve.limits.rate import DAY, MINUTE, level, moved, sound, take
from serve.limits.subject import Refusal, Standing, Subject, longest

log = logging.getLogger("trimtab.limits")
_ENOUGH = 2**50  # where nothing is limited


class LocalLedger:
    """One process's way to the counts; there is one per process (`Counts`)."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Raises OSError where the file cannot be written, or there is no room for it."""
        self._path, self._counts, self._clock = path, Counts(path), clock
        self._leases: dict[tuple[Subject, ...], Lease] = {}  # those of earlier configurations, too
        self._failing = False

    def know(self, groups: Sequence[Sequence[Subject]]) -> list[Lease]:
        """As `Ledger.know`."""
        if self._counts.lost:
            self._begin_anew()
        known = {tuple(group) for group in groups}
        self._return(lease for group, lease in self._leases.items() if group not in known)
        slots = self._counts.slots(sorted({subject.tag for group in groups for subject in group}))
        for group in known - self._leases.keys():
            self._leases[group] = Lease(group, [slots[subject.tag] for subject in group])
        sharing = Counter(subject.tag for group in known for subject in group)
        for group in known:
            self._leases[group].sharing = max((sharing[subject.tag] for subject in group), default=1)
        return [self._leases[tuple(group)] for group in groups]

    def sweep(self) -> None:
        """Give back what is leased, count what is owed, and forget what processes held that have died; or leave all of
        it to the next sweep, where the file is gone and no other can be made."""
        try:
            if self._counts.lost:
                self._begin_anew()
            self._return(self._leases.values())
            self._counts.sweep()
        except OSError as error:
            self._failed(error)
        else:
            self._failing = False

    async def admit(self, lease: Lease, tokens: int, body: int, *, ask: bool = True, leased: bool = True) -> Standing:
        """As `Ledger.admit`; it never waits. `ask` and `leased` are as of `take`."""
        try:
            return self.take(lease, tokens, body, ask=ask, leased=leased)
        except OSError as error:
            self._failed(error)
            raise LedgerFailed from None

    def take(self, lease: Lease, tokens: int, body: int = 0, *, ask: bool = True, leased: bool = False) -> Standing:
        """Ask the counts; without `ask` it is counted whether or not there is room. `leased`: take a lease as well.

        Raises:
            OSError: the file was cut, and no other can be made.
        """
        now = self._clock()
        self._lock()
        try:
            self._settle(lease, now)
            standing = self._take(lease, tokens, body, now, ask)
            if leased and standing.refusal is None:
                self._lease(lease, now)
            return standing
        finally:
            self._counts.unlock()

    def charge(self, lease: Lease, tokens: int) -> None:
        """As `Ledger.charge`."""
        lease.tokens -= tokens
        if not lease.low <= lease.tokens <= lease.high:
            try:
                self._return([lease])
            except OSError as error:  # they stay owed
                self._failed(error)

    def release(self, lease: Lease, tokens: int, body: int, life: int) -> None:
        """As `Ledger.release`. No lock: nobody else writes our column."""
        if lease.life == life and lease.put_back(tokens, body):
            return
        try:
            if self._counts.cut:
                self._begin_anew()
        except OSError as error:  # the counts that hold it are gone
            return self._failed(error)
        if lease.life != life:  # what it gives back was counted in a file that is gone; what it used more is new
            return self.charge(lease, max(0, tokens))
        ints, column = self._counts.ints, self._counts.column
        for slot in lease.places:
            ints[slot + COUNT + column] = max(0, ints[slot + COUNT + column] - 1)
            ints[slot + BYTES + column] = max(0, ints[slot + BYTES + column] - body)
        self.charge(lease, tokens)

    def hold(self, lease: Lease, before: int, now: int, life: int) -> Refusal | None:
        """As `Ledger.hold`."""
        try:
            self._lock()
        except OSError as error:
            self._failed(error)
            if now > before:
                raise LedgerFailed from None
            return None
        try:
            if lease.life != life:  # counted in a file that is gone
                return None
            used = self._counts.ints[USED]
            if now > before:
                self._settle(lease, self._clock())
            for subject, slot in zip(lease.subjects, lease.places, strict=True) if now > before else ():
                limit, first = subject.bounds[4], slot + BYTES
                if limit and sum(self._counts.ints[first : first + used]) - before + now > limit:
                    return Refusal(subject, "body_mb", 1.0)
            for slot in lease.places:
                at = slot + BYTES + self._counts.column
                self._counts.ints[at] = max(0, self._counts.ints[at] + now - before)
            return None
        finally:
            self._counts.unlock()

    def _return(self, leases: Iterable[Lease]) -> None:
        """Give these back, and count what is owed; a lock only where there is something."""
        due = [lease for lease in leases if lease.until or lease.tokens]
        if due:
            now = self._clock()
            self._lock()
            try:
                for lease in due:
                    self._settle(lease, now)
            finally:
                self._counts.unlock()

    def _lock(self) -> None:
        self._counts.lock()
        if self._counts.cut:
            self._counts.unlock()
            self._begin_anew()
            self._counts.lock()

    def _begin_anew(self) -> None:
        """Count in the file that is there now, or in a new one. What is in flight here is counted in neither.

        Raises:
            OSError: there is none, and none can be made. Then all is as before, and may be tried again.
        """
        self._counts.give_up()
        tags = sorted({subject.tag for group in self._leases for subject in group})
        try:
            counts, slots = Counts.opened(self._path, tags)
        except OSError:
            self._counts.keep_column()
            raise
        self._counts = counts  # the descriptors of the one before stay open: `Counts` says why
        for group, lease in self._leases.items():
            lease.places = tuple(slots[subject.tag] for subject in group)
            lease.forget()
        log.warning("%s was deleted, replaced or cut in use: limits count from what is there now", self._path)

    def _failed(self, error: OSError) -> None:
        """Say so once, not with each request: it is tried again with each, and every second."""
        if not self._failing:
            self._failing = True
            log.error("limits cannot be counted: %s", str(error))  # whose traceback holds an open file

    # -- under the lock

    def _settle(self, lease: Lease, now: float) -> None:
        """Count what was used of a lease instead of what it was."""
        ints, times, today, column = self._counts.ints, self._counts.floats, int(now // DAY), self._counts.column
        for subject, slot in zip(lease.subjects, lease.places, strict=True):
            rpm, tpm, budget, _, _ = subject.bounds
            if lease.tokens and tpm:
                times[slot + TOKENS] = moved(times[slot + TOKENS], now, -lease.tokens * MINUTE / tpm)
            if lease.tokens and budget:
                self._spend(slot, today, self._spent(slot, today) - int(lease.tokens))
            if lease.until:
                if lease.requests and rpm:
                    times[slot + REQUESTS] = moved(times[slot + REQUESTS], now, -lease.requests * MINUTE / rpm)
                ints[slot + COUNT + column] -= int(lease.slots)
                ints[slot + BYTES + column] -= int(lease.bytes)
        lease.clear()

    def _lease(self, lease: Lease, now: float) -> None:
        """Take a part of what is free to all subjects, once `_take` has noted how the tightest buckets stand."""
        ints, times, today, column = self._counts.ints, self._counts.floats, int(now // DAY), self._counts.column
        used = ints[USED]
        free = lease.other_tokens if lease.tpm else inf
        slots = size = _ENOUGH
        for subject, slot in zip(lease.subjects, lease.places, strict=True):
            _, _, budget, concurrent, most = subject.bounds
            free = min(free, budget - self._spent(slot, today)) if budget else free
            slots = min(slots, (concurrent or _ENOUGH) - _sum(ints, slot + COUNT, used))
            size = min(size, (most or _ENOUGH) - _sum(ints, slot + BYTES, used))
        leases = used * lease.sharing
        requests, tokens = part(lease.other_requests if lease.rpm else inf, leases), part(free, leases)
        slots, size = int(part(slots, leases)), int(part(size, leases))
        for subject, slot in zip(lease.subjects, lease.places, strict=True):
            rpm, tpm, budget, _, _ = subject.bounds
            if rpm:
                times[slot + REQUESTS] += requests * MINUTE / rpm
            if tpm:
                times[slot + TOKENS] += tokens * MINUTE / tpm
            if budget:
                self._spend(slot, today, self._spent(slot, today) + int(tokens))
            ints[slot + COUNT + column] += slots
            ints[slot + BYTES + column] += size
        lease.other_requests -= requests if lease.rpm else 0
        lease.other_tokens -= tokens if lease.tpm else 0
        lease.grant(now + LEASE_S, requests, tokens, slots, size)

    def _take(self, lease: Lease, tokens: int, body: int, now: float, ask: bool) -> Standing:
        """Ask all buckets and counters, then change them.

        This is most of what a question costs, so buckets that are neither damaged nor short of anything are reckoned
        here rather than by `rate.take`.
        """
        ints, times, today = self._counts.ints, self._counts.floats, int(now // DAY)
        used = ints[USED]
        full = now + MINUTE
        changed: list[tuple[int, float]] = []  # what the buckets' times become
        spent: list[tuple[int, int]] = []  # what the budgets become
        requests = left = (inf, 1, now)  # of the tightest bucket: what is left times a minute, its limit, its time
        refusal: Refusal | None = None  # of several the one that lasts longest: a client is told when to come again
        for subject, slot in zip(lease.subjects, lease.places, strict=True):
            rpm, tpm, budget, concurrent, most = subject.bounds
            if most and body and _sum(ints, slot + BYTES, used) + body > most:
                refusal = longest(refusal, subject, "body_mb", 1.0)
            if concurrent and _sum(ints, slot + COUNT, used) >= concurrent:
                refusal = longest(refusal, subject, "concurrent", 1.0)
            if rpm:
                tat = times[slot + REQUESTS]
                tat = (tat if tat > now else now) + MINUTE / rpm
                if not tat <= full:
                    # Mended where it stands: a refusal changes nothing else, and would come again and again.
                    times[slot + REQUESTS] = sound(times[slot + REQUESTS], now, debt_s=0)
                    tat, early = take(times[slot + REQUESTS], now, rpm, 1)
                    refusal = longest(refusal, subject, "requests_per_minute", early)
                changed.append((slot + REQUESTS, tat))
                if (here := (full - tat) * rpm) < requests[0]:
                    requests = here, rpm, tat
            if tpm:
                tat = times[slot + TOKENS]
                tat = (tat if tat > now else now) + tokens * MINUTE / tpm
                if not tat <= full:
                    times[slot + TOKENS] = sound(times[slot + TOKENS], now)
                    tat, early = take(times[slot + TOKENS], now, tpm, tokens)
                    refusal = longest(refusal, subject, "tokens_per_minute", early)
                changed.append((slot + TOKENS, tat))
                if (here := (full - tat) * tpm) < left[0]:
                    left = here, tpm, tat
            if budget:
                total = self._spent(slot, today) + tokens
                if total > budget:
                    refusal = longest(refusal, subject, "tokens_per_day", DAY - now % DAY)
                spent.append((slot, total))
        if refusal is None or not ask:
            for at, tat in changed:
                times[at] = tat
            for slot, total in spent:
                self._spend(slot, today, total)
            column = self._counts.column
            for slot in lease.places:
                ints[slot + COUNT + column] += 1
                if body:
                    ints[slot + BYTES + column] += body
            lease.rpm, lease.other_requests = (requests[1], requests[0] / MINUTE) if requests[0] < inf else (0, 0.0)
            lease.tpm, lease.other_tokens = (left[1], left[0] / MINUTE) if left[0] < inf else (0, 0.0)
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
