"""Reading JSONL, plain or zstd-compressed, with errors that name the line."""

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


class DataError(Exception):
    """The data cannot be used; the message says which file and line."""


def read_lines(path: Path, keys: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows of a JSONL file that all have text under `keys`; the first that has not raises DataError."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    with path.open("rb") as file:
        lines: io.BufferedIOBase = file
        if path.suffix == ".zst":
            import zstandard

            lines = io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file))
        for number, line in enumerate(lines, start=1):
            yield parse_row(line, keys, f"{path}, line {number}")


def parse_row(line: bytes, keys: Sequence[str], place: str) -> dict[str, Any]:
    """The JSON object of one line. DataError, with its place, where it is none or lacks text under a key."""
    try:
        row = json.loads(line.rstrip(b"\r\n"))
    except json.JSONDecodeError as error:  # its own "line 1" would contradict the place
        raise DataError(f"{place}: not JSON ({error.msg} at column {error.colno})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: not UTF-8 ({error})") from error
    if not isinstance(row, dict):
        raise DataError(f"{place}: not a JSON object")
    for key in keys:
        if not isinstance(row.get(key), str):
            raise DataError(f'{place}: no text under "{key}"')
    return row


def file_hash(path: Path) -> str:
    """The file's sha256."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
