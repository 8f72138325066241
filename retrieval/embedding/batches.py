"""Queries that wait at the same time are embedded together, in one thread of its own."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future

from retrieval.cache import Cache
from retrieval.embedding.embedder import Embedder, Vectors

MOST = 32
_Waiting = tuple[str, str, "Future[Vectors]"]  # query, owner


class QueryVectors:
    """The model runs in this thread only, so its own threads are the only ones it takes."""

    def __init__(self, embedder: Embedder, cache: int = 4096) -> None:
        self._embedder = embedder
        self._cache: Cache[Vectors] = Cache(cache)  # by owner and query
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="trimtab-embed", daemon=True)
        self._thread.start()

    def vector(self, query: str, owner: str = "") -> Future[Vectors]:
        """A future of the query's unit vector, shape (dimension,). Each owner has a cache of its own."""
        future: Future[Vectors] = Future()
        known = self._cache.get((owner, query))
        if known is not None:
            future.set_result(known)
        else:
            self._waiting.put((query, owner, future))
        return future

    def close(self) -> None:
        """Stop the thread; queries that still wait are cancelled."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch, stop = [first], False
            while len(batch) < MOST and not stop:
                try:
                    more = self._waiting.get_nowait()
                except queue.Empty:
                    break
                stop = more is None
                if more is not None:
                    batch.append(more)
            self._answer(batch)
            if stop:
                return

    def _answer(self, batch: list[_Waiting]) -> None:
        batch = [waiting for waiting in batch if waiting[2].set_running_or_notify_cancel()]
        asked = list(dict.fromkeys(query for query, _, _ in batch))
        if not asked:
            return
        try:
            found = dict(zip(asked, self._embedder.queries(asked), strict=True))
        except Exception as error:  # noqa: BLE001 - whatever the model says goes to those who asked
            for _, _, future in batch:
                future.set_exception(error)
            return
        for query, owner, future in batch:
            self._cache.put((owner, query), found[query])
            future.set_result(found[query])
