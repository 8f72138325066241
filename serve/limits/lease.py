"""What one process has taken from a subject's counts beforehand, so that most requests ask nobody.

A lease is a small part of what is free, so others miss little of it, and none where little is free: near a limit every
request asks the counts. It lasts for a moment. What is left of it goes back with the process's next question, or
within a second; only a process that is killed leaves a lease behind, whose requests and tokens count as used.
"""

from __future__ import annotations

from math import inf

from serve.limits.ledger import Subject

LEASE_S = 0.1
_PART = 100  # of what is free: all leases of a subject together are no more than one of so many parts
_DEFERRED = 256  # the part of a limit that a process may have used and not yet counted


class Lease:
    """What is left of a lease. `slot` is where the subject's counts begin; a number that nobody limits is infinite.

    Tokens are also what the process has used and not yet counted: below zero they are owed, and they are counted at
    once where they leave `low` to `high`. Ended requests come back into the lease up to `most_slots` and `most_bytes`.
    """

    __slots__ = (
        "bytes", "debt", "high", "low", "most_bytes", "most_slots", "other_requests", "other_tokens", "requests",
        "rpm", "slot", "slots", "subject", "tokens", "tpm", "until",
    )  # fmt: skip

    def __init__(self, subject: Subject, slot: int) -> None:
        self.subject, self.slot = subject, slot
        self.rpm, self.tpm, budget, _, _ = subject.bounds
        self.debt = min([limit for limit in (self.tpm, budget) if limit], default=inf) / _DEFERRED
        self.other_requests = 0.0 if self.rpm else inf  # what the buckets hold beside it
        self.other_tokens = 0.0 if self.tpm else inf
        self.clear()

    def clear(self) -> None:
        """Nothing is left."""
        self.until = 0.0
        self.requests = self.tokens = self.slots = self.bytes = self.most_slots = self.most_bytes = 0.0
        self.low, self.high = -self.debt, self.debt

    def grant(self, until: float, requests: float, tokens: float, slots: float, size: float) -> None:
        """A new one, of so much."""
        self.until, self.requests, self.tokens, self.slots, self.bytes = until, requests, tokens, slots, size
        self.most_slots, self.most_bytes = slots, size
        self.low, self.high = -self.debt, tokens + self.debt


def part(free: float, processes: int) -> float:
    """How much of what is free a process may lease."""
    return free if free == inf else max(0.0, free // (_PART * processes))
