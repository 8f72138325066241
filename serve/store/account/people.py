"""A secret salt for each person, so that what is hashed in the account can be made unreadable for ever.

A person is whoever a request names (OpenAI's `safety_identifier` or `user`), else its key. Hashes of prompts and
answers are HMACs with the person's salt. Deleting the salt leaves the chain whole, and its hashes without meaning.
The file holds a hash of each person's name, not the name.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sqlite3
import time
from pathlib import Path

from serve.store.sqlite import SqliteFile

_SCHEMA = "CREATE TABLE IF NOT EXISTS person (name TEXT PRIMARY KEY, salt BLOB NOT NULL, created REAL NOT NULL)"
_KNOWN = 50_000  # persons that a process remembers
_HELD = 2047  # bytes at most that hashlib hashes without letting other threads run, which costs more than the hash
_LONG = 2**15  # bytes from which on they may run meanwhile
_LOOK_S = 0.25  # between looks whether another process has erased somebody


class Person:
    """Somebody's salt, and the pseudonym under which the account has their requests.

    HMAC-SHA256 (RFC 2104) from two hashes that know the salt already: copying these costs half of `hmac.digest`.
    """

    __slots__ = ("_inner", "_outer", "pseudonym", "salt")

    def __init__(self, salt: bytes) -> None:
        self.salt = salt
        block = salt.ljust(64, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))
        self.pseudonym = self.digest(b"person")[:16]

    def begin(self) -> hashlib._Hash:
        """A hash to be fed a text piece by piece, for `end`."""
        return self._inner.copy()

    def end(self, begun: hashlib._Hash) -> str:
        """HMAC-SHA256 of what `begun` was fed, in hexadecimal."""
        outer = self._outer.copy()
        outer.update(begun.digest())
        return outer.hexdigest()

    def digest(self, text: bytes) -> str:
        """HMAC-SHA256 of a text with the salt, in hexadecimal."""
        begun = self._inner.copy()
        if _HELD < len(text) < _LONG:
            view = memoryview(text)
            for at in range(0, len(view), _HELD):
                begun.update(view[at : at + _HELD])
        else:
            begun.update(text)
        return self.end(begun)


class People:
    """The salts in a state folder. Threads may share it."""

    def __init__(self, folder: Path) -> None:
        self._file = SqliteFile(folder / "people.sqlite3", _prepare, "FULL")
        self._erased = folder / "people.erased"  # touched by each erasure
        self._known: dict[tuple[str, str], Person] = {}
        self._looked, self._stamp = 0.0, self._mark()

    def known(self, tenant: str, name: str) -> Person | None:
        """A person whom this process remembers; never blocks for long."""
        now = time.monotonic()
        if now - self._looked > _LOOK_S:
            self._looked = now
            if (stamp := self._mark()) != self._stamp:
                self._stamp = stamp
                self._known.clear()
        return self._known.get((tenant, name))

    def open(self, tenant: str, name: str) -> Person:
        """A person, with a new salt where there is none. Blocks.

        Raises:
            sqlite3.Error, OSError: the file cannot be read or written.
        """
        row = (_key(tenant, name), secrets.token_bytes(32), time.time())
        if not self._file.path.exists():  # SQLite gives its other files the same rights
            os.close(os.open(self._file.path, os.O_WRONLY | os.O_CREAT, 0o600))

        def make(connection: sqlite3.Connection) -> bytes:
            with connection:
                connection.execute("INSERT OR IGNORE INTO person VALUES (?, ?, ?)", row)
            found = connection.execute("SELECT salt FROM person WHERE name = ?", row[:1]).fetchone()
            return bytes(found[0])

        person = Person(self._file.run(make))
        while len(self._known) >= _KNOWN:
            self._known.pop(next(iter(self._known)), None)
        self._known[tenant, name] = person
        return person

    def find(self, tenant: str, name: str) -> Person | None:
        """A person who has a salt; None for anybody else."""
        if not self._file.path.exists():
            return None

        def read(connection: sqlite3.Connection) -> bytes | None:
            found = connection.execute("SELECT salt FROM person WHERE name = ?", (_key(tenant, name),)).fetchone()
            return bytes(found[0]) if found else None

        salt = self._file.run(read)
        return None if salt is None else Person(salt)

    def all(self) -> list[Person]:
        """Everybody who has a salt."""
        if not self._file.path.exists():
            return []
        return [
            Person(bytes(row[0])) for row in self._file.run(lambda it: it.execute("SELECT salt FROM person").fetchall())
        ]

    def erase(self, tenant: str, name: str) -> None:
        """Delete a person's salt, from the file's free pages and its log too, and from every process's memory.

        Raises:
            sqlite3.Error, OSError: the file cannot be written.
        """
        self._file.erase(lambda it: it.execute("DELETE FROM person WHERE name = ?", (_key(tenant, name),)))
        self._erased.touch()
        os.utime(self._erased)
        self._known.pop((tenant, name), None)

    def _mark(self) -> int:
        try:
            return self._erased.stat().st_mtime_ns
        except OSError:
            return 0


def _key(tenant: str, name: str) -> str:
    return hashlib.sha256(f"{tenant}\0{name}".encode("utf-8", "surrogatepass")).hexdigest()


def _prepare(connection: sqlite3.Connection) -> None:
    with connection:
        connection.execute(_SCHEMA)
