"""What the account says: of one request, of the changes, and what came last."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from serve.store.account.chain import BadLine, parse
from serve.store.account.retention import carried
from serve.store.account.segment import first_number, header, segments

_EARLIER_S = 60.0  # by which a request's id may be older than its entry, or another machine's clock differ
_BLOCK = 2**16  # bytes read at once, from the end


def of_request(folder: Path, ident: str) -> list[dict[str, Any]]:
    """The entries of a request, each with its number `n` and its `place`; [] where there is none.

    Its id begins with the time of its arrival, which says in which segments to look.
    """
    try:
        since = int(ident[:12], 16) / 1000
    except ValueError:
        return []
    found: list[dict[str, Any]] = []
    paths = segments(folder)
    needle = b'"id":%s' % msgspec.json.encode(ident)
    for path, after in zip(paths, [*paths[1:], None], strict=True):
        if after is not None and float(header(after)["at"]) < since - _EARLIER_S:
            continue
        with path.open("rb") as file:
            found += [_read(path, number, line) for number, line in enumerate(file, 1) if needle in line]
        if any(entry["kind"] == "close" for entry in found):
            break
    return [entry for entry in found if entry.get("id") == ident]


def changes(folder: Path) -> list[dict[str, Any]]:
    """All entries about changes, oldest first, those that were carried over a cut too."""
    found = {int(entry["n"]): entry for path in segments(folder) for entry in carried(path)}
    return [found[n] for n in sorted(found)]


def backwards(folder: Path, before: int = 0) -> Iterator[dict[str, Any]]:
    """The entries, newest first, each with its number `n`; those before the number `before`, if that is not 0."""
    for path in reversed(segments(folder)):
        if before and first_number(path) >= before:
            continue
        for line in _lines_backwards(path):
            try:
                link, entry = parse(line)
            except BadLine:  # being written, or damaged: `verify` says which
                continue
            if not before or link.n < before:
                yield {"n": link.n, **msgspec.json.decode(entry, type=dict[str, Any])}


def _lines_backwards(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        at, rest = file.seek(0, os.SEEK_END), b""
        while at:
            at, size = max(0, at - _BLOCK), min(_BLOCK, at)
            file.seek(at)
            rows = (file.read(size) + rest).splitlines(keepends=True)
            rest = rows.pop(0) if at else b""
            yield from reversed(rows)
        if rest:
            yield rest


def _read(path: Path, number: int, line: bytes) -> dict[str, Any]:
    link, entry = parse(line)
    return {"n": link.n, "place": f"{path.name}:{number}", **msgspec.json.decode(entry, type=dict[str, Any])}
