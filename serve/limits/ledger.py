"""The one seam to whoever keeps the counts of what keys and tenants use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from serve.limits.lease import Lease
from serve.limits.subject import Refusal, Standing, Subject


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

    def release(self, lease: Lease, tokens: int, body: int, life: int) -> None:
        """A request that was admitted in this `life` of the lease has ended, used so many tokens more than are counted,
        and its body is gone. Never waits."""

    def hold(self, lease: Lease, before: int, now: int, life: int) -> Refusal | None:
        """A request's body took `before` bytes and takes `now`, unless it is refused. Never waits.

        Raises:
            LedgerFailed: it takes more, and nobody can say whether it may.
        """
