"""The open indexes of one worker: opened once, off the event loop, and kept up with what other processes change."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from serve.config import IndexSpec

if TYPE_CHECKING:
    from retrieval.index import Index

log = logging.getLogger("trimtab.indexes")
_REFRESH_S = 0.25  # so a rule that is withdrawn elsewhere is gone here well within a second


class Indexes:
    """Owns the indexes that the configuration names. Any thread may call `open`."""

    def __init__(self, specs: Mapping[str, IndexSpec]) -> None:
        self.specs = specs
        self._open: dict[str, Index] = {}
        self._lock = threading.Lock()

    def open(self, name: str) -> Index:
        """The index, opened at its first use. Blocks; a large one takes seconds."""
        if (index := self._open.get(name)) is not None:
            return index
        with self._lock:
            if name not in self._open:
                from retrieval.index import Index

                spec = self.specs[name]
                self._open[name] = Index.open(spec.location, create=True, embedder=spec.embedder or None)
            return self._open[name]

    def opened(self, name: str) -> Index | None:
        """The index, if it is open. Never blocks."""
        return self._open.get(name)

    @property
    def missing(self) -> tuple[str, ...]:
        """Those that are not open yet."""
        return tuple(name for name in self.specs if name not in self._open)

    async def keep_up(self) -> None:
        """Open all, then follow their records for as long as the worker lives."""
        for name in self.specs:
            await asyncio.to_thread(self.open, name)
        while self._open:
            await asyncio.sleep(_REFRESH_S)
            for name, index in list(self._open.items()):
                try:
                    await asyncio.to_thread(index.refresh)
                except (OSError, RuntimeError, ValueError) as error:
                    # A search refreshes as well, and its stage reports the failure to whom it concerns.
                    log.warning("index %s: cannot follow its record: %r", name, error)

    def close(self) -> None:
        for index in self._open.values():
            index.close()
