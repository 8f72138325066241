"""An SQLite file that several processes share, and what becomes of one that is damaged.

A damaged file is never deleted and never stops the server: it is set aside under another name, with a warning, and a
new one is begun in its place. A full disk, a lock or a missing right is no damage.
"""

from __future__ import annotations

import logging
import sqlite3
import time
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from retrieval.lock import locked, write_ahead

log = logging.getLogger("trimtab.store")
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_PRIMARY = 0xFF  # the part of an extended result code that says the kind
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SqliteFile:
    """Where it is, and how it is made: `schema` must do nothing to a file that has it."""

    path: Path
    schema: Callable[[sqlite3.Connection], None]
    synchronous: Literal["NORMAL", "FULL"]

    def connect(self) -> sqlite3.Connection:
        """A connection to a file that has its schema.

        Raises:
            sqlite3.Error: it is damaged, locked for long, or cannot be opened.
        """
        connection = sqlite3.connect(self.path, timeout=10)
        try:
            write_ahead(connection)
            connection.execute(f"PRAGMA synchronous={self.synchronous}")
            if not connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone():
                self.schema(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def make(self) -> None:
        """Make the file, or bring an older one up to the schema; a damaged one is set aside first."""
        self.run(self.schema)

    def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` makes of a connection; once more with a new file where this one turns out to be damaged.

        Raises:
            sqlite3.Error: anything but damage.
        """
        try:
            with closing(self.connect()) as connection:
                return work(connection)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            self.set_aside(error)
        with closing(self.connect()) as connection:
            return work(connection)

    def erase(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """As `run`, in one transaction, after which what `work` deleted is nowhere in the file or its log.

        Raises:
            sqlite3.Error: anything but damage, or a reader held the log for long; then the call can be repeated.
        """

        def overwrite(connection: sqlite3.Connection) -> T:
            connection.execute("PRAGMA secure_delete=ON")
            with connection:
                made = work(connection)
            if connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                raise sqlite3.OperationalError(f"{self.path} is in use: its log still holds deleted rows; try again")
            return made

        return self.run(overwrite)

    def set_aside(self, error: sqlite3.DatabaseError) -> None:
        """Rename the damaged file, unless another process has put a new one in its place meanwhile."""
        with locked(self.path.with_name(f"{self.path.name}.lock")):
            if not self._damaged():
                return
            name = f"{self.path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
            for part in ("", "-wal", "-shm"):
                if (file := self.path.with_name(self.path.name + part)).exists():
                    file.rename(self.path.with_name(name + part))
            log.error("%s is damaged (%s): set aside as %s, and a new one begun", self.path, error, name)

    def _damaged(self) -> bool:
        try:
            with closing(self.connect()) as connection:
                return bool(connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok")
        except sqlite3.DatabaseError as error:
            return is_damage(error)

    @property
    def identity(self) -> tuple[int, int]:
        """Which file is there now: another one after it was set aside or deleted. (0, 0) for none."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return (0, 0)
        return found.st_dev, found.st_ino


def is_damage(error: sqlite3.Error) -> bool:
    """Whether SQLite says that the file's content is wrong."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & _PRIMARY in _DAMAGE


def seal(body: bytes) -> bytes:
    """A JSON object with its checksum before it, since SQLite has none."""
    return b"%08x" % zlib.crc32(body) + body


def unsealed(path: Path, stored: bytes) -> bytes | None:
    """The JSON object as it was sealed; None, and a word in the log, where it is another now.

    What was stored before there were checksums begins with its brace, and is taken as it is.
    """
    if stored[:1] == b"{" or stored[:8] == b"%08x" % zlib.crc32(stored[8:]):
        return stored.removeprefix(stored[:8]) if stored[:1] != b"{" else stored
    log.error("%s: a row is not what was written, and is left out", path)
    return None
