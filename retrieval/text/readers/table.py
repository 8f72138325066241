"""CSV and TSV as programs write them: any delimiter, line end and encoding, Excel's `sep=` line, blanks in headers."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import IO, Any

from retrieval.text.dates import iso_date
from retrieval.text.encoding import decode
from retrieval.text.labels import NAMES, WEAK, column
from retrieval.text.outline import distinct_key
from retrieval.text.piece import Piece

LOOKED = 20  # rows at a table's top among which the header may stand
_BREAK = "\u2028"  # stands for a line break inside of a cell, where the csv module would take it for a row's end
_HEADS = frozenset({*NAMES, *WEAK})
DELIMITERS = ",;\t|"
csv.field_size_limit(2**30)


def read(stream: IO[bytes], name: str) -> Iterator[Piece]:
    """One passage a record. A record's place is the line that it begins on."""
    text = decode(stream.read())
    lines = _lines(text)
    skipped, delimiter = 0, _delimiter(lines, name)
    mark = lines[0].rstrip("\r\n").strip('" ').lower() if lines else ""
    if mark.startswith("sep=") and len(mark) == 5:
        skipped, delimiter = 1, mark[4]
    literal = delimiter == "\t" and not _well_quoted(lines[skipped:])
    reader = csv.reader(
        lines[skipped:], delimiter=delimiter, strict=True, skipinitialspace=True,
        quoting=csv.QUOTE_NONE if literal else csv.QUOTE_MINIMAL,
    )  # fmt: skip
    rows = _rows(reader, skipped)
    top = list(islice(rows, LOOKED))
    filled = [cells for _, cells, problem in top if not problem]
    at = header_at(filled, [count_filled(cells) for cells in filled])
    header: Sequence[str] = []
    keys: dict[str, int] = {}
    above = 0  # rows above the header: the table's title
    for start, cells, problem in chain(top, rows if at is not None else ()):
        if problem:
            yield Piece(start, problem=problem)
        elif header:
            yield distinct(record(start, header, cells), keys)
        elif above == at:
            header = columns(cells)
        else:
            above += 1
    if at is None and filled:
        start, cells = next((start, cells) for start, cells, problem in top if not problem)
        yield Piece(start, problem=f"no column 'text' in {', '.join(cell.strip() for cell in cells)}")


def _rows(reader: Any, skipped: int) -> Iterator[tuple[int, list[str], str]]:
    """Each row that is not empty: the line that it begins on, its cells, and what is wrong with it."""
    while True:
        start = reader.line_num + 1 + skipped
        try:
            cells = [cell.replace(_BREAK, "\n") for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            yield start, [], f"not CSV: {error}"
            continue
        if any(cell.strip() for cell in cells):
            yield start, cells, ""


def header_at(rows: Sequence[Sequence[Any]], filled: Sequence[int]) -> int | None:
    """Which of a table's first rows is its header; None where none names a column of texts.

    A title may stand above it, and be one that could name such a column: "Content Policy 2026". So the first that
    could be is taken unless a later one has a column of just that name and knows more of our names, or it fills one
    cell of a table that has several.

    Args:
        rows: the cells of each.
        filled: how many cells of each hold something; of merged cells that is one.
    """
    found = [i for i, row in enumerate(rows) if "text" in columns(row)]
    if not found:
        return None
    first, later = found[0], found[1:]
    exact = [i for i in found if any(column(cell) == "text" for cell in rows[i] if cell is not None)]
    if first in exact and filled[first] > 1:
        return first
    known = {i: len({name for cell in rows[i] if cell is not None and (name := column(cell)) in _HEADS}) for i in found}
    if better := [i for i in later if i in exact and known[i] > known[first]]:
        return better[0]
    below = filled[first + 1 :]
    if filled[first] > 1 or not below or 2 * sum(count > 1 for count in below) <= len(below):
        return first
    if first in exact:
        return next((i for i in later if filled[i] > 1 and known[i]), first)
    # A sentence with a comma, in a table of one column, has other rows below it than a header has.
    even = [i for i in later if known[i] or all(len(row) == len(rows[i]) for row in rows[i + 1 :])]
    return next((i for i in even if filled[i] > 1), None)


def count_filled(cells: Sequence[Any]) -> int:
    """How many cells hold something."""
    return sum(bool(str(cell).strip()) for cell in cells if cell is not None)


def distinct(piece: Piece, keys: dict[str, int]) -> Piece:
    """The piece with a key of its own: rows may be counted anew in each part of a table."""
    return piece if piece.key is None else replace(piece, key=distinct_key(piece.key, [], keys))


def _well_quoted(lines: list[str]) -> bool:
    """Whether quotes are what they are in CSV; in many tab-separated files they are letters like others."""
    try:
        for _ in csv.reader(lines, delimiter="\t", strict=True):
            pass
    except csv.Error:
        return False
    return True


def columns(cells: Sequence[Any]) -> list[str]:
    """Our names for a header's cells. A column that is named exactly as ours comes before another that means the same.

    The second of two columns with one meaning keeps its own name and is left out.
    """
    own = [str(cell).strip().strip("\ufeff").lower() if cell is not None else "" for cell in cells]
    names: list[str] = []
    for name in own:
        ours = column(name)
        taken = ours in names or (ours != name and ours in own)
        names.append(name if taken else ours)
    if "text" not in names:
        _settle_text(own, names)
    return names


def _settle_text(own: list[str], names: list[str]) -> None:
    """Name the column of texts where none is called so: "Rule text", "Policy | Description"."""
    likely = [i for i, name in enumerate(own) if any(column(word) == "text" for word in re.split(r"[\s_/()-]+", name))]
    weak = [own.index(word) for word in WEAK if word in own]
    for i in (likely or weak)[:1]:
        names[i] = "text"
        if "policy" in names and "title" not in names:
            names[names.index("policy")] = "title"


def record(place: int, header: Sequence[str], cells: Sequence[Any], sheet: str = "") -> Piece:
    """A row's piece; `place` is its line or row, and cells beyond the header are a problem.

    A number that counts the rows becomes the row's place in its file (or sheet), since every table has a row 1.
    """
    if len(cells) > len(header) and any(cell not in (None, "") for cell in cells[len(header) :]):
        return Piece(place, problem="more fields than the header has columns")
    fields = {name: cell for name, cell in zip(header, cells, strict=False) if name and cell not in (None, "")}
    try:
        for name in ("in_force_from", "in_force_to"):
            if name in fields:
                fields[name] = iso_date(fields[name], name)
    except ValueError as error:
        return Piece(place, problem=str(error))
    row = str(fields.pop("row", "")).strip()
    if not row or "id" in fields or "_id" in fields or not str(fields.get("text", "")).strip():
        return Piece(place, fields)
    return Piece(place, fields, key=f"{sheet}/{row}" if sheet else row)


def _lines(text: str) -> list[str]:
    """Lines with their ends, which the csv module needs inside of quotes.

    Excel for the Mac ends a row with CR alone; an LF is then a line break inside of a cell, quoted or not.
    """
    first = re.search(r"\r\n|\r|\n", text)
    if first and first[0] == "\r" and "\r\n" not in text:
        return [f"{row}\r" for row in text.replace("\n", _BREAK).split("\r") if row]
    return re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z", text)


def _delimiter(lines: list[str], name: str) -> str:
    """The one that makes our names of a line at the top, below a title even; else that the first line has most of.

    What stands inside of quotes does not count.
    """
    if name.lower().removesuffix(".zst").endswith(".tsv"):
        return "\t"
    for line in islice(filter(str.strip, lines), LOOKED):
        for mark in DELIMITERS:
            names = {column(cell.strip().strip('"')) for cell in line.split(mark)}
            if "text" in names and len(names & _HEADS) > 1:
                return mark
    first = next((line for line in lines if line.strip()), "")
    plain = "".join(part for i, part in enumerate(first.split('"')) if i % 2 == 0)
    return max(DELIMITERS, key=lambda mark: (plain.count(mark), -DELIMITERS.index(mark)))
