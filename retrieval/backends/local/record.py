"""The system of record: SQLite in WAL mode. Everything else in an index's folder is a cache of it.

A document is what was given; its chunks are the passages. Each passage gets a number `n` that grows and is never
used again, so "n is here" says what it holds and a change is only ever an addition or a withdrawal. Each
transaction that changes anything has the next revision. A call that changes something has it on disk
(synchronous=FULL) before it returns.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt

from retrieval.backends.entry import Entry, TakenId
from retrieval.lock import write_ahead
from retrieval.passage import Passage

log = logging.getLogger("trimtab.record")
FORMAT = 1
_SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE documents(id TEXT PRIMARY KEY, signature BLOB NOT NULL, content_hash BLOB NOT NULL,
  original TEXT) WITHOUT ROWID;
CREATE INDEX documents_hash ON documents(content_hash);
CREATE TABLE passages(
  n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, document TEXT NOT NULL, title TEXT NOT NULL,
  text TEXT NOT NULL, source TEXT NOT NULL, url TEXT NOT NULL, region TEXT NOT NULL, language TEXT NOT NULL,
  kind TEXT NOT NULL, tags TEXT NOT NULL, in_force_from TEXT NOT NULL, in_force_to TEXT NOT NULL, checksum BLOB);
CREATE INDEX passages_document ON passages(document);
CREATE INDEX passages_labels ON passages(n, region, language, kind, tags, in_force_from, in_force_to);
CREATE TABLE vectors(n INTEGER PRIMARY KEY REFERENCES passages(n), embedder TEXT NOT NULL, vector BLOB NOT NULL);
CREATE TABLE changes(revision INTEGER NOT NULL, op TEXT NOT NULL, n INTEGER NOT NULL, id TEXT NOT NULL,
  at REAL NOT NULL);
CREATE INDEX changes_revision ON changes(revision);
"""
_FIELDS = "id, document, title, text, source, url, region, language, kind, tags, in_force_from, in_force_to, checksum"
_VECTORS = "SELECT vector FROM vectors WHERE n > ? ORDER BY n"
_NUMBERED_VECTORS = "SELECT n, vector FROM vectors WHERE n > ? ORDER BY n"
Label = tuple[int, str, str, str, str, str, str]  # n, region, language, kind, tags as JSON, from, to


@dataclass(frozen=True, slots=True)
class Delta:
    """What a process that knew an older revision has to take in. `vectors` are those of `labels`' last rows."""

    revision: int
    labels: list[Label]
    withdrawn: list[int]
    vectors: npt.NDArray[np.float16]


class RecordDamaged(OSError):
    """A passage is not what was written: a byte of the record has changed under SQLite, which has no checksums."""


class RecordReplaced(OSError):
    """The record is no longer where it was opened: what is written to it now would be lost with it."""


class Store:
    """One SQLite file. Any thread may call; reads do not wait for writes, in this process or another."""

    def __init__(self, path: Path, *, create: dict[str, str] | None = None) -> None:
        if not path.is_file() and create is None:
            raise FileNotFoundError(f"no index at {path.parent}")
        self.path = path
        self._write_lock, self._read_lock = threading.Lock(), threading.Lock()
        self._file = (0, 0)  # device and inode, once it is open
        self._writer = self._connect()
        self._prepare(create or {})
        self._file = self._here()
        self._reader = self._connect()
        self._reader.execute("PRAGMA query_only=ON")
        self._seen_version, self._seen_revision = -1, 0

    def _here(self) -> tuple[int, int]:
        """Which file stands at the path; (0, 0) for none."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return 0, 0
        return found.st_dev, found.st_ino

    def _must_be_here(self) -> None:
        if self._file != (0, 0) and self._here() != self._file:
            raise RecordReplaced(f"{self.path} was deleted or replaced while it was open")

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
        try:
            write_ahead(connection)
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA mmap_size=268435456")
        except sqlite3.DatabaseError as error:
            connection.close()
            raise ValueError(f"{self.path} is not an index: {error}") from None
        return connection

    def _prepare(self, create: dict[str, str]) -> None:
        with self._transaction() as db:
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name='meta'").fetchone():
                for statement in _SCHEMA.split(";"):
                    db.execute(statement)
                settings = {**create, "format": str(FORMAT), "identity": uuid.uuid4().hex, "revision": "0"}
                db.executemany("INSERT INTO meta VALUES(?, ?)", settings.items())
            if "checksum" not in {row[1] for row in db.execute("PRAGMA table_info(passages)")}:
                db.execute("ALTER TABLE passages ADD COLUMN checksum BLOB")  # what is there already goes unverified
            made = db.execute("SELECT value FROM meta WHERE key='format'").fetchone()[0]
        if made != str(FORMAT):
            self._writer.close()
            raise ValueError(f"{self.path} has format {made}, this version reads {FORMAT}: build it again")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._write_lock:
            self._must_be_here()
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:  # a full disk may have ended it already
                    self._writer.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close both connections, after the call that is using them."""
        with self._write_lock, self._read_lock:
            self._reader.close()
            self._writer.close()

    # Settings

    def setting(self, key: str, default: str = "") -> str:
        """A setting's value, or `default` where it has none."""
        with self._read_lock:
            row = self._reader.execute("SELECT value FROM meta WHERE key=?", (key,)).fetchone()
        return str(row[0]) if row else default

    def set(self, key: str, value: str) -> None:
        """A setting changes what searches answer, so it makes a revision."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES(?, ?)", (key, value))
            self._settle(db, self._next(db), True)

    # Changes

    def put(self, entries: Iterable[Entry], embedder: str, gone: Sequence[str] = ()) -> int:
        """Withdraw what is gone, then add or replace documents, in one transaction. Returns the revision.

        A document that is there already, unchanged, stays as it is.

        Raises:
            TakenId: naming every document that cannot go in; nothing was changed.
        """
        with self._transaction() as db:
            revision = self._next(db)
            changed = [self._withdraw(db, key, revision) for key in gone]
            taken: dict[str, str] = {}
            for entry in entries:
                try:
                    changed.append(self._put(db, entry, embedder, revision))
                except TakenId as error:
                    taken |= error.taken
            if taken:
                raise TakenId(taken)
            return self._settle(db, revision, any(changed))

    def withdraw(self, ids: Iterable[str]) -> tuple[int, list[str]]:
        """By document or by passage. Returns the revision and the ids that were there."""
        with self._transaction() as db:
            revision = self._next(db)
            gone = [key for key in dict.fromkeys(ids) if self._withdraw(db, key, revision)]
            return self._settle(db, revision, bool(gone)), gone

    def _put(self, db: sqlite3.Connection, entry: Entry, embedder: str, revision: int) -> bool:
        document, signature = entry.document, entry.document.signature
        row = db.execute("SELECT signature FROM documents WHERE id=?", (document.id,)).fetchone()
        if row and row[0] == signature:
            return False
        if row:
            self._withdraw(db, document.id, revision)
        for passage in entry.chunks:
            if db.execute("SELECT 1 FROM passages WHERE id=?", (passage.id,)).fetchone():
                raise TakenId({document.id: passage.id})
        original = None if entry.chunks == (document,) else json.dumps(asdict(document), ensure_ascii=False)
        row = (document.id, signature, document.content_hash, original)
        db.execute("INSERT INTO documents VALUES(?, ?, ?, ?)", row)
        for i, passage in enumerate(entry.chunks):
            n = db.execute(f"INSERT INTO passages({_FIELDS}) VALUES({'?,' * 12}?)", _row(passage)).lastrowid
            if entry.vectors is not None:
                blob = entry.vectors[i].astype("<f2").tobytes()
                db.execute("INSERT INTO vectors VALUES(?, ?, ?)", (n, embedder, blob))
            _log(db, revision, "add", [(n, passage.id)])
        return True

    def _withdraw(self, db: sqlite3.Connection, key: str, revision: int) -> bool:
        rows = db.execute("SELECT n, id FROM passages WHERE document=?", (key,)).fetchall()
        if rows:
            db.execute("DELETE FROM documents WHERE id=?", (key,))
        else:
            rows = db.execute("SELECT n, id FROM passages WHERE id=?", (key,)).fetchall()
            # A document that lost a chunk is no longer what was given: adding it again restores it.
            owner = "(SELECT document FROM passages WHERE id=?)"
            db.execute(f"UPDATE documents SET signature=x'', original=NULL WHERE id={owner}", (key,))  # noqa: S608
            db.execute("DELETE FROM documents WHERE id=?", (key,))
        db.executemany("DELETE FROM vectors WHERE n=?", [(n,) for n, _ in rows])
        db.executemany("DELETE FROM passages WHERE n=?", [(n,) for n, _ in rows])
        _log(db, revision, "withdraw", rows)
        return bool(rows)

    @staticmethod
    def _next(db: sqlite3.Connection) -> int:
        return int(db.execute("SELECT value FROM meta WHERE key='revision'").fetchone()[0]) + 1

    @staticmethod
    def _settle(db: sqlite3.Connection, revision: int, changed: bool) -> int:
        if not changed:
            return revision - 1
        db.execute("UPDATE meta SET value=? WHERE key='revision'", (str(revision),))
        return revision

    # Reading

    @overload
    def revision(self) -> int: ...
    @overload
    def revision(self, *, wait: bool) -> int | None: ...
    def revision(self, *, wait: bool = True) -> int | None:
        """The newest committed revision; costs microseconds while nothing has changed.

        Not to `wait` for another thread that is reading means None where there is one.
        """
        if not self._read_lock.acquire(blocking=wait):
            return None
        try:
            self._must_be_here()
            version = self._reader.execute("PRAGMA data_version").fetchone()[0]
            if version != self._seen_version:
                row = self._reader.execute("SELECT value FROM meta WHERE key='revision'").fetchone()
                self._seen_version, self._seen_revision = version, int(row[0])
            return self._seen_revision
        finally:
            self._read_lock.release()

    def count(self) -> int:
        """How many passages there are."""
        return int(self._rows("SELECT count(*) FROM passages")[0][0])

    def get(self, key: str) -> Passage | None:
        """A passage (a document or a chunk) by its id.

        Raises:
            RecordDamaged: it is not what was written.
        """
        rows = self._rows(f"SELECT {_FIELDS} FROM passages WHERE id=?", (key,))  # noqa: S608
        return _passage(rows[0]) if rows else None

    def chunks(self, document: str) -> list[Passage]:
        """A document's passages in the order in which they stand in it."""
        rows = self._rows(f"SELECT {_FIELDS} FROM passages WHERE document=? ORDER BY n", (document,))  # noqa: S608
        return self._sound(rows)

    def document(self, key: str) -> Passage | None:
        """What was given under this id, before it was chunked.

        Raises:
            RecordDamaged: it is not what was written.
        """
        rows = self._rows("SELECT original, signature FROM documents WHERE id=?", (key,))
        return _original(*rows[0]) if rows and rows[0][0] else self.get(key)

    def page(self, after: str, limit: int) -> list[Passage]:
        """Passages in the order of ids, from the one behind `after`."""
        sql = f"SELECT {_FIELDS} FROM passages WHERE id > ? ORDER BY id LIMIT ?"  # noqa: S608
        return self._sound(self._rows(sql, (after, limit)))

    def documents(self) -> Iterator[Passage]:
        """Everything as it was given; of a document that lost a chunk, the chunks that are left."""
        with self._bulk() as db:
            for key, original, signature in db.execute("SELECT id, original, signature FROM documents ORDER BY id"):
                if original:
                    yield _original(original, signature)
                else:
                    yield from self.chunks(key) or filter(None, [self.get(key)])

    def fetch(self, numbers: Sequence[int | str]) -> dict[int | str, Passage]:
        """The passages of these numbers; those withdrawn meanwhile, and damaged ones, are left out."""
        sql = f"SELECT n, {_FIELDS} FROM passages WHERE n IN "  # noqa: S608
        return {row[0]: passage for row in self._among(sql, numbers) for passage in self._sound([row[1:]])}

    def _sound(self, rows: Iterable[tuple]) -> list[Passage]:  # type: ignore[type-arg]
        """The passages of these rows; a damaged one is reported and left out."""
        found = []
        for row in rows:
            try:
                found.append(_passage(row))
            except RecordDamaged as error:
                log.error("%s: %s; it is left out", self.path, error)
        return found

    def damage(self) -> list[str]:
        """What is wrong with the record: passages that are not what was written, and what SQLite finds. Reads it all.

        It pauses between rows, so that searches on other threads go on.
        """
        wrong = []
        with self._bulk() as db:
            rows = db.execute(f"SELECT {_FIELDS} FROM passages ORDER BY n")  # noqa: S608
            while batch := rows.fetchmany(200):
                for row in batch:
                    try:
                        _passage(row)
                    except RecordDamaged as error:
                        wrong.append(str(error))
                time.sleep(0.002)
            found = [row[0] for row in db.execute("PRAGMA integrity_check(10)")]
        return wrong + [line for line in found if line != "ok"]

    def stored(self, ids: Sequence[str]) -> dict[str, bytes]:
        """The signatures of those documents that are there."""
        return dict(self._among("SELECT id, signature FROM documents WHERE id IN ", ids))

    def signatures(self) -> Iterator[tuple[str, bytes]]:
        """The id and the signature of every document, in the order of ids."""
        with self._bulk() as db:
            yield from db.execute("SELECT id, signature FROM documents ORDER BY id")

    def _among(self, sql: str, values: Sequence[int | str]) -> list[tuple]:  # type: ignore[type-arg]
        """SQLite takes so many values at a time."""
        rows = []
        for start in range(0, len(values), 1000):
            part = tuple(values[start : start + 1000])
            rows += self._rows(f"{sql}({','.join('?' * len(part))})", part)
        return rows

    def same_content(self, content_hash: bytes, other_than: str) -> str | None:
        """The id of another document with this content hash, if there is one."""
        sql = "SELECT id FROM documents WHERE content_hash=? AND id<>? LIMIT 1"
        rows = self._rows(sql, (content_hash, other_than))
        return str(rows[0][0]) if rows else None

    def delta(self, since: int, after: int, vectors_after: int, dimension: int) -> Delta:
        """What came after passage `after` and went after revision `since`: one moment's view of it."""
        with self._bulk() as db:
            db.execute("BEGIN")
            revision = int(db.execute("SELECT value FROM meta WHERE key='revision'").fetchone()[0])
            labels = db.execute(
                "SELECT n, region, language, kind, tags, in_force_from, in_force_to FROM passages"
                " INDEXED BY passages_labels WHERE n > ? ORDER BY n",
                (after,),
            ).fetchall()
            sql = "SELECT n FROM changes WHERE revision > ? AND n <= ? AND op='withdraw'"
            withdrawn = [n for (n,) in db.execute(sql, (since, after))]
            blobs = b"".join(v for (v,) in db.execute(_VECTORS, (vectors_after,))) if dimension else b""
            db.execute("COMMIT")
        return Delta(revision, labels, withdrawn, np.frombuffer(blobs, "<f2").reshape(-1, max(1, dimension)))

    def vectors(self, after: int, dimension: int) -> Iterator[tuple[list[int], npt.NDArray[np.float16]]]:
        """All of them, in the order of n, some thousands at a time."""
        with self._bulk() as db:
            rows = db.execute(_NUMBERED_VECTORS, (after,))
            while batch := rows.fetchmany(8192):
                yield [n for n, _ in batch], np.frombuffer(b"".join(v for _, v in batch), "<f2").reshape(-1, dimension)

    def texts(self, after: int, upto: int | None = None) -> Iterator[tuple[int, str, str, str, str]]:
        """n, document, title, text, language of the passages behind `after`; a document's chunks are neighbours.

        `upto` is the last one, None for all.
        """
        sql = "SELECT n, document, title, text, language FROM passages WHERE n > ? AND n <= ? ORDER BY n"
        with self._bulk() as db:
            yield from db.execute(sql, (after, 2**62 if upto is None else upto))

    def withdrawn(self, since: int) -> list[int]:
        """The numbers of passages withdrawn after a revision."""
        return [n for (n,) in self._rows("SELECT n FROM changes WHERE revision > ? AND op='withdraw'", (since,))]

    @contextmanager
    def _bulk(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own, so that a long read holds up no search."""
        connection = self._connect()
        try:
            yield connection
        finally:
            connection.close()

    def log(self, since: int = 0, limit: int = 1000) -> list[tuple[int, str, str, float]]:
        """Changes after a revision, oldest first: revision, operation, passage id, Unix time in seconds."""
        sql = "SELECT revision, op, id, at FROM changes WHERE revision > ? ORDER BY rowid LIMIT ?"
        return self._rows(sql, (since, limit))

    def _rows(self, sql: str, values: tuple[object, ...] = ()) -> list[tuple]:  # type: ignore[type-arg]
        with self._read_lock:
            return self._reader.execute(sql, values).fetchall()


def _log(db: sqlite3.Connection, revision: int, op: str, rows: Iterable[tuple[int | None, str]]) -> None:
    now = time.time()
    db.executemany("INSERT INTO changes VALUES(?, ?, ?, ?, ?)", [(revision, op, n, key, now) for n, key in rows])


def _row(p: Passage) -> tuple[str | bytes, ...]:
    tags = json.dumps(sorted(p.tags), ensure_ascii=False)
    row = (p.id, p.document, p.title, p.text, p.source, p.url, p.region, p.language, p.kind, tags,
           p.in_force_from, p.in_force_to)  # fmt: skip
    return (*row, _checksum(row))


def _checksum(row: tuple[str, ...]) -> bytes:
    return hashlib.blake2b("\0".join(row).encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _original(text: str, signature: bytes) -> Passage:
    try:
        fields = json.loads(text)
        passage = Passage(**{**fields, "tags": tuple(fields["tags"])})
    except (ValueError, TypeError, KeyError) as error:
        raise RecordDamaged(f"a document cannot be read: {error}") from None
    if signature and passage.signature != signature:
        raise RecordDamaged(f"document {passage.id!r} is not what was written")
    return passage


def _passage(row: tuple) -> Passage:  # type: ignore[type-arg]
    *texts, checksum = row
    key, document, title, text, source, url, region, language, kind, tags, start, end = texts
    if checksum is not None and checksum != _checksum(tuple(map(str, texts))):
        raise RecordDamaged(f"passage {key!r} is not what was written")
    parent = "" if document == key else document
    return Passage(key, text, title, source, url, region, language, kind, tuple(json.loads(tags)), start, end, parent)
