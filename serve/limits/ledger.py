"""Who counts what keys and tenants use: the nouns of a question, and the one seam to whoever keeps the counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, get_args

import msgspec

from serve.config import Allowance
from serve.limits.rate import Level

if TYPE_CHECKING:
    from serve.limits.lease import Lease

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


class Standing(msgspec.Struct, frozen=True):
    """Where a request's subjects stand once it is counted, the tightest of them; None for what nobody limits."""

    requests: Level | None = None
    tokens: Level | None = None
    refusal: Refusal | None = None


class LedgerFailed(Exception):
    """The counts cannot be had, and the configuration says that then nobody is served."""


class Ledger(Protocol):
    """Keeps the counts. A refused request counts for nothing."""

    def know(self, groups: Sequence[Sequence[Subject]]) -> list[Lease]:
        """Make room for the counts of these subjects; for each group, whose requests count for all of its subjects, the
        lease that stands for it from here on. Raises OSError where there is none."""

    async def admit(self, lease: Lease, tokens: int, body: int) -> Standing:
        """Count one more request in flight, one of this minute, its `tokens` and the bytes of its `body`, for all
        subjects or for none.

        Raises:
            LedgerFailed: nobody can say.
        """

    def charge(self, lease: Lease, tokens: int) -> None:
        """Count more tokens, or fewer, of a request that was admitted, at the latest a moment later. Never waits."""

    def release(self, lease: Lease, tokens: int, body: int) -> None:
        """A request that was admitted has ended, used so many tokens more than are counted, and its body is gone.
        Never waits."""

    def hold(self, lease: Lease, before: int, now: int) -> Refusal | None:
        """A request's body took `before` bytes and takes `now`, unless it is refused. Never waits."""


def subject(kind: Literal["key", "tenant"], name: str, may: Allowance) -> Subject:
    """A subject with this allowance."""
    bounds = (may.requests_per_minute, may.tokens_per_minute, may.tokens_per_day, may.concurrent)
    return Subject(kind, name, f"{kind}:{name}", (*bounds, int(may.body_mb * 2**20)))
