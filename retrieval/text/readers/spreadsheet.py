"""Excel workbooks, by openpyxl: the rows of each sheet below its header; formulas by the values that were saved."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime
from itertools import chain, islice
from typing import IO, Any

from retrieval.text.archive import open_archive
from retrieval.text.piece import Piece, Unreadable
from retrieval.text.readers.table import LOOKED, columns, count_filled, distinct, header_at, record

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
    rows = _filled_rows(sheet, merged)
    top = list(islice(rows, LOOKED))
    at = header_at([row for _, row, _ in top], [count_filled(cells) for _, _, cells in top])
    if at is None:
        if top:
            yield Piece(1, note=f"sheet {sheet.title!r} has no column 'text'")
        return
    header = columns(top[at][1])
    text = header.index("text")
    keys: dict[str, int] = {}
    for number, row, cells in chain(top[at + 1 :], rows):
        fields = [_plain(cell) for cell in row] + [None] * (len(header) - len(row))
        own = cells[text] if text < len(cells) else None
        if own in (None, "") and fields[text] is not None:
            continue  # the text of the row above goes on
        yield distinct(record(number, header, fields, name), keys)


def _filled_rows(
    sheet: Any, merged: list[tuple[int, int, int, int]]
) -> Iterator[tuple[int, list[Any], tuple[Any, ...]]]:
    """Each row that is not empty: its number, its cells as they are seen, and as they are kept.

    Of merged cells only the first keeps the value. A row may end at its last cell, where the sheet states no size.
    """
    seen: dict[tuple[int, int], Any] = {}
    width = 0
    for number, cells in enumerate(sheet.iter_rows(values_only=True), 1):
        width = max(width, len(cells))
        row = [*cells, *[None] * (width - len(cells))]
        for left, top, right, bottom in merged:
            if top <= number <= bottom and left <= len(row):
                if number == top:
                    seen[left, top] = row[left - 1]
                row[left - 1 : right] = [seen.get((left, top))] * len(row[left - 1 : right])
        if any(cell not in (None, "") for cell in cells):
            yield number, row, cells


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
