"""What an index stands on: the record, and the two sides that answer from it.

`local.py` is one machine's (SQLite, FAISS, tantivy), `milvus.py` a distributed database's. Chunking, embedding,
fusion and everything after it are the same on both and live in `index.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from retrieval.backends.entry import Entry
from retrieval.fusion import Key, Ranked
from retrieval.passage import Filter, Passage

Vector = npt.NDArray[np.float32]
View = Any  # one moment of the index and what a filter allows in it; opaque to the caller
Progress = Callable[[int], None] | None


class Backend(Protocol):
    """Changes are durable before a call returns, and in other processes' `refresh` after it."""

    def setting(self, key: str, default: str = "") -> str:
        """A setting's value, or `default` where it has none."""
        ...

    def set(self, key: str, value: str) -> None:
        """Store a setting, which makes a new revision."""
        ...

    def put(self, entries: list[Entry], embedder: str, gone: Sequence[str] = ()) -> int:
        """Add or replace documents, withdraw those that are `gone`, and return the revision: one transaction.

        `embedder` is the id of the model behind the vectors.

        Raises:
            TakenId: a chunk has the id of another document's passage.
            OSError: the store was moved, deleted, or its disk is full.
        """
        ...

    def withdraw(self, ids: list[str]) -> tuple[int, list[str]]:
        """Take out documents or passages by id. Returns the revision and the ids that were there."""
        ...

    def stored(self, ids: list[str]) -> dict[str, bytes]:
        """The signature of each of these documents that the store has."""
        ...

    def signatures(self) -> Iterator[tuple[str, bytes]]:
        """The id and the signature of every document, in the order of ids, or else what names this state alone."""
        ...

    def same_content(self, content_hash: bytes, other_than: str) -> str | None:
        """The id of another document with the same content, if there is one."""
        ...

    def damage(self) -> list[str]:
        """What is wrong with the stored passages, in words. May read all of them."""
        ...

    def get(self, key: str) -> Passage | None:
        """A passage (a document or a chunk) by its id."""
        ...

    def document(self, key: str) -> Passage | None:
        """A document by its id, as it was given."""
        ...

    def documents(self) -> Iterator[Passage]:
        """Every document as it was given, in the order of ids."""
        ...

    def page(self, after: str, limit: int) -> list[Passage]:
        """At most `limit` passages in the order of ids, from the one behind `after`."""
        ...

    def count(self) -> int:
        """How many passages there are."""
        ...

    def languages(self) -> frozenset[str]:
        """The primary languages that passages were analysed in; "" for those of no known language."""
        ...

    def refresh(self, progress: Progress = None) -> int:
        """Take in what has changed; the revision that searches now see."""
        ...

    def unchanged(self) -> int | None:
        """What `refresh` would return, where that is known without waiting and nothing is to be taken in."""
        ...

    def view(self, where: Filter) -> View:
        """The newest state, narrowed to what a filter allows."""
        ...

    def lexical(self, view: View, query: str, k: int, exact: bool = False) -> tuple[Ranked, float]:
        """The k best passages by BM25, and a bound on the score that any passage could have."""
        ...

    def dense(self, view: View, vector: Vector, k: int, exact: bool) -> Ranked:
        """The k best passages by cosine. `exact` scans instead of walking an approximate index."""
        ...

    def cosines(self, view: View, vector: Vector, keys: list[Key]) -> Ranked:
        """The cosine of each of these passages; unknown keys are left out."""
        ...

    def fetch(self, keys: list[Key]) -> dict[Key, Passage]:
        """The passages behind keys that a search returned; those withdrawn meanwhile are left out."""
        ...

    def compact(self, progress: Progress = None, *, always: bool = False, threads: int | None = None) -> bool:
        """Rebuild the caches where that is due, or `always`. Returns whether anything was written."""
        ...

    def close(self) -> None:
        """Release files and connections."""
        ...
