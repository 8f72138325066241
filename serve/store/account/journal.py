"""The account in files, in the state folder, shared by the workers.

A change's entry is written at once. A request only appends its entries to a queue; one thread per worker chains and
writes them in batches, `flush_ms` after the first, so the event loop never waits for a disk.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Literal

from serve import metrics
from serve.config import Config, ConfigError
from serve.store.account import AccountError
from serve.store.account.chain import Link
from serve.store.account.retention import cut
from serve.store.account.writer import Writer, encoded

log = logging.getLogger("trimtab.account")
_BOUND = 100_000  # entries that wait to be written; more are dropped where requests go on without the account
_WAIT = 0.8  # of flush_ms: the rest is for the disk
_RETRY_S = 0.5  # between tries to write where the last one failed
_SWEEP_S = 3600.0  # between looks for entries that are old enough to be cut off
_DAY_S = 86400.0
_OURS = ("n", "hash", "at", "kind")


class FileAccount:
    """The account of one process. `bound` is how many entries may wait, `keep_days` how long they are kept."""

    def __init__(self, writer: Writer, flush_s: float, *, bound: int = _BOUND, keep_days: float = 180) -> None:
        self.writer, self._flush_s, self._bound = writer, flush_s, bound
        self._keep_s, self._swept = keep_days * _DAY_S, 0.0
        self._queue: deque[bytes] = deque()
        self._waiting: deque[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = deque()
        self._awake, self._closing, self._urgent = threading.Event(), threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._trouble, self._dropped = "", 0

    def append(self, kind: str, entry: Mapping[str, Any]) -> Link:
        """Write an entry and return its place in the chain. Once it returns, the entry survives kill -9 and power loss.

        Raises:
            AccountError: the account is lost, or has another key.
            OSError: the disk is full or fails; then nothing was written.
            ValueError: the entry has a field that is set here.
        """
        if taken := [name for name in _OURS if name in entry]:
            raise ValueError(f"an entry of the account must not have the field {taken[0]!r}")
        return self.writer.write([encoded(kind, entry)], sign=True)

    def queue(self, entry: bytes) -> None:
        """Queue an entry, a JSON object that begins with "at" and "kind"; a full queue drops it."""
        if len(self._queue) >= self._bound:
            self._dropped += 1
            metrics.account_dropped.inc()
            return
        self._queue.append(entry)
        if not self._awake.is_set():
            self._wake()

    async def written(self) -> None:
        """Wait until what this process has queued so far is on disk.

        Raises:
            AccountError: it cannot be written.
        """
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting.append((loop, future))
        self._urgent.set()
        self._wake()
        await future

    @property
    def trouble(self) -> str:
        """Why entries cannot be written at present; "" for no trouble."""
        if not self._trouble and len(self._queue) >= self._bound:
            return "entries come faster than they can be written"
        return self._trouble

    def close(self) -> None:
        """Write what is queued and end the thread."""
        self._closing.set()
        self._urgent.set()
        self._awake.set()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="account", daemon=True)
            self._thread.start()
        self._awake.set()

    def _run(self) -> None:
        while not self._closing.is_set():
            if not self._awake.wait(self.writer.checkpoint_s if self.writer.unsigned else None):
                self._sign()
                continue
            self._urgent.wait(self._flush_s * _WAIT)
            self._urgent.clear()
            self._awake.clear()  # before the queue is emptied: what comes meanwhile wakes us again
            self._sweep()
            if not self._flush() and not self._closing.wait(_RETRY_S):
                self._awake.set()
        self._flush()
        self._sign()

    def _sign(self) -> None:
        """A checkpoint behind entries that have none yet, where no others come."""
        if self.writer.unsigned and not self._trouble:
            try:
                self.writer.write([], sign=True)
            except (AccountError, OSError) as error:
                log.error("no checkpoint can be written: %s", error)

    def _sweep(self) -> None:
        """Cut off what is old enough, now and then."""
        if self._swept and time.monotonic() - self._swept < _SWEEP_S:
            return
        self._swept = time.monotonic()
        try:
            cut(self.writer, time.time() - self._keep_s)
        except (AccountError, OSError) as error:
            log.error("old entries cannot be cut off: %s", error)

    def _flush(self) -> bool:
        """Write what is queued; False, with what it was back in the queue, where that fails."""
        waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
        rows = [self._queue.popleft() for _ in range(len(self._queue))]
        dropped = self._dropped
        gap = [encoded("gap", {"dropped": dropped, "why": self._trouble or "the queue was full"})] if dropped else []
        try:
            if rows or gap:
                self.writer.write([*gap, *rows])
        except Exception as error:  # a bug must not end the one thread that writes: every entry after it would be lost
            self._queue.extendleft(reversed(rows))
            if self._trouble != repr(error):
                known = isinstance(error, AccountError | OSError)
                log.error("the account cannot be written: %s", error, exc_info=None if known else error)
            self._trouble = repr(error)
        else:
            if self._trouble:
                log.warning("the account can be written again")
            self._trouble, self._dropped = "", self._dropped - dropped
        for loop, future in waiting:
            loop.call_soon_threadsafe(_settle, future, self._trouble)
        return not self._trouble


def _settle(future: asyncio.Future[None], trouble: str) -> None:
    if future.done():  # its request was cancelled
        return
    if trouble:
        future.set_exception(AccountError(trouble))
    else:
        future.set_result(None)


def from_config(config: Config) -> FileAccount:
    """The account in the configuration's state folder.

    Raises:
        ConfigError: it cannot be opened: `cryptography` is missing, the key is none, or the folder cannot be made;
            or, where requests must be recorded, it is lost.
    """
    writer, spec = writer_of(config), config.account
    if spec.record == "requests" and spec.on_error == "fail":
        try:
            writer.head()
        except (AccountError, OSError) as error:
            raise ConfigError(f"the account cannot be written: {error}") from None
    return FileAccount(writer, spec.flush_ms / 1000, keep_days=spec.keep_days)


def writer_of(config: Config, lost: Literal["fail", "begin", ""] = "") -> Writer:
    """What writes the account in the configuration's state folder; `lost` instead of the configuration's `on_error`.

    Raises:
        ConfigError: as `from_config`.
    """
    spec, folder = config.account, config.state_dir / "account"
    try:
        return Writer(
            folder,
            spec.key_path(config.state_dir),
            segment_bytes=int(spec.segment_mb * 2**20),
            checkpoint_s=spec.checkpoint_s,
            lost=lost or ("begin" if spec.on_error == "serve" else "fail"),
        )
    except (AccountError, OSError) as error:
        raise ConfigError(f"the account in {folder} cannot be opened: {error}") from None
