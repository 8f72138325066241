"""Reading JSONL, plain or zstd-compressed, with errors that name the line."""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any


class DataError(Exception):
    """The data cannot be used; the message says which file and line."""


def read_lines(path: Path, keys: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows of a JSONL file that all have text under `keys`; the first that has not raises DataError."""
    return (row for _, row in placed_lines(path, keys))


def placed_lines(path: Path, keys: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The same rows, each after its place. Blank lines are passed over."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            yield (place := f"{path}, line {number}"), parse_row(line, keys, place)


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from _unpacked(path, file) if path.suffix == ".zst" else file
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error


def _unpacked(path: Path, file: IO[bytes]) -> Iterator[bytes]:
    import zstandard

    try:
        yield from io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True))
    except zstandard.ZstdError as error:
        raise DataError(f"{path}: not zstd ({error})") from error


def parse_row(line: bytes, keys: Sequence[str], place: str) -> dict[str, Any]:
    """The JSON object of one line. DataError, with its place, where it is none or lacks text under a key."""
    try:
        row = json.loads(line.rstrip(b"\r\n"))
    except json.JSONDecodeError as error:  # its own "line 1" would contradict the place
        raise DataError(f"{place}: not JSON ({error.msg} at column {error.colno})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: not UTF-8 ({error})") from error
    except RecursionError as error:
        raise DataError(f"{place}: nested too deeply") from error
    if not isinstance(row, dict):
        raise DataError(f"{place}: not a JSON object")
    if b"\\u" in line:
        refuse_halves(row, place)
    for key in keys:
        if not isinstance(row.get(key), str):
            raise DataError(f'{place}: no text under "{key}"')
    return row


def refuse_halves(row: Mapping[str, Any], place: str) -> None:
    """DataError for half a surrogate pair, which JSON can escape and no tokenizer or engine takes."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: holds {error.object[error.start]!a}, half a character") from error


def file_hash(path: Path) -> str:
    """The file's sha256."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
