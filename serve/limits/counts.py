"""The file that the counts of one machine are in, mapped into the memory of every worker.

    header        magic, layout, columns used, slots used, which columns are alive
    slot 0…n      of a key or tenant: its tag, two token buckets, today's tokens; per column requests and body bytes

A column belongs to one worker process, which alone writes it, and holds a lock on one byte of a file of locks for as
long as it lives; the kernel gives up the lock when the process dies, however it does, and a neighbour then clears the
column. What is checked before it is changed is checked and changed under one more lock, held for microseconds. All
blocks of the file are reserved when it grows: a full disk cannot hurt a worker later, inside the mapping.

The locks have a file of their own, which is open once per process: a process that closes any descriptor of a file gives
up all its locks on it, and a mapping that is let go of closes one.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import mmap
import os
import struct
import time
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger("trimtab.limits")

_MODE = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
_MAGIC, _LAYOUT = 0x7472696D5F6C696D, 1
_COLUMNS = 64  # worker processes
USED, _SLOTS, _ALIVE = 2, 3, 8  # header fields
_HEADER = _ALIVE + _COLUMNS
# Fields of a slot; every field is eight bytes.
REQUESTS, TOKENS, TODAY, SPENT, COUNT = 2, 3, 4, 5, 8
BYTES = COUNT + _COLUMNS
_SLOT = BYTES + _COLUMNS


class Counts:
    """One process's view of the file, as integers and as floating-point numbers."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it; one that is damaged is set aside, under the name that the log says.

        Raises:
            OSError: it cannot be written, or there is no room for it.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._lock_path, self._size = path, path.with_suffix(".lock"), 0
        self._locks = os.open(self._lock_path, _MODE, 0o600)
        try:
            self.lock()
            self._fd = _open(path)
            try:
                self._map()
                self.column = self._claim()
            except BaseException:
                os.close(self._fd)
                raise
        except BaseException:
            os.close(self._locks)
            raise
        self.unlock()

    @classmethod
    def opened(cls, path: Path, tags: Sequence[str]) -> tuple[Counts, dict[str, int]]:
        """The file and where the slot of each of these tags begins. Raises OSError; nothing is left open then."""
        counts = cls(path)
        try:
            return counts, counts.slots(tags)
        except BaseException:
            os.close(counts._fd)
            os.close(counts._locks)
            raise

    def slots(self, tags: Sequence[str]) -> dict[str, int]:
        """Where the slot of each of these begins; new ones are made. Raises OSError where there is no room, or
        the file was cut."""
        self.lock()
        try:
            self._map()
            used = self.ints[_SLOTS]
            found = {tuple(self.ints[at : at + 2]): at for at in range(_HEADER, _HEADER + used * _SLOT, _SLOT)}
            new = [tag for tag in tags if _words(tag) not in found]
            if new:
                os.posix_fallocate(self._fd, 0, (_HEADER + (used + len(new)) * _SLOT) * 8)
                self._map()
                for at, tag in enumerate(new, used):
                    start = _HEADER + at * _SLOT
                    self.ints[start], self.ints[start + 1] = _words(tag)
                    found[_words(tag)] = start
                self.ints[_SLOTS] = used + len(new)
            return {tag: found[_words(tag)] for tag in tags}
        finally:
            self.unlock()

    def lock(self) -> None:
        """Keep all other processes from checking and changing."""
        fcntl.lockf(self._locks, fcntl.LOCK_EX, 1, 0)

    def unlock(self) -> None:
        """Let them."""
        fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, 0)

    @property
    def cut(self) -> bool:
        """Whether the file is shorter than it was: a look into the mapping would end the process (SIGBUS)."""
        return os.fstat(self._fd).st_size < self._size

    @property
    def lost(self) -> bool:
        """Whether the file, or that of the locks, is not the one of that name any more, which others open."""
        return self.cut or not (_is_at(self._fd, self._path) and _is_at(self._locks, self._lock_path))

    def give_up(self) -> None:
        """Remove a file that was cut: in the next one its slots may stand elsewhere; the two must not be confused."""
        self.lock()
        try:
            if self.cut and _is_at(self._fd, self._path):
                self._path.unlink()
        finally:
            self.unlock()

    def keep_column(self) -> None:
        """Lock our column again, after another view of the same file was closed and took all locks with it."""
        self._grab(self.column)

    def sweep(self) -> None:
        """Clear the columns of processes that have died."""
        for column in range(self.ints[USED]):
            if column != self.column and self.ints[_ALIVE + column] and self._grab(column):
                self._clear(column)
                self.ints[_ALIVE + column] = 0
                fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, 1 + column)

    def _map(self) -> None:
        size = os.fstat(self._fd).st_size
        if size < max(self._size, _HEADER * 8):
            raise OSError(errno.EIO, "the file was cut in use", str(self._path))
        self._size = size
        memory = mmap.mmap(self._fd, self._size)
        self.ints, self.floats = memoryview(memory).cast("q"), memoryview(memory).cast("d")

    def _claim(self) -> int:
        """A column of our own."""
        for column in range(_COLUMNS):
            if self._grab(column):
                self._clear(column)
                self.ints[_ALIVE + column] = 1
                self.ints[USED] = max(self.ints[USED], column + 1)
                return column
        raise OSError(f"more than {_COLUMNS} processes count in it")

    def _grab(self, column: int) -> bool:
        """Lock a column's byte, if nobody has."""
        try:
            fcntl.lockf(self._locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 1 + column)
        except OSError:
            return False
        return True

    def _clear(self, column: int) -> None:
        for slot in range(_HEADER, len(self.ints) - _SLOT + 1, _SLOT):
            self.ints[slot + COUNT + column] = self.ints[slot + BYTES + column] = 0


def _words(tag: str) -> tuple[int, int]:
    first, second = struct.unpack("2q", hashlib.sha256(tag.encode()).digest()[:16])
    return first, second


def _open(path: Path) -> int:
    """The file, whole and of our layout."""
    fd = os.open(path, _MODE, 0o600)
    if os.fstat(fd).st_size and not _sound(fd):
        os.close(fd)
        aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
        path.rename(aside)
        log.warning("%s is damaged: set aside as %s; limits count from zero", path, aside.name)
        fd = os.open(path, _MODE, 0o600)
    try:
        if os.fstat(fd).st_size == 0:
            os.posix_fallocate(fd, 0, _HEADER * 8)
            os.pwrite(fd, struct.pack("4q", _MAGIC, _LAYOUT, 0, 0), 0)
    except OSError:
        os.close(fd)
        raise
    return fd


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _sound(fd: int) -> bool:
    head = os.pread(fd, 32, 0)
    if len(head) < 32:
        return False
    magic, layout, used, slots = struct.unpack("4q", head)
    fits: bool = slots >= 0 and (_HEADER + slots * _SLOT) * 8 <= os.fstat(fd).st_size
    return fits and (magic, layout) == (_MAGIC, _LAYOUT) and 0 <= used <= _COLUMNS
