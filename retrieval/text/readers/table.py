"""CSV and TSV as programs write them: any delimiter, line end and encoding, Excel's `sep=` line, blanks in headers."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from typing import IO, Any

from retrieval.text.encoding import decode
from retrieval.text.labels import column, iso_date
from retrieval.text.piece import Piece

_BREAK = "\u2028"  # stands for a line break inside of a cell, where the csv module would take it for a row's end
DELIMITERS = ",;\t|"
csv.field_size_limit(2**30)


def read(stream: IO[bytes], name: str) -> Iterator[Piece]:
    """One passage a record. A record's place is the line that it begins on."""
    text = decode(stream.read())
    lines = _lines(text)
    skipped, delimiter = 0, _delimiter(lines, name)
    if lines and lines[0].strip().lower().startswith("sep=") and len(lines[0].strip()) == 5:
        skipped, delimiter = 1, lines[0].strip()[4]
    reader = csv.reader(lines[skipped:], delimiter=delimiter, strict=True, skipinitialspace=True)
    header: Sequence[str] = []
    while True:
        start = reader.line_num + 1 + skipped
        try:
            cells = [cell.replace(_BREAK, "\n") for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            yield Piece(start, problem=f"not CSV: {error}")
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if not header:
            header = columns(cells)
            if "text" not in header:
                yield Piece(start, problem=f"no column 'text' in {', '.join(cell.strip() for cell in cells)}")
                return
            continue
        yield record(start, header, cells)


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
    return names


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
