"""Verdicts in SQLite, in the state folder, shared by the workers; one is on disk before it is acknowledged."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from serve.config import Config
from serve.store.sqlite import SqliteFile, seal, unsealed

_SCHEMA = """
CREATE TABLE IF NOT EXISTS verdict (
    id TEXT PRIMARY KEY, tenant TEXT NOT NULL, key TEXT NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL,
    created REAL NOT NULL, body BLOB NOT NULL,
    UNIQUE (tenant, key, kind, subject)
);
CREATE INDEX IF NOT EXISTS verdict_recent ON verdict (tenant, created, id);
"""


@dataclass(frozen=True, slots=True)
class SqliteVerdicts:
    """The verdicts under a state folder. Every call blocks."""

    folder: Path

    @property
    def where(self) -> str:
        """The file's path."""
        return str(self._path)

    @property
    def _path(self) -> Path:
        return self.folder / "feedback.sqlite3"

    @property
    def _file(self) -> SqliteFile:
        return SqliteFile(self._path, _prepare, "FULL")

    def put(self, tenant: str, key: str, subject: Sequence[str], verdict: Mapping[str, Any]) -> None:
        """Keep a verdict, durably. Another one of the same key on the same traces is replaced: people change minds."""
        row = (verdict["id"], tenant, key, verdict["kind"], " ".join(sorted(subject)), time.time())
        body = seal(msgspec.json.encode(verdict))

        def write(connection: sqlite3.Connection) -> None:
            with connection:
                connection.execute(
                    "INSERT OR REPLACE INTO verdict VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (*row, body),
                )

        self._file.run(write)

    def page(self, tenant: str, kind: str = "", after: str = "", limit: int = 100) -> list[dict[str, Any]]:
        """A tenant's verdicts, newest first, those older than the one with the id `after`."""
        if not self._path.exists():
            return []

        def read(connection: sqlite3.Connection) -> list[tuple[bytes]]:
            return connection.execute(
                "SELECT body FROM verdict WHERE tenant = ? AND (? = '' OR kind = ?) AND (? = '' OR (created, id) <"
                " (SELECT created, id FROM verdict WHERE id = ? AND tenant = ?))"
                " ORDER BY created DESC, id DESC LIMIT ?",
                (tenant, kind, kind, after, after, tenant, limit),
            ).fetchall()

        return list(self._decoded(self._file.run(read)))

    def _decoded(self, rows: Iterable[tuple[bytes]]) -> Iterator[dict[str, Any]]:
        for (stored,) in rows:
            if (body := unsealed(self._path, stored)) is not None:
                yield msgspec.json.decode(body)

    def withdraw(self, tenant: str, ident: str) -> bool:
        """Forget a verdict; False where this tenant has none of that id."""
        if not self._path.exists():
            return False

        def delete(connection: sqlite3.Connection) -> bool:
            with connection:
                gone = connection.execute("DELETE FROM verdict WHERE id = ? AND tenant = ?", (ident, tenant))
            return gone.rowcount > 0

        return self._file.run(delete)

    def erase(self, tenant: str, traces: Collection[str]) -> int:
        """Delete what was said of any of these traces, and overwrite where it stood; returns how many."""
        if not self._path.exists():
            return 0
        wanted = set(traces)

        def delete(connection: sqlite3.Connection) -> int:
            rows = connection.execute("SELECT id, subject FROM verdict WHERE tenant = ?", (tenant,)).fetchall()
            gone = [(ident,) for ident, subject in rows if not wanted.isdisjoint(subject.split())]
            connection.executemany("DELETE FROM verdict WHERE id = ?", gone)
            return len(gone)

        return self._file.erase(delete)

    def all(self, tenant: str | None, kind: str, since: float) -> Iterator[dict[str, Any]]:
        """The verdicts of a kind from a time on, oldest first; of all tenants where none is named."""
        if not self._path.exists():
            return
        with closing(self._file.connect()) as connection:
            rows = connection.execute(
                "SELECT body FROM verdict WHERE kind = ? AND created >= ? AND (? IS NULL OR tenant = ?)"
                " ORDER BY created, id",
                (kind, since, tenant, tenant),
            )
            yield from self._decoded(rows)

    def damage(self) -> list[str]:
        """What SQLite finds when it holds the rows against their indexes."""
        if not self._path.exists():
            return []
        with closing(self._file.connect()) as connection:
            return [row[0] for row in connection.execute("PRAGMA integrity_check(5)") if row[0] != "ok"]


def _prepare(connection: sqlite3.Connection) -> None:
    connection.executescript(_SCHEMA)


def from_config(config: Config) -> SqliteVerdicts:
    """The verdicts in the configuration's state folder."""
    return SqliteVerdicts(config.state_dir)
