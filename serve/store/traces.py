"""The store of traces: what each stage did to a request, kept for its tenant until it expires."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import msgspec

OUTCOMES = ("applied", "skipped", "timed_out", "failed", "none", "error")  # of a stage; no stage; of the request


class _Stage(msgspec.Struct):
    stage: str = ""
    status: str = ""
    reason: str = ""


class Summary(msgspec.Struct):
    """The line that a list has of a trace."""

    id: str = ""
    created: int = 0
    path: str = ""
    policy: str | None = None
    key: str = ""
    engine: str = ""
    model: str = ""
    stages: list[_Stage] = []
    status: int = 0
    error: str | None = None
    usage: Any = None
    first_byte_ms: float | None = None
    total_ms: float = 0.0


class Traces(Protocol):
    """The traces that one worker writes and reads; several workers share what is behind it."""

    dropped: int
    """Traces lost so far: they came faster than they could be stored, or the store failed."""

    def put(self, ident: str, tenant: str, body: Mapping[str, Any]) -> None:
        """Queue a trace. Never blocks and never raises; where the queue is full the trace is dropped."""

    async def find(self, ident: str, tenant: str) -> dict[str, Any] | None:
        """A trace of this tenant, from any worker; None where there is none or it has expired."""

    async def recent(
        self, tenant: str, *, policy: str = "", outcome: str = "", key: str = "", after: str = "", limit: int = 50
    ) -> tuple[list[Summary], str]:
        """This tenant's traces, newest first, and what to give as `after` for the next page; "" at the end.

        Raises:
            ValueError: `after` is no page's.
        """

    def erase(self, tenant: str, idents: Sequence[str]) -> int:
        """Delete traces of this tenant, beyond recovery where the store can; returns how many there were. Blocks."""

    def all(self, since: float = 0.0) -> Iterator[tuple[str, dict[str, Any]]]:
        """Tenant and trace of all that is kept of all tenants from a time on (Unix seconds), oldest first. Blocks."""

    def close(self) -> None:
        """Store what is queued and let go of everything. Blocks."""
