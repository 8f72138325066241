"""The open indexes of one worker: opened once, off the event loop, and kept up with what other processes change."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from serve.config import IndexSpec

if TYPE_CHECKING:
    from retrieval.search.index import Index

log = logging.getLogger("trimtab.indexes")
_COMPACT_S = 10.0  # between looks for an index whose new rows deserve a base of their own
_TROUBLES = (OSError, RuntimeError, ValueError, ImportError, sqlite3.Error)  # of one index: the others go on
_REFRESH_S = 0.25  # so a rule that is withdrawn elsewhere is gone here well within a second


class Indexes:
    """Owns the indexes that the configuration names. Any thread may call `open`."""

    def __init__(self, specs: Mapping[str, IndexSpec]) -> None:
        self.specs = specs
        self._open: dict[str, Index] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._compactor = threading.Thread(target=self._compact, name="compactor", daemon=True)
        self.troubles: dict[str, str] = {}  # why an index can't be opened or followed
        self._examined: dict[int, str] = {}  # open index (its id) -> what is wrong with what it stores

    def open(self, name: str) -> Index:
        """The index, opened at its first use. Blocks; a large one takes seconds."""
        if (index := self._open.get(name)) is not None:
            return index
        with self._lock:
            if name not in self._open:
                from retrieval.search.index import Index

                spec = self.specs[name]
                self._open[name] = index = Index.open(
                    spec.location, create=True, embedder=spec.embedder or None, reranker=spec.reranker or None
                )
                if not spec.url and not index.count():
                    log.warning("index %s: %s has no passages, so nothing can be quoted from it yet", name, spec.path)
                if not self._compactor.is_alive():
                    self._compactor.start()
            return self._open[name]

    def opened(self, name: str) -> Index | None:
        """The index, if it is open. Never blocks."""
        return self._open.get(name)

    def state(self, name: str) -> dict[str, str]:
        """Whether it is open, and what is wrong with it."""
        trouble, index = self.troubles.get(name, ""), self._open.get(name)
        damage = self._examined.get(id(index), "")  # it serves what is sound
        return {"state": "ready" if index is not None and not trouble else "opening", "reason": trouble or damage}

    async def keep_up(self) -> None:
        """Open what is not open yet, take in what other processes have changed, wait a moment."""
        for name in self.specs:
            try:
                await asyncio.to_thread(self._follow, name)
            except _TROUBLES as error:
                # A search refreshes as well, and its stage reports the failure to whom it concerns.
                if self.troubles.get(name) != str(error):
                    log.warning("index %s: %s", name, error)
                self.troubles[name] = str(error)
            else:
                self.troubles.pop(name, None)
        await asyncio.sleep(_REFRESH_S)

    def _follow(self, name: str) -> None:
        from retrieval.backends.local.record import RecordReplaced

        index = self.open(name)
        try:
            index.state()  # refreshes; and the next request need not read every signature
        except RecordReplaced:
            if not Path(self.specs[name].location, "record.db").exists():
                raise  # an empty one in its place would be worse
            with self._lock:
                del self._open[name]
            index.close()
            log.warning("index %s: replaced on disk; reopening it", name)
            self.open(name)

    def _compact(self) -> None:
        """One thread, so that requests keep a core; cut off at any moment it leaves the old base in place."""
        said = ""
        while not self._closed.wait(_COMPACT_S):
            for name, index in tuple(self._open.items()):
                try:
                    self._examine(name, index)
                    if index.compact(threads=1):
                        log.info("index %s: compacted", name)
                except _TROUBLES as error:
                    if said != str(error):
                        log.warning("index %s: compaction failed: %s", name, error)
                    said = str(error)

    def _examine(self, name: str, index: Index) -> None:
        """Once for each index that is opened: are the passages what was written?"""
        if id(index) not in self._examined:
            wrong = index.damage()
            self._examined[id(index)] = f"{len(wrong)} damaged: {wrong[0]}" if wrong else ""
            for line in wrong:
                log.error("index %s is damaged: %s", name, line)

    def close(self) -> None:
        """Close every index and stop the compactor. Blocks while one is being compacted."""
        self._closed.set()
        for index in self._open.values():
            index.close()
