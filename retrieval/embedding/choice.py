"""Which embedder an index uses: the one that it was built with, and no other."""

from __future__ import annotations

from pathlib import Path

from retrieval.embedding.embedder import DEFAULT, Embedder, load

NONE = "none"


def settings(model: Embedder | None, asked: str | Embedder | None) -> dict[str, str]:
    """The settings by which a new index remembers its embedder: `embedder` (its id) and `embedder_name`."""
    name = asked if isinstance(asked, str) else DEFAULT if asked is None else str(getattr(asked, "source", ""))
    if model is not None and name and Path(name).is_dir():
        name = str(Path(name).resolve())
    return {"embedder": model.id if model else "", "embedder_name": name if model else NONE}


def verify(own: str, name: str, given: str | Embedder | None, threads: int | None) -> Embedder | None:
    """The index's own embedder, loaded where it was only named.

    `own` and `name` are the index's settings; `given` is what the caller asked for, None for the index's own.

    Raises:
        ValueError: the caller asked for another embedder, whose vectors could not be compared with the index's.
    """
    if not own:
        if given is not None and given != NONE:
            raise ValueError("this index was built without an embedder: rebuild it with one to search by meaning")
        return None
    if given == NONE:
        raise ValueError(f"this index has an embedder ({own}): to search by terms only, use mode lexical")
    if given is None and not name:
        raise ValueError(f"this index was built with an embedder that has no name ({own}): pass it to open")
    model = load_embedder(given if given is not None else name, threads)
    if model is None or model.id != own:
        other = model.id if model else NONE
        raise ValueError(
            f"this index was built with the embedder {own}, not with {other}: their vectors cannot be compared."
            " Use the same model or rebuild the index"
        )
    return model


def load_embedder(embedder: str | Embedder, threads: int | None) -> Embedder | None:
    """An embedder by its name or folder; None for "none". `threads` None means up to 4.

    Raises:
        ValueError, OSError: there is no such model, or its folder cannot be read.
        ImportError: the extra that it needs is not installed.
    """
    if not isinstance(embedder, str):
        return embedder
    if embedder == NONE:
        return None
    return load(embedder, threads=threads)
