"""An index: passages in, passages out.

index = Index.open("state/law", create=True)
index.add([Passage("gdpr-17", "The data subject shall have the right to …", title="GDPR, art. 17")])
hits = await index.asearch("can I have my data deleted?", 8, where=Filter(on="2026-03-01"))
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from retrieval.backends.backend import Backend, Progress, Vector, View
from retrieval.backends.entry import Entry
from retrieval.cache import Cache
from retrieval.embedding.batches import QueryVectors
from retrieval.embedding.choice import Asked
from retrieval.embedding.embedder import Embedder
from retrieval.fusion import Candidate, Key, Ranked, fuse
from retrieval.passage import Filter, Hit, Passage, primary
from retrieval.search.flight import CachedResult, PendingSearch, fly
from retrieval.search.query import ANY, Ask, hit, varied
from retrieval.search.reranker import Reranker
from retrieval.search.standing import hash_after, state_hash
from retrieval.text import citation
from retrieval.text.structure import chunk_passage

CHARACTERS = 1200  # the most in a chunk of an index without an embedder
WEIGHT = 0.55  # of the lexical side, until `trimtab index tune` has found the index's own
DEPTH = 50  # the least number of candidates taken from each side


class Index:
    """Any thread may call any method, and several processes may have one index open."""

    def __init__(
        self, backend: Backend, embedder: Embedder | None, *, readonly: bool = False, reranker: Reranker | None = None
    ) -> None:
        self.backend, self.embedder, self.readonly = backend, embedder, readonly
        self._reranker = reranker
        self._queries = QueryVectors(embedder) if embedder else None
        self._results: Cache[list[Hit]] = Cache(1024)
        self._pool = ThreadPoolExecutor(4, "trimtab-index")
        self._weight, self._floor, self._weighed = WEIGHT, 0.0, -1
        self._state = (-1, "")  # a revision and its hash
        self._state_lock = threading.Lock()
        self._refresh()

    @classmethod
    def open(
        cls, path: str | Path, *, readonly: bool = False, create: bool = False,
        embedder: Asked = None, reranker: str | None = None, threads: int | None = None,
        progress: Progress = None,
    ) -> Index:  # fmt: skip
        """`path` is a folder, or the URL of a Milvus server or a milvus-lite file: see `milvus.py`.

        An index keeps the embedder that it was made with ("none": terms only) and refuses another.
        """
        from retrieval.backends.place import open_backend

        backend, model = open_backend(str(path), create and not readonly, embedder, threads, progress)
        return cls(backend, model, readonly=readonly, reranker=Reranker(reranker) if reranker else None)

    def close(self) -> None:
        """Stop the threads and close the store; a search under way fails."""
        self._pool.shutdown()
        if self._queries:
            self._queries.close()
        self.backend.close()

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Changing

    def add(self, passages: Iterable[Passage], gone: Sequence[str] = ()) -> int:
        """Add or replace by id and withdraw what is gone, durably and in one step. Returns the revision.

        What does not fit one vector is chunked.

        Raises:
            PermissionError: the index is read-only.
            TakenId: a chunk would have the id of another document's passage.
        """
        self._must_write()
        given = list(passages)
        same = self.backend.stored([p.id for p in given])
        changed = [p for p in given if same.get(p.id) != p.signature]
        if not changed:
            return self.backend.put([], "", gone) if gone else self.refresh()
        chunked = [self._chunks(p) for p in changed]
        if self.embedder is None:
            entries = [Entry(p, tuple(chunks)) for p, chunks in zip(changed, chunked, strict=True)]
            return self.backend.put(entries, "", gone)
        vectors = self.embedder.documents([c.search_text for chunks in chunked for c in chunks]).astype("<f2")
        entries, start = [], 0
        for p, chunks in zip(changed, chunked, strict=True):
            entries.append(Entry(p, tuple(chunks), vectors[start : start + len(chunks)]))
            start += len(chunks)
        return self.backend.put(entries, self.embedder.id, gone)

    def withdraw(self, ids: Iterable[str]) -> int:
        """By document or by passage, durably; an unknown id is no error. Returns the revision."""
        self._must_write()
        return self.backend.withdraw(list(ids))[0]

    def _chunks(self, passage: Passage) -> list[Passage]:
        if self.embedder is None:
            return chunk_passage(passage, len, CHARACTERS)
        return chunk_passage(passage, self.embedder.count, self.embedder.limit)

    def _must_write(self) -> None:
        if self.readonly:
            raise PermissionError("this index is read-only")

    # Reading

    @property
    def revision(self) -> int:
        """Of what searches see now."""
        return self._refresh()

    def refresh(self, progress: Progress = None) -> int:
        """Take in what any process has changed. Costs microseconds when that is nothing."""
        return self._refresh(progress)

    def state(self) -> tuple[int, str]:
        """The newest revision, and a hash of all documents in it. After a change it reads all their signatures."""
        if self._state[0] == self._refresh():
            return self._state
        with self._state_lock:  # of many who ask after a change, one reads
            while self._state[0] != (revision := self._refresh()):
                found = state_hash(self.backend.signatures(), self.backend.setting)
                if self._refresh() == revision:
                    self._state = (revision, found)
            return self._state

    def known_state(self) -> tuple[int, str] | None:
        """What `state` would return, where that takes no waiting; else None."""
        return self._state if self._state[0] == self.backend.unchanged() else None

    def state_after(self, puts: Collection[Passage], gone: Collection[str]) -> str:
        """The hash that these changes would lead to."""
        return hash_after(self.backend.signatures(), self.backend.setting, puts, gone)

    def compact(self, progress: Progress = None, *, always: bool = False, threads: int | None = None) -> bool:
        """Write a new base of vectors if that is due, in seconds to minutes: call it from a thread, now and then.

        `threads` are those of the machine unless told.
        """
        return not self.readonly and self.backend.compact(progress, always=always, threads=threads)

    def get(self, key: str) -> Passage | None:
        """A document as it was given, or one of its chunks."""
        return self.backend.document(key) or self.backend.get(key)

    def documents(self) -> Iterator[Passage]:
        """Everything as it was given, in the order of ids."""
        return self.backend.documents()

    def page(self, after: str = "", limit: int = 100) -> list[Passage]:
        """Passages in the order of their ids; the last one's id is the next page's `after`."""
        return self.backend.page(after, limit)

    def count(self) -> int:
        """How many passages there are."""
        return self.backend.count()

    def damage(self) -> list[str]:
        """What is wrong with the stored passages, in words; may read all of them."""
        return self.backend.damage()

    # Searching

    def search(
        self, query: str, k: int, *, where: Filter = ANY, mode: str = "hybrid", floor: float | None = None,
        most: int | None = None, exact: bool = False, owner: str = "",
    ) -> list[Hit]:  # fmt: skip
        """The k best passages that `where` allows, best first; fewer only where fewer are allowed or pass `floor`.

        A query that asks for nothing but an article which is not there, while others of its act are, gets only what
        cites that article, or is about the act and of no article. `most` is how many may come from one source (or one
        document, where no source is given), and with it a text that is there twice comes once. `exact` scans instead
        of walking an approximate index and follows every tie to its end. What is remembered of a search serves the
        same `owner` only.
        """
        revision = self._refresh()
        ask = Ask(query, k, where, self._mode(mode), floor, most, exact, owner)
        known = self._results.get((revision, ask))
        if known is not None:
            return list(known)
        future = self._queries.vector(ask.query, ask.owner) if self._queries and self._needs_vector(ask) else None
        view = self.backend.view(where)
        lexical = self._lexical(ask, view, self._depth(ask))
        return self._finish(ask, revision, view, lexical, future.result() if future else None)

    async def asearch(
        self, query: str, k: int, *, where: Filter = ANY, mode: str = "hybrid", floor: float | None = None,
        most: int | None = None, exact: bool = False, owner: str = "",
    ) -> list[Hit]:  # fmt: skip
        """`search`, off the event loop: concurrent queries are embedded together, beside the lexical search.

        What the cache holds comes back at once, where that takes no waiting for another thread.
        """
        ask = Ask(query, k, where, self._mode(mode), floor, most, exact, owner)
        known = self._results.get((self.backend.unchanged(), ask))
        if known is not None:
            return list(known)
        vector = self._queries.vector(ask.query, ask.owner) if self._queries and self._needs_vector(ask) else None
        return await asyncio.wrap_future(fly(self._pool, lambda: self._begin(ask), vector, self._end))

    def _begin(self, ask: Ask) -> PendingSearch | CachedResult:
        revision = self._refresh()
        known = self._results.get((revision, ask))
        if known is not None:
            return CachedResult(list(known))
        view = self.backend.view(ask.where)
        return PendingSearch(ask, revision, view, self._lexical(ask, view, self._depth(ask)))

    def _end(self, begun: PendingSearch, vector: Vector | None) -> list[Hit]:
        return self._finish(begun.ask, begun.revision, begun.view, begun.lexical, vector)

    def _mode(self, mode: str) -> str:
        if self.embedder is None:
            if mode == "dense":
                raise ValueError("this index has no embedder: its mode is lexical")
            return "lexical" if mode == "hybrid" else mode
        return "lexical" if mode == "hybrid" and self._weight >= 1.0 else mode

    @property
    def weight(self) -> float:
        """The lexical side's share: tuned, or all of it where the embedder does not speak the index's languages."""
        self._refresh()
        return self._weight

    @property
    def zero(self) -> float:
        """The cosine of unrelated texts, by the index's embedder; 0 where that says nothing about it."""
        return float(getattr(self.embedder, "zero", 0.0))

    @property
    def floor(self) -> float:
        """The score below which a hybrid search's find is noise, as `trimtab index build` has set it; 0: it has not.

        As the last search has seen it, so that reading it never waits.
        """
        return self._floor

    def _refresh(self, progress: Progress = None) -> int:
        revision = self.backend.refresh(progress)
        if revision != self._weighed:
            tuned = self.backend.setting("weight")
            self._weight = float(tuned) if tuned else self._untuned()
            self._floor = float(json.loads(self.backend.setting("floor") or "{}").get("floor", 0.0))
            self._weighed = revision
        return revision

    def _untuned(self) -> float:
        spoken = self.embedder.languages if self.embedder else frozenset()
        held = {primary(language) for language in self.backend.languages()} - {""}
        return WEIGHT if not spoken or not held or held & spoken else 1.0

    def _needs_vector(self, ask: Ask) -> bool:
        return ask.mode != "lexical"

    def _depth(self, ask: Ask) -> int:
        return max(DEPTH, 2 * ask.k)

    def _lexical(self, ask: Ask, view: View, depth: int) -> tuple[Ranked, float]:
        return self.backend.lexical(view, ask.query, depth, ask.exact) if ask.mode != "dense" else ([], 0.0)

    def _finish(
        self, ask: Ask, revision: int, view: View, lexical: tuple[Ranked, float], vector: Vector | None
    ) -> list[Hit]:
        depth = self._depth(ask)
        while True:
            fused = self._fuse(ask, view, lexical, vector, depth)
            hits = self._hits(ask, fused)
            full = len(hits) >= ask.k or ask.floor is not None
            if full or len(fused) < depth:
                break
            depth *= 4  # the cap on one source left too few
            lexical = self._lexical(ask, view, depth)
        if citation.elsewhere(ask.query, [found.title for found in hits]):
            more = self._hits(replace(ask, k=len(fused)), fused)
            hits = [found for found in more if citation.answers(ask.query, found.title, found.text)][: ask.k]
        self._results.put((revision, ask), hits)
        return list(hits)

    def _fuse(
        self, ask: Ask, view: View, lexical: tuple[Ranked, float], vector: Vector | None, depth: int
    ) -> list[Candidate]:
        if vector is None:
            return fuse(*lexical, [], [], 1.0)
        dense = self.backend.dense(view, vector, depth, ask.exact)
        if ask.mode == "dense":
            return fuse([], 0.0, dense, [], 0.0, self.zero)
        found = {key for key, _ in dense}
        missing: list[Key] = [key for key, _ in lexical[0] if key not in found]
        more = self.backend.cosines(view, vector, missing) if missing else []
        return fuse(*lexical, dense, more, self._weight, self.zero)

    def _hits(self, ask: Ask, fused: list[Candidate]) -> list[Hit]:
        if ask.floor is not None:
            fused = [f for f in fused if f.score >= ask.floor]
        hits, kept, start = list[Hit](), list[Hit](), 0
        for reach in self._reaches(ask, len(fused)):
            wanted, start = fused[start:reach], reach
            passages = self.backend.fetch([f.key for f in wanted])
            hits += [hit(passages[f.key], f) for f in wanted if f.key in passages]
            if self._reranker is not None:
                hits = self._reranker.order(ask.query, hits, ask.k)
            kept = varied(hits, ask.most)[: ask.k]
            if len(kept) == ask.k or reach >= len(fused):
                break
        return kept

    def _reaches(self, ask: Ask, count: int) -> list[int]:
        """How many candidates are fetched, and how many if those are too much alike."""
        if self._reranker is not None:
            return [count]
        if ask.most is None:
            return [ask.k]
        return [ask.k * 3**i for i in range(8) if ask.k * 3**i < count] + [count]

    list = page
