"""Changes in SQLite, in the state folder, shared by the workers and the command; what was written is on disk.

A damaged record is not set aside: without it managed policies would be gone, and nobody would know who approved what.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from serve.store.changes import Change, Intent, Managed, managed_after
from serve.store.sqlite import SqliteFile, seal, unsealed

T = TypeVar("T")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS change (
    n INTEGER PRIMARY KEY AUTOINCREMENT, state TEXT NOT NULL, version INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS change_state ON change (state, n);
CREATE TABLE IF NOT EXISTS managed (one INTEGER PRIMARY KEY CHECK (one = 1), body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS intent (one INTEGER PRIMARY KEY CHECK (one = 1), body BLOB NOT NULL);
"""


class RecordDamaged(OSError):
    """A row of the record is not what was written."""


@dataclass(frozen=True, slots=True)
class SqliteChanges:
    """The changes under a state folder. The file is made with the first change."""

    folder: Path

    @property
    def where(self) -> str:
        """The file's path."""
        return str(self._path)

    @property
    def _path(self) -> Path:
        return self.folder / "changes.sqlite3"

    @property
    def _file(self) -> SqliteFile:
        return SqliteFile(self._path, _prepare, "FULL")

    def find(self, ident: str) -> Change | None:
        """A change; None where there is none."""
        number = _number(ident)
        return self._read(lambda db: self._one(db, number), None) if number else None

    def page(self, states: Sequence[str] = (), after: str = "", limit: int = 100) -> list[Change]:
        """Changes in these states, newest first."""
        among = f"state IN ({','.join('?' * len(states))})" if states else "1"
        sql = f"SELECT body FROM change WHERE {among} AND n < ? ORDER BY n DESC LIMIT ?"  # noqa: S608
        below = _number(after) or 2**62

        def read(db: sqlite3.Connection) -> list[Change]:
            return [self._decoded(row[0], Change) for row in db.execute(sql, (*states, below, limit))]

        return self._read(read, [])

    def add(self, change: Change) -> Change:
        """Keep a new change; its id is "c" and its number."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with closing(self._file.connect()) as db, db:
            db.execute("BEGIN IMMEDIATE")
            number = db.execute("INSERT INTO change (state, version, body) VALUES ('', 0, '')").lastrowid
            made = msgspec.structs.replace(change, id=f"c{number}")
            _store(db, made)
        return made

    def replace(self, change: Change) -> bool:
        """Store the next version of a change; False where another one came first."""
        with closing(self._file.connect()) as db, db:
            db.execute("BEGIN IMMEDIATE")
            return _is_next(db, change) and _store(db, change)

    def managed(self) -> Managed:
        """What is in force."""
        return self._read(self._managed, Managed())

    def due(self) -> list[Change]:
        """The changes that are approved and not in force yet, oldest first."""
        return self.page(["approved"], limit=10_000)[::-1]

    def intent(self) -> Intent | None:
        """The step that was decided and not finished."""

        def read(db: sqlite3.Connection) -> Intent | None:
            row = db.execute("SELECT body FROM intent").fetchone()
            return self._decoded(row[0], Intent) if row else None

        return self._read(read, None)

    def decide(self, intent: Intent) -> bool:
        """Record a step before it is taken; False where its change has another version by now."""
        with closing(self._file.connect()) as db, db:
            db.execute("BEGIN IMMEDIATE")
            if not _is_next(db, intent.change):
                return False
            db.execute("INSERT INTO intent VALUES (1, ?)", (seal(msgspec.json.encode(intent)),))
        return True

    def finish(self, intent: Intent) -> None:
        """Store the intent's change and what it manages, and forget the intent: in one transaction."""
        with closing(self._file.connect()) as db, db:
            db.execute("BEGIN IMMEDIATE")
            row = db.execute("SELECT body FROM intent").fetchone()
            if row is None or self._decoded(row[0], Intent).id != intent.id:
                return  # somebody else has finished it
            if intent.applies:
                body = seal(msgspec.json.encode(managed_after(self._managed(db), intent.change)))
                db.execute("INSERT OR REPLACE INTO managed VALUES (1, ?)", (body,))
            for ident in intent.retires:
                if (old := self._one(db, _number(ident))) is not None and old.state == "in_force":
                    _store(db, msgspec.structs.replace(old, state="retired", version=old.version + 1))
            _store(db, intent.change)
            db.execute("DELETE FROM intent")

    def watch(self) -> SqliteWatch:
        """An eye on the record."""
        return SqliteWatch(self._path)

    def _read(self, work: Callable[[sqlite3.Connection], T], nothing: T) -> T:
        if not self._path.exists():
            return nothing
        with closing(self._file.connect()) as db:
            return work(db)

    def _one(self, db: sqlite3.Connection, number: int) -> Change | None:
        row = db.execute("SELECT body FROM change WHERE n = ?", (number,)).fetchone()
        return self._decoded(row[0], Change) if row else None

    def _managed(self, db: sqlite3.Connection) -> Managed:
        row = db.execute("SELECT body FROM managed").fetchone()
        return self._decoded(row[0], Managed) if row else Managed()

    def _decoded(self, stored: bytes, kind: type[T]) -> T:
        if (body := unsealed(self._path, stored)) is None:
            raise RecordDamaged(f"{self._path} is damaged: a row is not what was written; restore it from a backup")
        return msgspec.json.decode(body, type=kind)


class SqliteWatch:
    """Looks at the file's data version over a connection of its own, which is opened once there is a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: sqlite3.Connection | None = None
        self._seen: tuple[object, ...] = ()

    def changed(self) -> bool:
        """Whether the record may be another than at the last look."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            self.close()
            return False
        if self._db is None or self._seen[:2] != (found.st_dev, found.st_ino):
            self.close()
            self._db = sqlite3.connect(self._path, check_same_thread=False)
            self._db.execute("PRAGMA query_only=ON")
        version = self._db.execute("PRAGMA data_version").fetchone()[0]
        now = (found.st_dev, found.st_ino, version)
        was, self._seen = self._seen, now
        return was != now

    def close(self) -> None:
        """Close the connection."""
        if self._db is not None:
            self._db.close()
        self._db, self._seen = None, ()


def _number(ident: str) -> int:
    """The number of an id like c12; 0 for what is none."""
    digits = ident.removeprefix("c")
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 16 else 0


def _is_next(db: sqlite3.Connection, change: Change) -> bool:
    row = db.execute("SELECT version FROM change WHERE n = ?", (_number(change.id),)).fetchone()
    return row is not None and row[0] == change.version - 1


def _store(db: sqlite3.Connection, change: Change) -> bool:
    body = seal(msgspec.json.encode(change))
    row = (change.state, change.version, body, _number(change.id))
    db.execute("UPDATE change SET state = ?, version = ?, body = ? WHERE n = ?", row)
    return True


def _prepare(connection: sqlite3.Connection) -> None:
    """In one transaction: other processes look as soon as there is a file."""
    connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")


def open_in(folder: Path) -> SqliteChanges:
    """The changes in a state folder."""
    return SqliteChanges(folder)
