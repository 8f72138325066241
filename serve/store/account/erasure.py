"""A person is erased: the salt that makes hashes theirs, and what traces and feedback keep of their requests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from serve.store.account.chain import BadLine, parse
from serve.store.account.people import People
from serve.store.account.segment import segments
from serve.store.feedback import Verdicts
from serve.store.traces import Traces


def requests_of(folder: Path, tenant: str, pseudonym: str) -> list[str]:
    """The ids of the requests that the account has of a person."""
    needle, found = b'"person":"%s"' % pseudonym.encode(), []
    for path in segments(folder):
        with path.open("rb") as file:
            for line in file:
                if needle in line and (entry := _opened(line)) and entry.get("tenant", "") == tenant:
                    found.append(str(entry["id"]))
    return found


def _opened(line: bytes) -> dict[str, Any]:
    """A request's first entry; {} for any other, or a damaged one."""
    try:
        entry: dict[str, Any] = msgspec.json.decode(parse(line)[1], type=dict[str, Any])
    except (BadLine, msgspec.DecodeError):
        return {}
    return entry if entry["kind"] == "open" else {}


def erase(
    people: People, traces: Traces, verdicts: Verdicts, tenant: str, name: str, idents: Sequence[str]
) -> tuple[int, int]:
    """Delete what is kept of a person, the salt last, so that it can be done again; how many traces and verdicts.

    Raises:
        sqlite3.Error, OSError: a store cannot be written.
    """
    counts = traces.erase(tenant, idents), verdicts.erase(tenant, idents)
    people.erase(tenant, name)
    return counts
