"""From a path or URL and an embedder's name to an open backend, with every mismatch refused."""

from __future__ import annotations

import re
from pathlib import Path

from retrieval.backends.backend import Backend, Progress
from retrieval.backends.local.machine import Local
from retrieval.backends.local.record import Store
from retrieval.embedding.embedder import DEFAULT, Embedder

NONE = "none"


def open_backend(
    path: str, create: bool, embedder: str | Embedder | None, threads: int | None, progress: Progress = None
) -> tuple[Backend, Embedder | None]:
    if remote(path):
        from retrieval.backends.milvus.cluster import open_milvus

        return open_milvus(path, create, embedder, threads)
    folder = Path(path)
    exists = (folder / "record.db").is_file()
    if not exists and not create:
        raise FileNotFoundError(f"no index at {folder}: make one with `trimtab index build {folder} --input FILE`")
    model: Embedder | None = None
    if not exists:
        model = load_embedder(embedder if embedder is not None else DEFAULT, threads)
        folder.mkdir(parents=True, exist_ok=True)
    store = Store(folder / "record.db", create=None if exists else about(model, embedder))
    try:
        model = check(store.setting("embedder"), store.setting("embedder_name"), model or embedder, threads)
        dimension = model.dimension if model else 0
        return Local(folder, store, model.id if model else "", dimension, progress), model
    except BaseException:
        store.close()
        raise


def remote(path: str) -> bool:
    return bool(re.match(r"[a-z]+://", path)) or path.partition("#")[0].endswith(".db")


def about(model: Embedder | None, asked: str | Embedder | None) -> dict[str, str]:
    """What a new index remembers of its embedder."""
    name = asked if isinstance(asked, str) else DEFAULT if asked is None else str(getattr(asked, "source", ""))
    if model is not None and name and Path(name).is_dir():
        name = str(Path(name).resolve())
    return {"embedder": model.id if model else "", "embedder_name": name if model else NONE}


def check(own: str, name: str, given: str | Embedder | None, threads: int | None) -> Embedder | None:
    """The index's own embedder; another one is refused, since its vectors would mean nothing here."""
    if not own:
        if given is not None and given != NONE:
            raise ValueError("this index was built without an embedder: build it anew to search it by meaning")
        return None
    if given == NONE:
        raise ValueError(f"this index has an embedder ({own}): search it with mode lexical instead")
    if given is None and not name:
        raise ValueError(f"this index was built with an embedder that has no name ({own}): pass it to open")
    model = load_embedder(given if given is not None else name, threads)
    if model is None or model.id != own:
        other = model.id if model else NONE
        raise ValueError(
            f"this index was built with the embedder {own}, not with {other}: its vectors cannot be compared."
            " Name the same model, or build the index anew"
        )
    return model


def load_embedder(embedder: str | Embedder, threads: int | None) -> Embedder | None:
    if not isinstance(embedder, str):
        return embedder
    if embedder == NONE:
        return None
    from retrieval.embedding.embedder import load

    return load(embedder, threads=threads)
