"""Traces: what each stage did to a request, kept for its tenant until it expires.

SQLite in the state folder, shared by the workers. A request only puts its trace on a queue; one thread per worker
writes them in batches, so a crash may lose the last quarter of a second of them, and the event loop never waits.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

_BATCH_S = 0.25
_BOUND = 10_000  # traces waiting to be written; more are dropped, and counted
_SCHEMA = """
CREATE TABLE IF NOT EXISTS trace (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, expires REAL NOT NULL, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS trace_expires ON trace (expires);
"""


class Traces:
    """The traces of one worker process. `dropped` counts those that came faster than the disk."""

    def __init__(self, folder: Path, ttl_s: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path, self._ttl_s = folder / "traces.sqlite3", ttl_s
        self._queue: queue.Queue[tuple[str, str, float, Mapping[str, Any]] | None] = queue.Queue(_BOUND)
        self._written = threading.Condition()
        self._put = self._done = 0
        self.dropped = 0
        with self._connect() as connection:
            connection.executescript(_SCHEMA)
        connection.close()
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
        else:
            self._put += 1

    def get(self, ident: str, tenant: str, any_tenant: bool = False) -> dict[str, Any] | None:
        """A trace of this tenant, or None. Blocks: call it off the event loop.

        Waits for what this worker has on its queue, and a little for what another has.
        """
        with self._written:
            goal = self._put
            self._written.wait_for(lambda: self._done >= goal, timeout=2)
        connection = self._connect()
        try:
            for wait in (0, _BATCH_S, _BATCH_S):
                time.sleep(wait)
                row = connection.execute(
                    "SELECT body FROM trace WHERE id = ? AND (tenant = ? OR ?) AND expires > ?",
                    (ident, tenant, any_tenant, time.time()),
                ).fetchone()
                if row:
                    trace: dict[str, Any] = msgspec.json.decode(row[0])
                    return trace
        finally:
            connection.close()
        return None

    def close(self) -> None:
        """Write what is waiting and end the thread."""
        self._queue.put(None)
        self._thread.join(timeout=5)

    def _write(self) -> None:
        connection = self._connect()
        swept = 0.0
        while True:
            rows = [self._queue.get()]
            deadline = time.monotonic() + _BATCH_S
            while rows[-1] is not None and (left := deadline - time.monotonic()) > 0:
                try:
                    rows.append(self._queue.get(timeout=left))
                except queue.Empty:
                    break
            full = [row for row in rows if row is not None]
            with connection:
                connection.executemany(
                    "INSERT OR REPLACE INTO trace VALUES (?, ?, ?, ?)",
                    [(ident, tenant, expires, msgspec.json.encode(body)) for ident, tenant, expires, body in full],
                )
                if time.time() - swept > 60:
                    connection.execute("DELETE FROM trace WHERE expires <= ?", (time.time(),))
                    swept = time.time()
            with self._written:
                self._done += len(full)
                self._written.notify_all()
            if len(full) < len(rows):
                connection.close()
                return
