"""Traces in SQLite.

A file in the state folder, shared by the workers. A request only appends its trace to a queue; one thread per worker
writes them in batches, so a crash may lose the last quarter of a second of them, and the event loop never waits. Nor
is the thread woken for each of them: a wake-up costs more than all the rest of a trace.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from serve.config import Config, ConfigError
from serve.store.sqlite import SqliteFile, is_damage, seal, unsealed
from serve.store.traces import LISTED, Summary, Wanted, listed, opening, summary
from serve.store.usage import Usage, usage_row

log = logging.getLogger("trimtab.traces")
_BATCH_S = 0.25
_BOUND = 10_000  # traces waiting to be written; more are dropped, and counted
_SWEEP_S = 60.0
_LOOK = 20_000  # traces that one page of a list looks at; what a filter has not found by then is on a later one
# id, tenant, when it ended, the trace, whether it keeps content, and what lists filter by. Of these types only, and in
# one tuple: the garbage collector need not look at it again.
_Row = tuple[str, str, float, bytes, bool, str, str, str, str, float, float, int]
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS trace"
    " (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, expires REAL NOT NULL, body BLOB NOT NULL)",
    "CREATE INDEX IF NOT EXISTS trace_expires ON trace (expires)",
)
_COLUMNS = ("id", "tenant", "ended", "expires", "body", "opening", *LISTED)
_INSERT = f"INSERT OR REPLACE INTO trace ({', '.join(_COLUMNS)}) VALUES "  # noqa: S608
_VALUES = f"({', '.join('?' * len(_COLUMNS))})"
_AT_ONCE = 128
_LISTED = {
    "ended": "REAL", "policy": "TEXT", "key": "TEXT", "outcome": "TEXT", "model": "TEXT", "ms": "REAL",
    "added_ms": "REAL", "tokens": "INTEGER", "opening": "TEXT",
}  # fmt: skip
# It covers what a list looks at, so that no page of bodies is read for a trace that is not shown.
_SEEN = "policy, key, outcome, expires, model, ms, added_ms, tokens, opening"
_RECENT = f"CREATE INDEX IF NOT EXISTS trace_listed ON trace (tenant, ended, id, {_SEEN})"
_BEFORE = "DROP INDEX IF EXISTS trace_recent"  # of versions that listed less
_NEWEST = "FROM trace WHERE tenant = ? AND (ended, id) < (?, ?) ORDER BY ended DESC, id DESC"
_FOUND = (
    f"SELECT ended, id FROM (SELECT ended, id, {_SEEN} {_NEWEST} LIMIT {_LOOK})"  # noqa: S608
    " WHERE expires > ? AND (? = '' OR policy = ?) AND (? = '' OR key = ?) AND (? = '' OR outcome LIKE ?)"
    " AND (? = '' OR model = ?) AND ended >= ? AND coalesce(ms, 0) >= ? AND (? = '' OR instr(coalesce(opening, ''), ?))"
    " ORDER BY ended DESC, id DESC LIMIT ?"
)
_USAGE = (
    "SELECT CAST(ended / 86400 AS INTEGER), policy, outcome, count(*), total(added_ms), total(ms), total(tokens)"
    " FROM trace WHERE tenant = ? AND ended >= ? AND expires > ? GROUP BY 1, 2, 3"
)
_ANY = Wanted()
_LOOKED = f"SELECT ended, id {_NEWEST} LIMIT 1 OFFSET {_LOOK - 1}"  # the last one that was looked at


class SqliteTraces:
    """The traces of one worker process. `dropped` counts those dropped: the queue was full, or the store failed."""

    def __init__(self, folder: Path, ttl_s: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file, self._ttl_s = SqliteFile(folder / "traces.sqlite3", _prepare, "NORMAL"), ttl_s
        self._queue: deque[_Row] = deque()
        self._awake, self._closing = threading.Event(), threading.Event()
        self.dropped = 0
        self._file.make()
        self._thread = threading.Thread(target=self._write, name="traces", daemon=True)
        self._thread.start()

    def put(self, ident: str, tenant: str, body: Mapping[str, Any]) -> None:
        """Keep a trace. Returns at once; a full queue drops it."""
        if len(self._queue) >= _BOUND:
            self.dropped += 1
            return
        # As bytes already: the garbage collector would walk thousands of waiting tables again and again.
        text = msgspec.json.encode(body)
        self._queue.append((ident, tenant, time.time(), text, "before" in body, *listed(body)))
        if not self._awake.is_set():
            self._awake.set()

    async def find(self, ident: str, tenant: str) -> dict[str, Any] | None:
        """A trace of this tenant, or None. It may still be on its way to the disk, from any worker: so we wait."""
        for wait in (0, _BATCH_S / 2, _BATCH_S, _BATCH_S):
            await asyncio.sleep(wait)
            if (row := await asyncio.to_thread(self._read, ident, tenant)) is not None:
                trace: dict[str, Any] = msgspec.json.decode(row)
                return trace
        return None

    def _read(self, ident: str, tenant: str) -> bytes | None:
        def read(connection: sqlite3.Connection) -> bytes | None:
            row = connection.execute(
                "SELECT body FROM trace WHERE id = ? AND tenant = ? AND expires > ?", (ident, tenant, time.time())
            ).fetchone()
            return unsealed(self._file.path, row[0]) if row else None

        return self._file.run(read)

    async def recent(
        self, tenant: str, wanted: Wanted = _ANY, *, after: str = "", limit: int = 50
    ) -> tuple[list[Summary], str]:
        """This tenant's traces, newest first, and what to give as `after` for the next page; "" at the end.

        A page may be empty and not the last one, where a filter matches few. A trace is here half a second after its
        answer.

        Raises:
            ValueError: `after` is no page's.
        """
        policy, outcome, key, model, text = wanted.policy, wanted.outcome, wanted.key, wanted.model, wanted.text
        word = f"% {outcome} %" if outcome in ("none", "error") else f"%={outcome} %"
        text = text.casefold()
        asked = (policy, policy, key, key, outcome, word, model, model, wanted.since, wanted.slower_ms, text, text)
        ended, _, ident = after.partition("-")
        before = (float(ended), ident) if after else (wanted.until or float("inf"), "")
        return await asyncio.to_thread(self._list, tenant, before, asked, limit)

    async def usage(self, tenant: str, since: float) -> list[Usage]:
        """What this tenant's requests from a time on (Unix seconds) came to, by day (UTC), policy and outcome."""

        def read(connection: sqlite3.Connection) -> list[Usage]:
            found = connection.execute(_USAGE, (tenant, since, time.time())).fetchall()
            return [usage_row(*row) for row in found]

        return await asyncio.to_thread(self._file.run, read)

    def _list(
        self, tenant: str, before: tuple[float, str], wanted: tuple[str | float, ...], limit: int
    ) -> tuple[list[Summary], str]:
        def look(connection: sqlite3.Connection) -> tuple[list[Any], Any]:
            found = connection.execute(_FOUND, (tenant, *before, time.time(), *wanted, limit)).fetchall()
            last = found[-1] if len(found) == limit else connection.execute(_LOOKED, (tenant, *before)).fetchone()
            one = "SELECT body FROM trace WHERE id = ?"
            rows = [connection.execute(one, (ident,)).fetchone() for _, ident in found]
            return [unsealed(self._file.path, row[0]) for row in rows if row], last

        bodies, last = self._file.run(look)
        rows = [summary(body) for body in bodies if body]
        return rows, f"{last[0]!r}-{last[1]}" if last else ""

    def erase(self, tenant: str, idents: Sequence[str]) -> int:
        """Delete traces of this tenant, and overwrite where they stood; returns how many there were. Blocks."""

        def delete(connection: sqlite3.Connection) -> int:
            rows = [(ident, tenant) for ident in idents]
            return max(0, connection.executemany("DELETE FROM trace WHERE id = ? AND tenant = ?", rows).rowcount)

        return self._file.erase(delete)

    def all(self, since: float = 0.0) -> Iterator[tuple[str, dict[str, Any]]]:
        """Tenant and trace of all that is kept, in the order of storing, read a piece at a time."""
        at = 0
        while rows := self._file.run(partial(_piece, since, at)):
            at = rows[-1][0]
            for _, tenant, stored in rows:
                if (body := unsealed(self._file.path, stored)) is not None:
                    yield tenant, msgspec.json.decode(body)

    def close(self) -> None:
        """Write what is waiting and end the thread."""
        self._closing.set()
        self._awake.set()
        self._thread.join(timeout=5)

    def _write(self) -> None:
        while not self._closing.is_set():
            try:
                self._file.run(self._write_to)
            except (sqlite3.Error, OSError) as error:
                log.error("traces cannot be stored: %s", error)
                self._closing.wait(_BATCH_S)

    def _write_to(self, connection: sqlite3.Connection) -> None:
        """Write batches until the server stops, or until another file stands in this one's place.

        Raises:
            sqlite3.DatabaseError: the file is damaged; what is queued stays queued.
        """
        swept, identity = 0.0, self._file.identity
        while not self._closing.is_set():
            self._awake.wait()
            self._closing.wait(_BATCH_S)
            if identity != self._file.identity:
                return
            self._awake.clear()  # before the queue is emptied: what comes meanwhile wakes us again
            rows = [self._queue.popleft() for _ in range(len(self._queue))]
            try:
                with connection:
                    for some in _batches(rows):
                        self._insert(connection, some)
                    if time.time() - swept > _SWEEP_S:
                        connection.execute("DELETE FROM trace WHERE expires <= ?", (time.time(),))
                        swept = time.time()
            except sqlite3.Error as error:  # a full disk must not end the thread: it may have room again
                if is_damage(error):
                    self._queue.extendleft(reversed(rows))
                    self._awake.set()
                    raise
                log.error("%d traces lost: %s", len(rows), error)
                self.dropped += len(rows)

    def _insert(self, connection: sqlite3.Connection, rows: Sequence[_Row]) -> None:
        """Many rows in one statement: between two of them the event loop would take the interpreter from us, and we
        it from the loop, at more cost than the row's."""
        values = [
            value
            for ident, tenant, ended, body, content, *seen in rows
            # Of bytes sqlite3 looks for an adapter, at the cost of an exception each; of a bytearray it does not.
            for value in (
                ident,
                tenant,
                ended,
                ended + self._ttl_s,
                bytearray(seal(body)),
                opening(body).casefold() if content else "",
                *seen,
            )
        ]
        connection.execute(_INSERT + ", ".join([_VALUES] * len(rows)), values)


def _batches(rows: Sequence[_Row]) -> Iterator[Sequence[_Row]]:
    """The rows in batches whose sizes are powers of two.

    A connection keeps the last 128 statements that it has prepared, and a statement for each number of rows would make
    that 12 MB. Eight take 0.4 MB, and preparing the others again and again took longer.
    """
    at = 0
    while left := len(rows) - at:
        size = min(_AT_ONCE, 1 << left.bit_length() - 1)
        yield rows[at : at + size]
        at += size


def _prepare(connection: sqlite3.Connection) -> None:
    """Make the table, or give the columns of a list to one that was made before there was a list."""
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA:
            connection.execute(statement)
        there = {row[1] for row in connection.execute("PRAGMA table_info(trace)")}
        for name, kind in _LISTED.items():
            if name not in there:
                connection.execute(f"ALTER TABLE trace ADD COLUMN {name} {kind}")
        connection.execute(_BEFORE)
        connection.execute(_RECENT)


def _piece(since: float, after: int, connection: sqlite3.Connection) -> list[tuple[int, str, bytes]]:
    """Rows with a higher number than `after`: by number, so that no piece looks at those before it again."""
    sql = (
        "SELECT rowid, tenant, body FROM trace WHERE rowid > ? AND expires > ? AND ended >= ? ORDER BY rowid LIMIT 200"
    )
    return connection.execute(sql, (after, time.time(), since)).fetchall()


def from_config(config: Config) -> SqliteTraces:
    """The traces in the configuration's state folder, kept as long as it says.

    Raises:
        ConfigError: the file cannot be opened.
    """
    try:
        return SqliteTraces(config.state_dir, config.server.trace_ttl_s)
    except (sqlite3.OperationalError, OSError) as error:
        raise ConfigError(f"{config.state_dir / 'traces.sqlite3'} cannot be opened: {error}") from None
