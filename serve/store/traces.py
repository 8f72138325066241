"""The store of traces: what each stage did to a request, kept for its tenant until it expires."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from serve.store.usage import Usage

_OPENING = 120  # characters of a question that a list shows
OUTCOMES = ("applied", "skipped", "timed_out", "failed", "none", "error")  # of a stage; no stage; of the request


class _Stage(msgspec.Struct):
    stage: str = ""
    status: str = ""
    reason: str = ""


class Wanted(NamedTuple):
    """Which traces a list shows; what is empty or 0 leaves all. Times are Unix seconds; `text` is in a prompt's first
    words."""

    policy: str = ""
    outcome: str = ""
    key: str = ""
    model: str = ""
    text: str = ""
    since: float = 0.0
    until: float = 0.0
    slower_ms: float = 0.0


LISTED = ("policy", "key", "outcome", "model", "ms", "added_ms", "tokens")
Listed = tuple[str, str, str, str, float, float, int]  # these; the outcome as words: " urial=applied opo=failed "


def listed(body: Mapping[str, Any]) -> Listed:
    """What lists filter by and usage adds up of a trace; a plain tuple, which the garbage collector soon lets be."""
    get, tokens = body.get, 0
    rows = get("stages")
    outcome, added = " none ", 0.0
    if rows:
        outcome = "".join([f" {stage['stage']}={stage['status']}" for stage in rows]) + " "
        added = max([stage["ms"] or 0.0 for stage in rows])  # they run beside each other: the slowest is what they add
    if get("error") or get("status", 0) >= 400:
        outcome += "error "
    if usage := get("usage"):
        for count in (usage.get("prompt_tokens"), usage.get("completion_tokens")):
            if isinstance(count, int) and 0 < count < 2**53:
                tokens += count
    return get("policy") or "", get("key", ""), outcome, get("model") or "", get("total_ms") or 0.0, added, tokens


class _Turn(msgspec.Struct):
    role: str = ""
    content: Any = None


class _Content(msgspec.Struct):
    before: list[_Turn] | None = None


def opening(trace: bytes) -> str:
    """The first words of the last user message of a trace, on one line; "" where it keeps no content."""
    if trace.find(b'"before":[') < 0:
        return ""
    try:
        rows = msgspec.json.decode(trace, type=_Content).before or []
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""
    content = next((row.content for row in reversed(rows) if row.role == "user"), "")
    if isinstance(content, list):
        content = " ".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return " ".join(content[:2000].split())[:_OPENING] if isinstance(content, str) else ""


def summary(trace: bytes) -> Summary:
    """The line of a trace."""
    row = msgspec.json.decode(trace, type=Summary)
    row.opening = opening(trace)
    return row


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
    opening: str = ""  # the first words of the question, where the trace keeps content


class Traces(Protocol):
    """The traces that one worker writes and reads; several workers share what is behind it."""

    dropped: int
    """Traces lost so far: they came faster than they could be stored, or the store failed."""

    def put(self, ident: str, tenant: str, body: Mapping[str, Any]) -> None:
        """Queue a trace. Never blocks and never raises; where the queue is full the trace is dropped."""

    async def find(self, ident: str, tenant: str) -> dict[str, Any] | None:
        """A trace of this tenant, from any worker; None where there is none or it has expired."""

    async def recent(
        self, tenant: str, wanted: Wanted = ..., *, after: str = "", limit: int = 50
    ) -> tuple[list[Summary], str]:
        """This tenant's traces, newest first, and what to give as `after` for the next page; "" at the end.

        Raises:
            ValueError: `after` is no page's.
        """

    async def usage(self, tenant: str, since: float) -> list[Usage]:
        """What this tenant's requests from a time on (Unix seconds) came to, by day (UTC), policy and outcome."""

    def erase(self, tenant: str, idents: Sequence[str]) -> int:
        """Delete traces of this tenant, beyond recovery where the store can; returns how many there were. Blocks."""

    def all(self, since: float = 0.0) -> Iterator[tuple[str, dict[str, Any]]]:
        """Tenant and trace of all that is kept of all tenants from a time on (Unix seconds), in the order of storing.

        Blocks.
        """

    def close(self) -> None:
        """Store what is queued and let go of everything. Blocks."""
