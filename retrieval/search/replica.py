"""A copy of an index's record, on which changes can be tried. Its caches are built anew when it is opened."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from retrieval.backends.place import remote


def copy_record(location: str, target: Path) -> None:
    """Copy the record of the index at `location` into the folder `target`: one moment of it, while others write.

    Raises:
        ValueError: the index is on a database server.
        OSError, sqlite3.Error: it cannot be read, or the copy not be written.
    """
    if remote(location):
        raise ValueError(f"the index {location} is on a database server: it cannot be copied to try a change")
    target.mkdir(parents=True, exist_ok=True)
    source = Path(location, "record.db")
    if not source.exists():
        return  # an index without a rule
    with closing(sqlite3.connect(source, timeout=60)) as old, closing(sqlite3.connect(target / "record.db")) as new:
        old.backup(new)
