"""From files to the passages that go into an index: the rest is reported, with its place."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval.passage import Passage
from retrieval.text import formats
from retrieval.text.row import Defaults, Row

if TYPE_CHECKING:
    from retrieval.search.index import Index

SAMPLED = 200  # passages whose languages choose the embedder of a new index
HELD = "the index keeps the passages that it holds of it; to end them, delete or rename the file or sheet"
SHOWN = 20  # bad rows and duplicates that are printed; the rest are counted


def passages(arguments: argparse.Namespace, listings: list[formats.Listing], tally: Tally, origins: Origins,
             advance: Any) -> Iterator[Passage]:  # fmt: skip
    """The passages of all files, each id once. `advance` hears of the bytes that are read."""
    for root, path, reason in ((found.root, *pair) for found in listings for pair in found.unread):
        if path.is_relative_to(root) and origins.holds(formats.relative(path, root)):
            tally.problem(str(path), f"not read: {reason}; {HELD}")
        else:
            tally.unread(str(path), reason)
    for path, reason in (pair for found in listings for pair in found.failed):
        tally.problem(str(path), reason)
    defaults = _defaults(arguments)
    rows = (row for found in listings for file in found.files
            for row in formats.read(file, defaults, advance, found.root))  # fmt: skip
    for passage in _distinct(_good(rows, tally, origins, arguments.strict), tally, origins):
        tally.read += 1
        yield passage


def sample(arguments: argparse.Namespace, listings: list[formats.Listing]) -> Iterator[Passage]:
    """The first passages of each file, as many as tell the languages of all."""
    files = [(file, found.root) for found in listings for file in found.files]
    picked = files[:: -(-len(files) // SAMPLED) or 1]
    for file, root in picked:
        rows = islice(formats.read(file, _defaults(arguments), None, root), SAMPLED // len(picked) + 1)
        yield from (row.passage for row in rows if row.passage is not None)


def _defaults(arguments: argparse.Namespace) -> Defaults:
    return Defaults(arguments.region, arguments.language, arguments.kind, arguments.source, tuple(arguments.tag))


def size(listings: list[formats.Listing]) -> int:
    """The bytes of all files that are read."""
    return sum(_size(file) for found in listings for file in found.files)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # it went away; reading it says so
        return 0


class Tally:
    """What happened to the rows, printed as it happens and summed up at the end."""

    def __init__(self, before: int) -> None:
        self.before, self.read, self.bad, self.duplicates, self.collisions = before, 0, 0, 0, 0

    def problem(self, place: str, text: str) -> None:
        """Count and print a row that is no passage."""
        self.bad += 1
        _say(self.bad, f"{place}: {text}", "bad rows")

    def collision(self, place: str, text: str) -> None:
        """Count and print a passage whose id another file or document has: it is left out, and the command fails."""
        self.collisions += 1
        self.problem(place, text)

    def duplicate(self, key: str, other: str) -> None:
        """Count and print a passage whose content is there under another id."""
        self.duplicates += 1
        _say(self.duplicates, f"{key} has the same content as {other}", "duplicates")

    def unread(self, place: str, reason: str) -> None:
        """Print a file of a folder, or a part of a file, that is not read."""
        print(f"{place}: not read: {reason}", file=sys.stderr)

    def report(self, after: int, revision: int) -> None:
        """Print the sums."""
        print(
            f"{self.read} documents read, {self.bad} bad rows left out, {self.duplicates} duplicates kept;"
            f" passages: {self.before} before, {after} now; revision {revision}"
        )
        if self.collisions:
            print(f"{self.collisions} passages were left out, since their ids are taken: see above", file=sys.stderr)
        if not self.read:
            print("nothing was read", file=sys.stderr)


class Origins:
    """Which file each relative name stands for in an index, so that `hr/policy.md` never replaces `it/policy.md`.

    It also records which files and sheets an index's passages came from: one that no longer holds rules is damaged or
    was overwritten.
    """

    def __init__(self, index: Index | None) -> None:
        self._index = index
        stored = index.backend.setting("parts") if index else ""
        self._parts: dict[str, list[str]] = json.loads(stored or "{}")
        self._met: dict[str, list[str]] = {}
        self._paths: dict[str, str] = json.loads(index.backend.setting("origins", "{}")) if index else {}
        self._known = dict(self._paths)
        if not stored:  # the index is older than this list
            self._parts = {name: [""] for name in self._paths}

    def other(self, row: Row) -> str:
        """The other file that has this row's name in the index, if it is still there; "" for none."""
        if not row.file:
            return ""
        path = str(Path(row.place.rpartition(":")[0]).resolve())
        known = self._paths.setdefault(row.file, path)
        if known != path and not Path(known).exists():  # the folder was moved
            known = self._paths[row.file] = path
        return known if known != path else ""

    def holds(self, name: str, sheet: str | None = None) -> bool:
        """Whether the index holds passages of this file, or of this sheet of it."""
        return sheet in self._parts.get(name, ()) if sheet is not None else name in self._parts

    def meet(self, name: str, sheet: str) -> None:
        """Note that a file's sheet ("" for one without) has a passage."""
        sheets = self._met.setdefault(name, [])
        if sheet not in sheets:
            sheets.append(sheet)

    def keep(self, *, whole: bool = False) -> None:
        """Write what is new to the index's settings. `whole`: the index holds nothing but what was met."""
        if self._index is None:
            return
        if self._paths != self._known:
            self._index.backend.set("origins", json.dumps(self._paths))  # names may hold bytes that are no UTF-8
        known: dict[str, list[str]] = {} if whole else self._parts
        parts = {name: sorted({*self._met.get(name, ()), *known.get(name, ())}) for name in known | self._met}
        if parts != self._parts:
            self._index.backend.set("parts", json.dumps(parts))


def _distinct(rows: Iterable[Row], tally: Tally, origins: Origins) -> Iterator[Passage]:
    """The passages with ids that were not met before; the others are problems that name both places."""
    seen: dict[str, tuple[int, str]] = {}  # id: which file, and the line
    dated: dict[str, list[tuple[str, str]]] = {}  # id: when its versions are in force
    files: dict[str, int] = {}
    for row in rows:
        assert row.passage is not None
        file, _, line = row.place.rpartition(":")
        number, passage = files.setdefault(file, len(files)), row.passage
        other = origins.other(row)
        key = passage.id
        if key in seen and seen[key][0] == number and _another_version(passage, dated[key]):
            passage = replace(passage, id=f"{key}@{_end_or_start(passage)}")
        if other:
            text = f"{row.file!r} is also the name of {other}: give the folder that holds both files as the input"
            tally.collision(row.place, text)
        elif passage.id in seen:
            first, at = seen[passage.id]
            where = f"{list(files)[first]}:{at}"
            report = tally.problem if first == number else tally.collision
            report(row.place, f"duplicate id {passage.id!r}, first at {where}; this passage was left out")
        else:
            seen[passage.id] = (number, line)
            if passage.in_force_from or passage.in_force_to:
                dated.setdefault(key, []).append((passage.in_force_from, passage.in_force_to))
            else:
                dated[key] = [("", "")]
            dated.setdefault(passage.id, dated[key][-1:])
            yield passage


def _another_version(passage: Passage, others: list[tuple[str, str]]) -> bool:
    """Whether a passage is in force on no day on which another with its id is."""
    start, end = passage.in_force_from, passage.in_force_to
    return all(bool(end and begin and end < begin) or bool(last and start and last < start) for begin, last in others)


def _end_or_start(passage: Passage) -> str:
    return passage.in_force_to or passage.in_force_from


def _say(count: int, text: str, what: str) -> None:
    if count <= SHOWN:
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)
    if count == SHOWN:
        print(f"further {what} are counted only", file=sys.stderr)


def _good(rows: Iterable[Row], tally: Tally, origins: Origins, strict: bool) -> Iterator[Row]:
    for row in rows:
        if row.passage is not None:
            origins.meet(row.name, row.sheet)
            yield row
            continue
        if row.note and not origins.holds(row.name, row.sheet):
            tally.unread(row.place, row.note)
            continue
        tally.problem(row.place, f"{row.note}; {HELD}" if row.note else row.problem)
        if strict:
            return


@contextmanager
def bar(text: str, total: int | None, unit: str) -> Iterator[Any]:
    """Yields what advances it. Nothing is drawn where standard error is no terminal, or for a moment's work."""
    from tqdm import tqdm

    with tqdm(total=total, desc=text, unit=unit, unit_scale=unit == "B", delay=0.5, disable=None) as drawn:
        yield drawn.update
