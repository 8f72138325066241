"""Traces: what each stage did to a request, kept for its tenant until it expires.

SQLite in the state folder, shared by the workers. A request only puts its trace on a queue; one thread per worker
writes them in batches, so a crash may lose the last quarter of a second of them, and the event loop never waits.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

log = logging.getLogger("trimtab.traces")
_BATCH_S = 0.25
_BOUND = 10_000  # traces waiting to be written; more are dropped, and counted
_SWEEP_S = 60.0
_Row = tuple[str, str, float, Mapping[str, Any]]  # id, tenant, when it expires, the trace
_SCHEMA = """
CREATE TABLE IF NOT EXISTS trace (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, expires REAL NOT NULL, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS trace_expires ON trace (expires);
"""


class Traces:
    """The traces of one worker process. `dropped` counts those that came faster than the disk."""

    def __init__(self, folder: Path, ttl_s: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path, self._ttl_s = folder / "traces.sqlite3", ttl_s
        self._queue: queue.Queue[_Row | None] = queue.Queue(_BOUND)
        self.dropped = 0
        with closing(self._connect()) as connection:
            connection.executescript(_SCHEMA)
        self._thread = threading.Thread(target=self._write, name="traces", daemon=True)
        self._thread.start()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=10)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    def put(self, ident: str, tenant: str, body: Mapping[str, Any]) -> None:
        """Keep a trace. Returns at once; a full queue drops it."""
        try:
            self._queue.put_nowait((ident, tenant, time.time() + self._ttl_s, body))
        except queue.Full:
            self.dropped += 1

    async def find(self, ident: str, tenant: str) -> dict[str, Any] | None:
        """A trace of this tenant, or None. It may still be on its way to the disk, from any worker: so we wait."""
        for wait in (0, _BATCH_S / 2, _BATCH_S, _BATCH_S):
            await asyncio.sleep(wait)
            if (row := await asyncio.to_thread(self._read, ident, tenant)) is not None:
                trace: dict[str, Any] = msgspec.json.decode(row)
                return trace
        return None

    def _read(self, ident: str, tenant: str) -> bytes | None:
        with closing(self._connect()) as connection:
            row = connection.execute(
                "SELECT body FROM trace WHERE id = ? AND tenant = ? AND expires > ?", (ident, tenant, time.time())
            ).fetchone()
        return row[0] if row else None

    def close(self) -> None:
        """Write what is waiting and end the thread."""
        self._queue.put(None)
        self._thread.join(timeout=5)

    def _write(self) -> None:
        swept = 0.0
        with closing(self._connect()) as connection:
            while True:
                rows = self._batch()
                full = [row for row in rows if row is not None]
                try:
                    with connection:
                        connection.executemany(
                            "INSERT OR REPLACE INTO trace VALUES (?, ?, ?, ?)",
                            [
                                (ident, tenant, expires, msgspec.json.encode(body))
                                for ident, tenant, expires, body in full
                            ],
                        )
                        if time.time() - swept > _SWEEP_S:
                            connection.execute("DELETE FROM trace WHERE expires <= ?", (time.time(),))
                            swept = time.time()
                except sqlite3.Error as error:  # a full disk must not end the thread: it may have room again
                    log.error("%d traces lost: %s", len(full), error)
                    self.dropped += len(full)
                if len(full) < len(rows):
                    return

    def _batch(self) -> list[_Row | None]:
        """What comes in a quarter of a second from the first on; None is the word to end."""
        rows = [self._queue.get()]
        deadline = time.monotonic() + _BATCH_S
        while rows[-1] is not None and (left := deadline - time.monotonic()) > 0:
            try:
                rows.append(self._queue.get(timeout=left))
            except queue.Empty:
                break
        return rows
