"""One machine's index: a SQLite record with a FAISS and a tantivy cache beside it, shared by its processes."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from retrieval.backends.backend import Progress, Vector
from retrieval.backends.local import columns as labels
from retrieval.backends.local import dense as vectors
from retrieval.backends.local import lexical as terms
from retrieval.backends.local.columns import Allowed, Columns
from retrieval.backends.local.dense import Dense
from retrieval.backends.local.record import Store
from retrieval.backends.local.terms import Terms, is_failure
from retrieval.cache import Cache
from retrieval.embedding import choice
from retrieval.embedding.embedder import Embedder
from retrieval.fusion import Key, Ranked
from retrieval.passage import Filter


def open_folder(
    path: str, create: bool, embedder: choice.Asked, threads: int | None, progress: Progress = None
) -> tuple[Local, Embedder | None]:
    """An index in a folder, and its embedder (None: terms only). `progress` hears of each passage that is analysed.

    Raises:
        FileNotFoundError: there is no index and `create` is false.
        ValueError: the folder's record is none, or lost, or has another embedder than the one asked for.
    """
    folder = Path(path)
    exists = _is_there(folder)
    if not exists and not create:
        raise FileNotFoundError(f"no index at {folder}: make one with `trimtab index build {folder} --input FILE`")
    asked, model = choice.resolve(embedder, new=not exists), None
    if asked is not None and not exists:
        model = choice.load_embedder(asked, threads)
        folder.mkdir(parents=True, exist_ok=True)
    store = Store(folder / "record.db", create=None if exists else choice.settings(model, asked))
    try:
        own, name = store.setting("embedder"), store.setting("embedder_name")
        model = choice.verify(own, name, model or asked, threads)
        dimension = model.dimension if model else 0
        return Local(folder, store, model.id if model else "", dimension, progress), model
    except BaseException:
        store.close()
        raise


def _is_there(folder: Path) -> bool:
    """Whether the folder has a record.

    Raises:
        ValueError: it had one, as the caches beside it show. A new one in its place would be an index without a rule.
    """
    record = folder / "record.db"
    if record.is_file() and record.stat().st_size:
        return True
    if (folder / "lexical.json").is_file():
        raise ValueError(f"{record} is gone or empty: restore it, or delete {folder} to begin a new index")
    return record.is_file()


@dataclass(frozen=True, slots=True)
class State:
    """What searches work on; a refresh replaces it whole, and a search keeps the one it began with."""

    revision: int
    columns: Columns
    dense: Dense
    token: tuple[int, int]  # of the snapshot that `dense` stands on


@dataclass(frozen=True, slots=True)
class LocalView:
    """A state, the rows of it that a filter allows, and the filter's language."""

    state: State
    allowed: Allowed
    language: str | None


class Local:
    """Implements `Backend`. `dimension` is 0 where there is no embedder."""

    def __init__(self, folder: Path, store: Store, embedder: str, dimension: int, progress: Progress = None) -> None:
        self._folder, self._store = folder, store
        self._embedder, self._dimension = embedder, dimension
        self._terms = Terms(folder, store)
        self._lock = threading.Lock()
        self._allowed: Cache[Allowed] = Cache(64)
        self._state = self._load()
        self._terms.sync(self._state.revision, progress)
        self.setting, self.set = store.setting, store.set
        self.put, self.withdraw, self.stored = store.put, store.withdraw, store.stored
        self.signatures = store.signatures
        self.same_content, self.get, self.document = store.same_content, store.get, store.document
        self.page, self.documents, self.count = store.page, store.documents, store.count
        self.fetch, self.damage = store.fetch, store.damage

    def _load(self) -> State:
        token, base = (0, 0), Dense(0)
        if self._dimension:
            token = vectors.snapshot_token(self._folder)
            base = vectors.open_snapshot(self._folder, self._store, self._embedder, self._dimension)
        last = int(base.base_n[-1]) if len(base.base_n) else 0
        delta = self._store.delta(0, 0, last, self._dimension)
        columns = labels.load(delta.labels, base.base_n)
        if len(base.base_n) + len(delta.vectors) != len(columns.n) and self._dimension:
            base, last = Dense(self._dimension), 0  # a snapshot that lacks a passage is none
            delta = self._store.delta(0, 0, 0, self._dimension)
            columns = labels.load(delta.labels, base.base_n)
        return State(delta.revision, columns, base.extended(delta.vectors), token)

    def refresh(self, progress: Progress = None) -> int:
        """A few microseconds while nothing has changed."""
        state = self._state
        if self._store.revision() == state.revision and self._terms.reader.revision >= state.revision:
            return state.revision
        with self._lock:
            state = self._state
            if self._store.revision() != state.revision:
                self._state = state = self._advance(state)
            self._terms.sync(state.revision, progress)
            return state.revision

    def unchanged(self) -> int | None:
        """The revision, where nothing is to be taken in and no lock is held; else None."""
        state = self._state
        known = self._terms.reader.revision >= state.revision and self._store.revision(wait=False) == state.revision
        return state.revision if known else None

    def _advance(self, state: State) -> State:
        if state.dense.due and vectors.snapshot_token(self._folder) != state.token:
            return self._load()  # another process has written a base; until the delta grows long, ours serves as well
        last = int(state.columns.n[-1]) if len(state.columns.n) else 0
        delta = self._store.delta(state.revision, last, last, self._dimension)
        columns = state.columns.extended(delta.labels)
        if delta.withdrawn:
            columns = columns.without(delta.withdrawn)
        return replace(state, revision=delta.revision, columns=columns, dense=state.dense.extended(delta.vectors))

    def languages(self) -> frozenset[str]:
        """The languages that passages were analysed in."""
        return self._terms.reader.languages

    def view(self, where: Filter) -> LocalView:
        """The newest state and the rows that the filter allows, from the cache where the filter was used before."""
        state = self._state
        allowed = self._allowed.get((state.revision, state.token, where))
        if allowed is None:
            allowed = Allowed.of(state.columns.mask(where))
            self._allowed.put((state.revision, state.token, where), allowed)
        return LocalView(state, allowed, where.language)

    def lexical(self, view: LocalView, query: str, k: int, exact: bool = False) -> tuple[Ranked, float]:
        """The k best by BM25 with their numbers, and the ceiling of the score."""
        try:
            rows, scores, ceiling = self._ranked(view, query, k, exact)
        except BaseException as error:
            if not is_failure(error):
                raise
            self._terms.distrust()
            self._terms.sync(view.state.revision)
            rows, scores, ceiling = self._ranked(view, query, k, exact)
        columns = view.state.columns
        return list(zip(columns.n[rows].tolist(), scores.tolist(), strict=True)), ceiling

    def _ranked(self, view: LocalView, query: str, k: int, exact: bool) -> terms.Found:
        reader, state = self._terms.reader, view.state
        return terms.search(reader, query, k, state.columns, view.allowed, language=view.language, exact=exact)

    def dense(self, view: LocalView, vector: Vector, k: int, exact: bool) -> Ranked:
        """The k best by cosine with their numbers."""
        rows, scores = view.state.dense.search(vector, k, view.allowed, exact)
        return list(zip(view.state.columns.n[rows].tolist(), scores.tolist(), strict=True))

    def cosines(self, view: LocalView, vector: Vector, keys: list[Key]) -> Ranked:
        """The cosines of these passages, as far as they are known."""
        numbers = np.array(keys, np.int64)
        rows, known = view.state.columns.locate(numbers)
        scores = view.state.dense.cosines(vector, rows)
        return list(zip(numbers[known].tolist(), scores.tolist(), strict=True))

    def compact(self, progress: Progress = None, *, always: bool = False, threads: int | None = None) -> bool:
        """Write a new snapshot if one is due, unless another process is at it or has done it already."""
        if not self._dimension or not (always or self._state.dense.due):
            return False
        if not always and vectors.snapshot_token(self._folder) != self._state.token:
            with self._lock:
                self._state = self._load()
            return False
        written = vectors.compact(self._folder, self._store, self._embedder, self._dimension, progress, threads)
        if written:
            with self._lock:
                self._state = self._load()
        return written

    def close(self) -> None:
        """Close the record."""
        self._store.close()
