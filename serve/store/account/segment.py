"""How the chain lies in files: a folder of segments, each named for the number of its first entry.

The last line of the newest segment is the head of the chain. A process that was killed, or a machine that lost power,
may leave the end of that segment torn; `torn_at` says where, and the writer sets that end aside.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from serve.store.account.chain import BadLine, Link, parse

_NAME = "{:012d}.jsonl"
_WINDOW = 2**16  # bytes read at first from a segment's end, to find its last line


class Tail(NamedTuple):
    """The end of a segment: its size in bytes, and the place after its last line; None where it has no whole line."""

    size: int
    link: Link | None


def segments(folder: Path) -> list[Path]:
    """The segments, oldest first."""
    return sorted(path for path in folder.glob("*.jsonl") if path.stem.isdecimal())


def named(folder: Path, first: int) -> Path:
    """The path of the segment whose first entry has this number."""
    return folder / _NAME.format(first)


def first_number(path: Path) -> int:
    """The number of a segment's first entry, by its name."""
    return int(path.stem)


def tail(path: Path) -> Tail:
    """The end of a segment, of which the end is not torn.

    Raises:
        BadLine: its last line is none of an account.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        window = _WINDOW
        while size:
            begin = max(0, size - window)
            file.seek(begin)
            data = file.read(size - begin)
            at = data.rfind(b"\n", 0, -1)
            if at >= 0 or begin == 0:
                return Tail(size, parse(data[at + 1 :])[0])
            window *= 4
    return Tail(0, None)


def torn_at(path: Path, window: int = 2**22) -> int | None:
    """Where a torn end begins, in bytes; None where the segment ends with a whole line.

    An end is torn where a write was cut off: its last line has no newline, or blocks that never reached the disk read
    as NUL bytes, which no line holds. Anything else that is wrong is no crash, and left for `verify` to name. NUL bytes
    are looked for in the last `window` bytes.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        while True:
            begin = max(0, size - window)
            file.seek(begin)
            data = file.read(size - begin)
            hole = data.find(b"\0")
            if hole < 0:
                if not data or data.endswith(b"\n"):
                    return None
                hole = len(data)
            if (at := data.rfind(b"\n", 0, hole)) >= 0 or begin == 0:
                return begin + at + 1
            window *= 4


def header(path: Path) -> dict[str, Any]:
    """A segment's first entry: of kind "begin" or "segment", with the chain's name and its public key.

    Raises:
        BadLine: it has none.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        entry = parse(file.readline())[1]
    try:
        found: dict[str, Any] = msgspec.json.decode(entry, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise BadLine(str(error)) from None
    return found
