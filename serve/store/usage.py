"""What requests came to: counts, times and tokens of a day, by policy and outcome."""

from __future__ import annotations

import time

import msgspec


class Usage(msgspec.Struct, frozen=True):
    """The requests of one day under one policy that had the same outcomes; times and tokens are sums."""

    day: str  # as 2026-11-29, UTC
    policy: str
    outcomes: dict[str, str]  # stage -> status
    failed: bool  # the request was refused or failed
    requests: int
    added_ms: float  # by stages
    total_ms: float
    tokens: int


def usage_row(
    day: int, policy: str, outcome: str, requests: int, added_ms: float, total_ms: float, tokens: float
) -> Usage:
    """One row of what a store counts; `day` is in days since 1970, `outcome` as `serve.store.traces.Listed` has it."""
    words = (outcome or "").split()
    pairs = dict(word.split("=", 1) for word in words if "=" in word)
    shown = time.strftime("%Y-%m-%d", time.gmtime(day * 86400))
    return Usage(shown, policy or "", pairs, "error" in words, requests, added_ms, total_ms, int(tokens))
