"""Whose use is counted, and what is answered to a question about it."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import msgspec

from serve.config import Allowance
from serve.limits.rate import Level

Bound = Literal["requests_per_minute", "tokens_per_minute", "tokens_per_day", "concurrent", "body_mb"]
BOUNDS: tuple[Bound, ...] = get_args(Bound)


class Subject(NamedTuple):
    """A key or a tenant, and what it may use. `tag` is its name among those of all kinds; `bounds` its allowance in
    the order of `Bound`, in bytes instead of megabytes."""

    kind: Literal["key", "tenant"]
    name: str
    tag: str
    bounds: tuple[int, int, int, int, int]


class Refusal(NamedTuple):
    """Why a request may not go now, and in how many seconds it might."""

    subject: Subject
    bound: Bound
    wait_s: float


def longest(refusal: Refusal | None, subject: Subject, bound: Bound, wait_s: float) -> Refusal | None:
    """The refusal, or this one where it lasts longer; 0 seconds are none."""
    return refusal if wait_s <= (0 if refusal is None else refusal.wait_s) else Refusal(subject, bound, wait_s)


class Standing(msgspec.Struct, frozen=True):
    """Where a request's subjects stand once it is counted, the tightest of them; None for what nobody limits."""

    requests: Level | None = None
    tokens: Level | None = None
    refusal: Refusal | None = None


def subject(kind: Literal["key", "tenant"], name: str, may: Allowance) -> Subject:
    """A subject with this allowance."""
    bounds = (may.requests_per_minute, may.tokens_per_minute, may.tokens_per_day, may.concurrent)
    return Subject(kind, name, f"{kind}:{name}", (*bounds, int(may.body_mb * 2**20)))
