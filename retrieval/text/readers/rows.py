"""Rows with named fields: JSONL, a JSON array, YAML. Each row is a passage; a bad one is reported and left out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import IO, Any

from retrieval.text.encoding import decode, detect
from retrieval.text.labels import column
from retrieval.text.piece import Piece, Unreadable

LISTS = ("passages", "principles", "rules", "documents", "articles", "items", "data", "rows")


def read_jsonl(stream: IO[bytes], name: str) -> Iterator[Piece]:
    """One JSON object a line, read line by line: the file may be larger than memory."""
    del name
    for number, line in enumerate(_text_lines(stream), 1):
        if not line.strip():
            yield Piece(number, problem="empty row")
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield Piece(number, problem=bytes_wrong(line) or f"not JSON: {error}")
            continue
        if isinstance(fields, dict):
            yield Piece(number, fields)
        else:
            yield Piece(number, problem=f"not a JSON object but {type(fields).__name__}")


def _text_lines(stream: IO[bytes]) -> Iterator[str]:
    """UTF-8 as the format demands, with bytes that are none as lone surrogates; UTF-16 where a mark says so."""
    first = stream.readline()
    if first[:2] in (b"\xff\xfe", b"\xfe\xff"):
        yield from decode(first + stream.read()).splitlines()
        return
    if first:
        yield first.decode("utf-8", errors="surrogateescape").removeprefix("\ufeff")
    for line in stream:
        yield line.decode("utf-8", errors="surrogateescape")


def read_json(stream: IO[bytes], name: str) -> Iterator[Piece]:
    """A JSON array of objects, an object that holds one, or an object from ids to texts; JSONL under this name too."""
    data = stream.read()
    text = decode(data)
    try:
        found = json.loads(text)
    except RecursionError:
        raise Unreadable("not JSON: nested too deeply") from None
    except ValueError as error:
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) > 1 and all(line.lstrip().startswith("{") for line in lines[:2]):
            import io

            yield from read_jsonl(io.BytesIO(text.encode("utf-8", "surrogateescape")), name)
            return
        raise Unreadable(bytes_wrong(text) or f"not JSON: {error}") from None
    yield from _objects(found, name)


def read_yaml(stream: IO[bytes], name: str) -> Iterator[Piece]:
    """YAML documents that hold what a JSON file may hold."""
    import yaml

    data = stream.read()
    try:
        found = [part for part in yaml.safe_load_all(data.decode(detect(data), "replace")) if part is not None]
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise Unreadable(f"not YAML: {' '.join(str(error).split())}") from None
    yield from _objects(found[0] if len(found) == 1 else found, name)


def _objects(found: Any, name: str) -> Iterator[Piece]:
    """Rows numbered from 1; a place in such a file is a row and not a line."""
    rows = _rows(found)
    if rows is None:
        raise Unreadable(f"holds no list of rows with a text: {name} may be a configuration and no rules")
    for number, fields in enumerate(rows, 1):
        if isinstance(fields, str) and fields.strip():
            yield Piece(number, {"text": fields})
        elif isinstance(fields, dict):
            yield Piece(number, {str(k): _plain(v) for k, v in fields.items()})
        else:
            yield Piece(number, problem=f"row {number} is no object but {type(fields).__name__}")


def _rows(found: Any) -> list[Any] | None:
    if isinstance(found, list):
        return found if any(isinstance(row, dict | str) for row in found) or not found else None
    if not isinstance(found, dict):
        return None
    for key in LISTS:
        if isinstance(found.get(key), list):
            return list(found[key])
    if any(column(key) == "text" for key in found):
        return [found]
    if found and all(isinstance(v, str) and len(v.split()) > 1 for v in found.values()):
        return [{"id": str(key), "text": text} for key, text in found.items()]
    if found and all(isinstance(v, dict) and any(column(k) == "text" for k in v) for v in found.values()):
        return [{"id": str(key), **row} for key, row in found.items()]
    return None


def _plain(value: Any) -> Any:
    """YAML's dates as text; everything else as it is."""
    return value.isoformat() if hasattr(value, "isoformat") else value


def bytes_wrong(*texts: str) -> str:
    """Which byte of the file is not UTF-8, as `encoding` left it in a text; "" for none."""
    for text in texts:
        found = re.search("[\udc80-\udcff]", text)
        if found:
            return f"not UTF-8: byte 0x{ord(found[0]) - 0xDC00:02x} at character {found.start() + 1}"
    return ""
