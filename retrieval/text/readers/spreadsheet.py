"""Excel workbooks, by openpyxl: the rows of each sheet below its header; formulas by the values that were saved."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime
from typing import IO, Any

from retrieval.text.archive import open_archive
from retrieval.text.piece import Piece, Unreadable
from retrieval.text.readers.table import LOOKED, columns, distinct, record

_MERGED = re.compile(rb'<mergeCell ref="([A-Z0-9:]+)"')


def read(stream: IO[bytes], name: str) -> Iterator[Piece]:
    """One passage a row of each sheet that has a column of texts; a piece's line is its row.

    Raises:
        Unreadable: it is no workbook, or no sheet has such a column.
    """
    import openpyxl

    del name
    archive = open_archive(stream, "an Excel workbook")
    try:
        book = openpyxl.load_workbook(stream, read_only=True, data_only=True)
    except Exception as error:  # noqa: BLE001 - a damaged workbook fails in as many ways as it has parts
        raise Unreadable(f"not an Excel workbook: {error}") from None
    found = False
    for sheet in book.worksheets:
        for piece in _rows(sheet, sheet.title if len(book.worksheets) > 1 else "", _merged(archive, sheet)):
            found = found or not piece.note
            yield replace(piece, sheet=sheet.title)
    if not found:
        raise Unreadable("no sheet has a column 'text' with rows below it")


def _rows(sheet: Any, name: str, merged: list[tuple[int, int, int, int]]) -> Iterator[Piece]:
    header: list[str] = []
    keys: dict[str, int] = {}
    seen: dict[tuple[int, int], Any] = {}  # of merged cells, which hold their value in the first alone
    filled = 0
    for number, cells in enumerate(sheet.iter_rows(values_only=True), 1):
        row = list(cells)
        for left, top, right, bottom in merged:
            if top <= number <= bottom and left <= len(row):
                if number == top:
                    seen[left, top] = row[left - 1]
                row[left - 1 : right] = [seen.get((left, top))] * len(row[left - 1 : right])
        if not any(cell not in (None, "") for cell in cells):
            continue
        filled += 1
        if header:
            fields = [_plain(cell) for cell in row]
            at = header.index("text")
            if cells[at] in (None, "") and fields[at] is not None:
                continue  # the text of the row above goes on
            yield distinct(record(number, header, fields, name), keys)
        elif "text" in (names := columns(row)):
            header = names
        elif number >= LOOKED:
            break
    if not header and filled:
        yield Piece(1, note=f"sheet {sheet.title!r} has no column 'text'")


def _merged(archive: zipfile.ZipFile, sheet: Any) -> list[tuple[int, int, int, int]]:
    """First column and row, last column and row of merged cells, which openpyxl leaves out when it streams."""
    from openpyxl.utils import range_boundaries

    data = archive.read(sheet._worksheet_path)
    return [range_boundaries(found.decode()) for found in _MERGED.findall(data)]


def _plain(cell: Any) -> Any:
    if isinstance(cell, datetime):
        return cell.date().isoformat() if cell.time() == cell.time().min else cell.isoformat()
    if isinstance(cell, date):
        return cell.isoformat()
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)
    return cell if cell is None else str(cell)
