"""From files into an index: what is good goes in, batch by batch, and the rest is reported."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from retrieval.passage import Passage

SHOWN = 20  # bad rows and duplicates that are printed; the rest are counted
BATCH = 256  # documents in a transaction, and sorted by length to be embedded


def ingest(arguments: argparse.Namespace, *, create: bool) -> int:
    """Read the inputs into an index, print what happened, and return the exit status.

    Raises:
        FileNotFoundError: an input or, without `create`, the index does not exist.
        ValueError: an input is of no known kind, or the index has another embedder.
    """
    from retrieval.search.index import Index
    from retrieval.text import formats as files

    inputs = [file for given in arguments.input for file in files.files(given)]
    defaults = files.Defaults(
        arguments.region, arguments.language, arguments.kind, arguments.source, tuple(arguments.tag)
    )
    with Index.open(arguments.index, create=create, embedder=arguments.embedder, threads=arguments.threads) as index:
        tally = Tally(index.count())
        with bar("reading", sum(file.stat().st_size for file in inputs), "B") as advance:
            rows = (row for file in inputs for row in files.read(file, defaults, advance))
            for batch in _batches(_good(rows, tally, arguments.strict), BATCH):
                _note_duplicates(index, batch, tally)
                index.add(batch)
                tally.read += len(batch)
        with bar("terms", None, " passages") as advance:
            index.refresh(advance)
        with bar("vectors", None, " passages") as advance:
            index.backend.compact(advance)
        tally.report(index.count(), index.revision)
    return 1 if arguments.strict and tally.bad else 0


class Tally:
    """What happened to the rows, printed as it happens and summed up at the end."""

    def __init__(self, before: int) -> None:
        self.before, self.read, self.bad, self.duplicates = before, 0, 0, 0

    def problem(self, place: str, text: str) -> None:
        """Count and print a row that is no passage."""
        self.bad += 1
        _say(self.bad, f"{place}: {text}", "bad rows")

    def duplicate(self, key: str, other: str) -> None:
        """Count and print a passage whose content is there under another id."""
        self.duplicates += 1
        _say(self.duplicates, f"{key} has the same content as {other}", "duplicates")

    def report(self, after: int, revision: int) -> None:
        """Print the sums."""
        print(
            f"{self.read} documents read, {self.bad} bad rows left out, {self.duplicates} duplicates kept;"
            f" passages: {self.before} before, {after} now; revision {revision}"
        )


def _say(count: int, text: str, what: str) -> None:
    if count <= SHOWN:
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)
    if count == SHOWN:
        print(f"further {what} are counted only", file=sys.stderr)


def _good(rows: Iterable[Any], tally: Tally, strict: bool) -> Iterator[Passage]:
    for row in rows:
        if row.passage is not None:
            yield row.passage
            continue
        tally.problem(row.place, row.problem)
        if strict:
            return


def _note_duplicates(index: Any, batch: list[Passage], tally: Tally) -> None:
    seen: dict[bytes, str] = {}
    for passage in batch:
        content = passage.content_hash
        other = seen.setdefault(content, passage.id)
        if other == passage.id:
            other = index.backend.same_content(content, passage.id) or passage.id
        if other != passage.id:
            tally.duplicate(passage.id, other)


def _batches(passages: Iterator[Passage], size: int) -> Iterator[list[Passage]]:
    batch: list[Passage] = []
    for passage in passages:
        batch.append(passage)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


@contextmanager
def bar(text: str, total: int | None, unit: str) -> Iterator[Any]:
    """Yields what advances it. Nothing is drawn where standard error is no terminal, or for a moment's work."""
    from tqdm import tqdm

    with tqdm(total=total, desc=text, unit=unit, unit_scale=unit == "B", delay=0.5, disable=None) as drawn:
        yield drawn.update
