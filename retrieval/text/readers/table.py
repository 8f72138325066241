"""CSV and TSV as programs write them: any delimiter, line end and encoding, Excel's `sep=` line, blanks in headers."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import IO, Any

from retrieval.text.dates import iso_date
from retrieval.text.encoding import decode
from retrieval.text.labels import WEAK, column
from retrieval.text.outline import distinct_key
from retrieval.text.piece import Piece

LOOKED = 20  # rows at a table's top among which the header may stand
_BREAK = "\u2028"  # stands for a line break inside of a cell, where the csv module would take it for a row's end
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
    header: Sequence[str] = []
    above: list[Piece] = []  # rows before the header: the table's title
    keys: dict[str, int] = {}
    while True:
        start = reader.line_num + 1 + skipped
        try:
            cells = [cell.replace(_BREAK, "\n") for cell in next(reader)]
        except StopIteration:
            yield from [] if header else above[:1]
            return
        except csv.Error as error:
            yield Piece(start, problem=f"not CSV: {error}")
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if not header:
            names = columns(cells)
            if "text" in names:
                header = names
                continue
            above.append(Piece(start, problem=f"no column 'text' in {', '.join(cell.strip() for cell in cells)}"))
            if len(above) >= LOOKED:
                yield above[0]
                return
            continue
        yield distinct(record(start, header, cells), keys)


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
    """The one that the header has most of, outside of quotes."""
    if name.lower().removesuffix(".zst").endswith(".tsv"):
        return "\t"
    first = next((line for line in lines if line.strip()), "")
    plain = "".join(part for i, part in enumerate(first.split('"')) if i % 2 == 0)
    return max(DELIMITERS, key=lambda mark: (plain.count(mark), -DELIMITERS.index(mark)))
