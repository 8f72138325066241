"""From files into an index: what is good goes in, batch by batch, and the rest is reported."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from retrieval.backends.entry import TakenId
from retrieval.embedding.choice import ByTexts
from retrieval.passage import Passage
from retrieval.search.intake import Origins, Tally, bar, passages, sample, size
from retrieval.text import formats

if TYPE_CHECKING:
    from retrieval.search.index import Index

T = TypeVar("T")
BATCH = 256  # documents in a transaction, and sorted by length to be embedded


def ingest(arguments: argparse.Namespace, *, create: bool) -> int:
    """Read the inputs into an index, print what happened, and return the exit status.

    It is 1 where nothing was read, where an id is taken, or where `--strict` met a bad row.

    Raises:
        FileNotFoundError: an input or, without `create`, the index does not exist.
        ValueError: an input is of no known format, or the index has another embedder.
    """
    from retrieval.search.index import Index

    listings = [formats.listing(given) for given in arguments.input]
    asked = embedder(arguments, listings)
    with Index.open(arguments.index, create=create, embedder=asked, threads=arguments.threads) as index:
        tally, origins = Tally(index.count()), Origins(index)
        with bar("reading", size(listings), "B") as advance:
            for batch in batches(passages(arguments, listings, tally, origins, advance), BATCH):
                _note_duplicates(index, batch, tally)
                accepted(index, batch, lambda p: [p], tally)
        origins.keep()
        settle(index)
        tally.report(index.count(), index.revision)
    return 1 if not tally.read or tally.collisions or (arguments.strict and tally.bad) else 0


def accepted(
    index: Index, batch: list[T], written: Callable[[T], list[Passage]], tally: Tally,
    gone: Callable[[T], list[str]] = lambda item: [],
) -> list[T]:  # fmt: skip
    """Add what each item writes and withdraw what is gone with it; the items that went in, in one transaction.

    An item with an id that another document's chunk has is reported and left out, whole.
    """
    while batch:
        try:
            index.add([p for item in batch for p in written(item)], [key for item in batch for key in gone(item)])
            break
        except TakenId as error:
            taken = error.taken
        for key in taken:
            tally.collision(key, str(TakenId({key: taken[key]})))
        batch = [item for item in batch if not any(p.id in taken for p in written(item))]
    return batch


def embedder(arguments: argparse.Namespace, listings: list[formats.Listing]) -> str | ByTexts:
    """The embedder that the command names, else one by the languages of its inputs."""
    return arguments.embedder or ByTexts(lambda: sample(arguments, listings), partial(print, file=sys.stderr))


def settle(index: Index) -> None:
    """Bring the caches of terms and vectors up to what the index now holds, and set its floor where that is due."""
    with bar("terms", None, " passages") as advance:
        index.refresh(advance)
    with bar("vectors", None, " passages") as advance:
        index.backend.compact(advance)
    from retrieval.search.calibration import calibrate

    calibrate(index)


def _note_duplicates(index: Index, batch: list[Passage], tally: Tally) -> None:
    seen: dict[bytes, str] = {}
    for passage in batch:
        content = passage.content_hash
        other = seen.setdefault(content, passage.id)
        if other == passage.id:
            other = index.backend.same_content(content, passage.id) or passage.id
        if other != passage.id:
            tally.duplicate(passage.id, other)


def batches(items: Iterator[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter."""
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
