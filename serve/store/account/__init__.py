"""The account: an append-only, hash-chained log of what was changed and of what requests were given.

`Account` is what its writers see. `chain` says how entries are linked, `segment` how they lie in files, `writer` how
several processes append to them, `checkpoint` how the head of the chain is signed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from serve.store.account.chain import Link


class AccountError(RuntimeError):
    """The account cannot be written: its folder is lost, its key is missing or another, or an extra is missing."""


class Account(Protocol):
    """The account as its writers see it. Any thread and any number of processes may write; nobody may change it."""

    def append(self, kind: str, entry: Mapping[str, Any]) -> Link:
        """Write an entry and return its place in the chain. Once it returns, the entry survives kill -9 and power loss.

        Blocks, as long as a disk takes to sync. Entries of kind "change" have the fields of
        `serve.store.account.change`. `entry` must not have the fields "n", "hash", "at" and "kind", which are set here.

        Raises:
            AccountError: the account is lost, or has another key.
            OSError: the disk is full or fails; then nothing was written.
        """

    def queue(self, entry: bytes) -> None:
        """Queue an entry, a JSON object that begins with "at" and "kind". It is on disk within `account.flush_ms`.

        Never blocks and never raises; `trouble` says why entries cannot be written.
        """

    async def written(self) -> None:
        """Wait until what this process has queued so far is on disk.

        Raises:
            AccountError: it cannot be written.
        """

    @property
    def trouble(self) -> str:
        """Why entries cannot be written at present; "" for no trouble."""

    def close(self) -> None:
        """Write what is queued and let go of everything. Blocks."""
