"""Durable append-only JSONL: once `append` returns, the row survives kill -9 and a loss of power."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")
Row = dict[str, Any]


class JournalError(Exception):
    """The file cannot be used; the message says why."""


class Journal(Generic[T]):
    """Owns the file. `read` makes (key, value) of a row, `write` a row of them; a key's last row counts."""

    def __init__(self, path: Path, read: Callable[[Row], tuple[str, T]], write: Callable[[str, T], Row]) -> None:
        """Raises JournalError where another process writes it, or where a line is none of ours."""
        self.path, self._read, self._write = path, read, write
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._sync_folder()
            self._known = dict(self._rows())
        except BlockingIOError:
            self._file.close()
            raise JournalError(f"{path}: another run is writing it") from None
        except JournalError:
            self._file.close()
            raise

    def _sync_folder(self) -> None:
        """A file whose name is not on disk is lost with all that is in it."""
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _rows(self) -> Iterator[tuple[str, T]]:
        """What is there, and the end of the file set after the last whole line: a kill may have cut one short."""
        self._file.seek(0)
        whole = 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                yield self._read(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError):
                raise JournalError(
                    f"{self.path}:{number}: not a row of this file; repair or remove that line"
                ) from None
            whole += len(line)
        self._file.truncate(whole)

    def append(self, key: str, value: T) -> None:
        """Write the row and sync it to disk before returning."""
        row = json.dumps(self._write(key, value), ensure_ascii=False)
        self._file.write(row.encode("utf-8", "replace") + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._known[key] = value

    @property
    def known(self) -> Mapping[str, T]:
        """Every key on disk with its newest value."""
        return self._known

    def get(self, key: str) -> T | None:
        """The value under a key, None where there is none."""
        return self._known.get(key)

    def __getitem__(self, key: str) -> T:
        return self._known[key]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()


def write_whole(path: Path, text: str) -> None:
    """The file as it is to be, whole or not at all, whenever the power goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.part{os.environ.get('RANK', '')}")  # several processes may write the same
    with draft.open("wb") as file:
        file.write(text.encode("utf-8", "replace"))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows as JSONL, whole or not at all."""
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
