"""Several processes append to one chain: under a file lock, synced to disk, whole lines or none."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from retrieval.lock import locked, replace_durably
from serve.store.account import AccountError
from serve.store.account.chain import GENESIS, BadLine, Link, chained
from serve.store.account.checkpoint import Signer
from serve.store.account.segment import first_number, header, named, segments, tail, torn_at

log = logging.getLogger("trimtab.account")
_DAY_S = 86400.0  # a segment holds no more, so that days can be cut off
_AGAIN = 2**12  # bytes searched for a torn end once this process has seen the segment whole
VERSION = 1


class Head(NamedTuple):
    """The end of the chain: the segment that holds it, the segment's size and age, and the place."""

    path: Path
    size: int  # bytes
    link: Link
    begun: float  # Unix seconds of the segment's first entry
    chain: str


class Writer:
    """Appends entries to the chain in a folder. Any thread may call it, and any number of processes."""

    def __init__(
        self,
        folder: Path,
        key_file: Path,
        *,
        segment_bytes: int = 2**26,
        checkpoint_s: float = 60.0,
        lost: Literal["fail", "begin"] = "fail",
    ) -> None:
        """`lost`: what to do where the folder is empty although there was an account in it.

        Raises:
            AccountError: the key cannot be had.
            OSError: the folder or the key cannot be made.
        """
        self.folder, self._lost = folder, lost
        self._segment_bytes, self.checkpoint_s = segment_bytes, checkpoint_s
        self._mark = folder.with_name(f"{folder.name}.chain")  # outside the folder: tells that there was one
        fresh = not self._mark.exists()
        if fresh:
            folder.mkdir(parents=True, exist_ok=True)
        self.signer = Signer.open(key_file, make=fresh or lost == "begin")
        self._head: Head | None = None
        self._signed = 0.0
        self.unsigned = False  # entries of ours stand behind the last checkpoint

    def write(self, entries: Sequence[bytes], *, sign: bool = False) -> Link:
        """Append entries, JSON objects that begin with "at"; the place after them. On return they are on disk.

        `sign`: a checkpoint follows in any case, not only where the last one is `checkpoint_s` old.

        Raises:
            AccountError: the account is lost, damaged at its end, or has another key.
            OSError: the disk is full or fails; then nothing was written.
        """
        with locked(self._lock_file()):
            head, notes = self._current()
            if head.size >= self._segment_bytes or time.time() - head.begun >= _DAY_S:
                head = self._rotate(head, notes)
                notes = []
            lines, link = chained(head.link, [*notes, *entries])
            return self._end(head, lines, link, sign=sign)

    def _end(self, head: Head, lines: list[bytes], link: Link, *, sign: bool) -> Link:
        """Put lines at the end, and a checkpoint after them where one is due."""
        more: list[bytes] = []
        end = link
        if sign or time.time() - self._signed >= self.checkpoint_s:
            more, end = chained(link, [encoded("checkpoint", self.checkpoint(head.chain, link))])
        self._head = self._put(head, b"".join([*lines, *more]), end)
        self._signed, self.unsigned = (time.time(), False) if more else (self._signed, self.unsigned or bool(lines))
        return link

    def head(self) -> Head:
        """The end of the chain at present.

        Raises:
            AccountError: the account is lost or damaged at its end.
            OSError: it cannot be read.
        """
        with locked(self._lock_file()):
            head, notes = self._current()
            if notes:
                lines, link = chained(head.link, notes)
                self._end(head, lines, link, sign=False)
                assert self._head is not None
                head = self._head
            return head

    def checkpoint(self, chain: str, link: Link) -> dict[str, Any]:
        """A signed statement that the chain has come to this place."""
        statement = {
            "at": round(time.time(), 3), "kind": "checkpoint", "chain": chain, "upto": link.n, "head": link.hash.hex(),
            "public": self.signer.public,
        }  # fmt: skip
        return self.signer.sign(statement)

    def _lock_file(self) -> Path:
        if not self.folder.is_dir():
            if self._lost == "fail":
                raise AccountError(f"{self.folder} is lost: put it back, or run `trimtab account begin`")
            self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / "lock"

    def _current(self) -> tuple[Head, list[bytes]]:
        """The head, and what must be said of how it was found. Under the lock."""
        known = self._head
        if known is not None:
            try:
                if os.stat(known.path).st_size == known.size:
                    return known, []
            except FileNotFoundError:
                log.error("%s is gone", known.path)
        head, notes = self._found()
        if not self._mark.exists():
            replace_durably(self._mark, head.chain.encode() + b"\n")
        return head, notes

    def _found(self) -> tuple[Head, list[bytes]]:
        """Look for the head in the folder; begin a chain where there is none."""
        paths = segments(self.folder)
        if not paths:
            return self._begin(), []
        newest, notes = paths[-1], []
        try:
            window = 2**22 if self._head is None else _AGAIN
            if (at := torn_at(newest, window)) is not None:
                notes.append(self._set_aside(newest, at))
            size, link = tail(newest)
            if link is not None:
                first = header(newest)
                if first.get("public") != self.signer.public:
                    raise AccountError(f"{newest} was signed with another key than {self.signer.public}")
                return Head(newest, size, link, float(first["at"]), str(first["chain"])), notes
            if len(paths) == 1:  # killed before the first entry was on disk
                newest.unlink()
                return self._begin(), notes
            before = tail(paths[-2]).link or GENESIS
            return self._started(newest, before, str(header(paths[-2])["chain"])), notes
        except (BadLine, KeyError) as error:
            raise AccountError(f"{newest} is damaged at its end ({error}): see `trimtab account verify`") from None

    def _begin(self) -> Head:
        """Begin a chain in an empty folder.

        Raises:
            AccountError: there was one, and it may not be begun again.
        """
        former = self._mark.read_text("ascii").strip() if self._mark.exists() else ""
        if former and self._lost == "fail":
            raise AccountError(
                f"{self.folder} has lost its segments: put them back, or run `trimtab account begin` for a new account"
            )
        chain = secrets.token_hex(8)
        if former:
            log.error("%s has lost its segments; a new account %s is begun after %s", self.folder, chain, former)
        entry = {"chain": chain, "public": self.signer.public, "version": VERSION}
        lines, link = chained(GENESIS, [encoded("begin", entry | ({"after": former} if former else {}))])
        head = Head(named(self.folder, 1), 0, GENESIS, time.time(), chain)
        head = self._put(head, b"".join(lines), link, create=True)
        replace_durably(self._mark, chain.encode() + b"\n")
        return head

    def _rotate(self, head: Head, notes: list[bytes]) -> Head:
        """End a segment with a checkpoint, so that its size tells every process, and start the next."""
        lines, link = chained(head.link, notes)
        self._end(head, lines, link, sign=True)
        assert self._head is not None
        return self._started(named(self.folder, self._head.link.n + 1), self._head.link, head.chain)

    def _started(self, path: Path, link: Link, chain: str) -> Head:
        """Start a segment, which is empty or does not exist."""
        entry = encoded("segment", {"chain": chain, "public": self.signer.public, "prev": link.hash.hex()})
        lines, after = chained(link, [entry])
        head = Head(path, 0, link, time.time(), chain)
        self._head = self._put(head, b"".join(lines), after, create=True)
        return self._head

    def _put(self, head: Head, data: bytes, link: Link, *, create: bool = False) -> Head:
        """Write at the segment's end and sync; what was written in part is taken back."""
        flags = os.O_WRONLY | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        file = os.open(head.path, flags, 0o640)
        try:
            try:
                view, at = memoryview(data), head.size
                while view:
                    count = os.pwrite(file, view, at)
                    view, at = view[count:], at + count
                os.fsync(file)
            except BaseException:
                self._head = None
                os.ftruncate(file, head.size)
                raise
        finally:
            os.close(file)
        if create:
            sync_folder(self.folder)
        return head._replace(size=at, link=link)

    def _set_aside(self, path: Path, at: int) -> bytes:
        """Move the torn end of a segment into a file of its own; the entry that says so."""
        with path.open("rb+") as file:
            file.seek(at)
            torn = file.read()
            name = f"torn-{first_number(path)}-{at}-{int(time.time())}.bin"
            replace_durably(path.with_name(name), torn)
            file.truncate(at)
            file.flush()
            os.fsync(file.fileno())
        log.warning("%s: the last %d bytes are torn: set aside as %s", path, len(torn), name)
        digest = hashlib.sha256(torn).hexdigest()
        return encoded("torn", {"bytes": len(torn), "sha256": digest, "file": name})


def encoded(kind: str, entry: Mapping[str, Any]) -> bytes:
    """An entry as JSON, with the time, which it begins with, and its kind."""
    return msgspec.json.encode({"at": round(time.time(), 3), "kind": kind} | dict(entry))


def sync_folder(folder: Path) -> None:
    """Make what was created in or deleted from a folder survive a power loss."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
