"""Where an index is, by its path or URL: a folder of this machine, or a collection in Milvus."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from retrieval.backends.backend import Backend, Progress
from retrieval.embedding.choice import Asked
from retrieval.embedding.embedder import Embedder


@dataclass(frozen=True, slots=True)
class Kind:
    """A store of principles: which paths are its own, and the function that opens one, as "module:function"."""

    pattern: str
    opener: str

    def open(
        self, path: str, create: bool, embedder: Asked, threads: int | None, progress: Progress
    ) -> tuple[Backend, Embedder | None]:
        """The open store and its embedder. The module is imported here, since each brings heavy libraries."""
        module, _, name = self.opener.partition(":")
        opener: Callable[..., tuple[Backend, Embedder | None]] = getattr(import_module(module), name)
        return opener(path, create, embedder, threads, progress)


# The first whose pattern matches opens the path; a folder is what is nothing else.
KINDS = (
    Kind(r"[a-z]+://|[^#]*\.db(#|$)", "retrieval.backends.milvus.cluster:open_milvus"),
    Kind("", "retrieval.backends.local.machine:open_folder"),
)


def open_backend(
    path: str, create: bool, embedder: Asked, threads: int | None, progress: Progress = None
) -> tuple[Backend, Embedder | None]:
    """The store at a path or URL, and its embedder (None: terms only).

    Raises:
        FileNotFoundError: there is none and `create` is false.
        ValueError: what is there is no index, or has another embedder than the one asked for.
        ImportError: the extra that it needs is not installed.
    """
    return _kind(path).open(path, create, embedder, threads, progress)


def remote(path: str) -> bool:
    """Whether the path names a database server or its file, and not a folder."""
    return _kind(path) is not KINDS[-1]


def _kind(path: str) -> Kind:
    return next(kind for kind in KINDS if re.match(kind.pattern, path))
