"""What one process has taken from its counts beforehand, so that most requests ask nobody.

A lease is a small part of what is free, so others miss little of it, and none where little is free: near a limit every
request asks the counts. It lasts for a moment. What is left of it goes back with the process's next question, or
within a second; only a process that is killed leaves a lease behind, whose requests and tokens count as used.

A key and its tenant have one lease together, of what both have free: a request is then four subtractions.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from serve.limits.rate import MINUTE, Level
from serve.limits.subject import Standing, Subject

LEASE_S = 0.1
_PART = 100  # of what is free: all leases of a subject together are no more than one of so many parts
_DEFERRED = 256  # the part of a limit that a process may have used and not yet counted


class Lease:
    """What is left of a lease of these subjects; `places` is where the counts of each begin.

    A number that nobody limits is infinite. Tokens are also what the process has used and not yet counted: below zero
    they are owed, and they are counted at once where they leave `low` to `high`. Ended requests come back into the
    lease up to `most_slots` and `most_bytes`. Of the tightest buckets `rpm` and `tpm` are the limits, 0 for none, and
    `other_requests` and `other_tokens` what they hold beside the lease. `sharing` leases of this process have a subject
    in common. `life` is another one whenever the counts are begun anew: what was counted before is in them no more.
    """

    __slots__ = (
        "bodies", "bytes", "counted", "debt", "high", "life", "low", "most_bytes", "most_slots", "other_requests",
        "other_tokens", "places", "requests", "rpm", "sharing", "slots", "subjects", "tokens", "tpm", "until",
    )  # fmt: skip

    def __init__(self, subjects: Sequence[Subject], places: Sequence[int]) -> None:
        self.subjects, self.places, self.sharing = tuple(subjects), tuple(places), 1
        limits = [limit for it in self.subjects for limit in it.bounds[1:3] if limit]
        self.counted = bool(limits)  # whether tokens are limited at all
        self.bodies = any(it.bounds[4] for it in self.subjects)  # and a body's bytes
        self.debt = min(limits, default=inf) / _DEFERRED
        self.rpm = self.tpm = self.life = 0
        self.other_requests = self.other_tokens = self.requests = self.tokens = 0.0
        self.clear()

    def clear(self) -> None:
        """Nothing is left."""
        if self.rpm:
            self.other_requests += self.requests
        if self.tpm:
            self.other_tokens += self.tokens
        self.until = 0.0
        self.requests = self.tokens = self.slots = self.bytes = self.most_slots = self.most_bytes = 0.0
        self.low, self.high = -self.debt, self.debt

    def forget(self) -> None:
        """Nothing is left, and none of it goes back: the counts that it was taken from are gone."""
        self.rpm = self.tpm = 0
        self.life += 1
        self.clear()

    def grant(self, until: float, requests: float, tokens: float, slots: float, size: float) -> None:
        """A new one, of so much."""
        self.until, self.requests, self.tokens, self.slots, self.bytes = until, requests, tokens, slots, size
        self.most_slots, self.most_bytes = slots, size
        self.low, self.high = -self.debt, tokens + self.debt

    def take(self, now: float, tokens: int, body: int) -> bool:
        """Let a request in from what is left, unless that is too little or too old."""
        if now >= self.until or self.requests < 1 or self.tokens < tokens or self.slots < 1 or self.bytes < body:
            return False
        self.requests -= 1
        self.tokens -= tokens
        self.slots -= 1
        self.bytes -= body
        return True

    def put_back(self, tokens: int, body: int) -> bool:
        """A request has ended, which used so many tokens more, if there is room for what it held."""
        slots, size, left = self.slots + 1, self.bytes + body, self.tokens - tokens
        if slots > self.most_slots or size > self.most_bytes or not self.low <= left <= self.high:
            return False
        self.slots, self.bytes, self.tokens = slots, size, left
        return True

    def standing(self) -> Standing:
        """Where the subjects stand, as far as we know."""
        rpm, tpm = self.rpm, self.tpm
        requests, tokens = self.other_requests + self.requests, self.other_tokens + self.tokens
        return Standing(
            Level(rpm, max(0, int(requests)), (rpm - requests) * MINUTE / rpm) if rpm else None,
            Level(tpm, max(0, int(tokens)), (tpm - tokens) * MINUTE / tpm) if tpm else None,
        )


def part(free: float, leases: int) -> float:
    """How much of what is free is one of so many leases."""
    return free if free == inf else max(0.0, free // (_PART * leases))
