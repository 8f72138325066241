"""Verdicts: what people said of answers, kept with prompt and answers until they are withdrawn.

SQLite in the state folder, shared by the workers; a verdict is on disk before it is acknowledged. `trimtab feedback
export` writes them as the rows that `trimtab train` reads.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from retrieval.lock import write_ahead
from serve.config import ConfigError, Flags
from serve.configure.reader import load

KINDS = ("preference", "rating")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS verdict (
    id TEXT PRIMARY KEY, tenant TEXT NOT NULL, key TEXT NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL,
    created REAL NOT NULL, body BLOB NOT NULL,
    UNIQUE (tenant, key, kind, subject)
);
CREATE INDEX IF NOT EXISTS verdict_recent ON verdict (tenant, created, id);
"""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The verdicts under a state folder. Every call blocks."""

    folder: Path

    @property
    def _path(self) -> Path:
        return self.folder / "feedback.sqlite3"

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=10)
        write_ahead(connection)
        connection.execute("PRAGMA synchronous=FULL")
        connection.executescript(_SCHEMA)
        return connection

    def put(self, tenant: str, key: str, subject: Sequence[str], verdict: Mapping[str, Any]) -> None:
        """Keep a verdict, durably. Another one of the same key on the same traces is replaced: people change minds."""
        row = (verdict["id"], tenant, key, verdict["kind"], " ".join(sorted(subject)), time.time())
        with closing(self._connect()) as connection, connection:
            connection.execute(
                "INSERT OR REPLACE INTO verdict VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, msgspec.json.encode(verdict))
            )

    def page(self, tenant: str, kind: str = "", after: str = "", limit: int = 100) -> list[dict[str, Any]]:
        """A tenant's verdicts, newest first, those older than the one with the id `after`."""
        if not self._path.exists():
            return []
        with closing(self._connect()) as connection:
            rows = connection.execute(
                "SELECT body FROM verdict WHERE tenant = ? AND (? = '' OR kind = ?) AND (? = '' OR (created, id) <"
                " (SELECT created, id FROM verdict WHERE id = ? AND tenant = ?))"
                " ORDER BY created DESC, id DESC LIMIT ?",
                (tenant, kind, kind, after, after, tenant, limit),
            ).fetchall()
        return [msgspec.json.decode(body) for (body,) in rows]

    def withdraw(self, tenant: str, ident: str) -> bool:
        """Forget a verdict; False where this tenant has none of that id."""
        if not self._path.exists():
            return False
        with closing(self._connect()) as connection, connection:
            gone = connection.execute("DELETE FROM verdict WHERE id = ? AND tenant = ?", (ident, tenant))
            return gone.rowcount > 0

    def all(self, tenant: str | None, kind: str, since: float) -> Iterator[dict[str, Any]]:
        """The verdicts of a kind from a time on, oldest first; of all tenants where none is named."""
        if not self._path.exists():
            return
        with closing(self._connect()) as connection:
            rows = connection.execute(
                "SELECT body FROM verdict WHERE kind = ? AND created >= ? AND (? IS NULL OR tenant = ?)"
                " ORDER BY created, id",
                (kind, since, tenant, tenant),
            )
            for (body,) in rows:
                yield msgspec.json.decode(body)


def preference(verdict: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `trimtab train`'s kind "preference"."""
    sides = {side: verdict[side] for side in ("chosen", "rejected")}
    row: dict[str, Any] = {"prompt": verdict["prompt"]}
    row |= {name: [{"role": "assistant", "content": side["answer"]}] for name, side in sides.items()}
    return row | _origin(verdict, sides)


def labelled(verdict: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `trimtab train`'s kind "labelled"."""
    turn = [{"role": "assistant", "content": verdict["rated"]["answer"]}]
    row = {"prompt": verdict["prompt"], "completion": turn, "label": verdict["rating"] == "up"}
    return row | _origin(verdict, {"rated": verdict["rated"]})


def _origin(verdict: Mapping[str, Any], sides: Mapping[str, Any]) -> dict[str, Any]:
    """Where a row comes from, which trainers pass over."""
    policies = {f"{name}_policy": side["policy"] for name, side in sides.items()}
    return {"id": verdict["id"], "created": verdict["created"], **policies}


def main(argv: list[str]) -> int:
    """`trimtab feedback`."""
    parser = argparse.ArgumentParser("trimtab feedback", description="What people said of answers.")
    export = parser.add_subparsers(dest="command", required=True, metavar="export").add_parser(
        "export", help="write it as JSONL that `trimtab train` reads"
    )
    export.add_argument("--out", metavar="FILE", default="-", help="default: standard output")
    export.add_argument(
        "--kind",
        choices=("preference", "labelled"),
        default="preference",
        help="pairs (default), or thumbs as labels",
    )
    export.add_argument("--tenant", metavar="NAME", help='only this tenant\'s; "" is who calls without keys')
    export.add_argument("--since", metavar="DATE", help="only from this day on (UTC), like 2026-01-31")
    export.add_argument("--config", metavar="FILE", help="trimtab.toml, for its state_dir")
    export.add_argument("--state-dir", metavar="DIR", help="default ./state")
    args = parser.parse_args(argv)
    try:
        since = datetime.fromisoformat(args.since).replace(tzinfo=UTC).timestamp() if args.since else 0.0
        folder = Path(args.state_dir) if args.state_dir else load(Flags(config=args.config)).state_dir
        kind, shape = ("rating", labelled) if args.kind == "labelled" else ("preference", preference)
        count = _write(args.out, (shape(verdict) for verdict in Verdicts(folder).all(args.tenant, kind, since)))
    except (ConfigError, ValueError, OSError, sqlite3.Error) as error:
        print(f"trimtab feedback: {error}", file=sys.stderr)
        return 2
    print(f"{count} rows from {folder / 'feedback.sqlite3'}", file=sys.stderr)
    return 0


def _write(out: str, rows: Iterator[dict[str, Any]]) -> int:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with nullcontext(sys.stdout) if out == "-" else Path(out).open("w", encoding="utf-8") as file:
        return sum(1 for line in lines if file.write(line))
