"""Rows of any file that data comes in, one after another, each with the place it came from."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainers.data.jsonl import DataError, placed_lines, refuse_halves

Placed = tuple[str, dict[str, Any]]


def rows_of(source: str) -> Iterator[Placed]:
    """(place, row) of a JSONL, JSON, CSV or Parquet file, of a folder, or of a set on the hub (`name` or `name:split`).

    Raises DataError where there is nothing of that name, or where a row cannot be read.
    """
    path = Path(source)
    readers = {".jsonl": jsonl, ".ndjson": jsonl, ".json": json_list, ".csv": csv_rows, ".parquet": parquet}
    suffix = path.with_suffix("").suffix if path.suffix == ".zst" else path.suffix
    if path.is_file() or (suffix in readers and not path.is_dir()):
        if suffix not in readers:
            raise DataError(f"{path}: a file must be one of {', '.join(readers)}")
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        return readers[suffix](path)
    return loaded(source)


def jsonl(path: Path) -> Iterator[Placed]:
    """Rows of a JSONL file; DataError names the line."""
    return placed_lines(path, ())


def json_list(path: Path) -> Iterator[Placed]:
    """A list of objects, or such a list under "data"."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from error
    except RecursionError as error:
        raise DataError(f"{path}: nested too deeply") from error
    rows = rows.get("data", rows) if isinstance(rows, dict) else rows
    if not isinstance(rows, list):
        raise DataError(f"{path}: not a list of rows (JSON with one object a line is called .jsonl)")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{path}, row {number}: not a JSON object")
        if "\\u" in text:
            refuse_halves(row, f"{path}, row {number}")
        yield f"{path}, row {number}", row


def csv_rows(path: Path) -> Iterator[Placed]:
    """Rows of a CSV file, all values text; DataError names the line."""
    csv.field_size_limit(2**31 - 1)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            names = reader.fieldnames or ()
            if twice := next((name for at, name in enumerate(names) if name in names[:at]), None):
                raise DataError(f"{path}: duplicate column {twice!r}")
            for row in reader:
                if None in row or None in row.values():
                    raise DataError(f"{path}, line {reader.line_num}: not as many fields as there are columns")
                yield f"{path}, line {reader.line_num}", dict(row)
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path}, line {reader.line_num}: not CSV ({error})") from error


def parquet(path: Path) -> Iterator[Placed]:
    """Rows of a Parquet file."""
    from pyarrow import ArrowException  # type: ignore[import-untyped]
    from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]

    try:
        with ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except ArrowException as error:
        raise DataError(f"{path}: not Parquet ({error})") from error


def loaded(source: str) -> Iterator[Placed]:
    """What `datasets.load_dataset` finds under a folder's or the hub's name; the train split where none is named."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

    name, _, split = source.partition(":")
    try:
        rows = load_dataset(name, split=split or "train")
    except (DatasetNotFoundError, FileNotFoundError, ConnectionError) as error:
        raise DataError(f"{name}: no such file or folder, and the hub does not have it or is out of reach") from error
    except DatasetGenerationError as error:
        raise DataError(f"{source}: {error.__cause__ or error}") from error
    except ValueError as error:  # an unknown split, a folder without data
        raise DataError(f"{source}: {error}") from error
    for number, row in enumerate(rows, start=1):
        yield f"{source}, row {number}", row
