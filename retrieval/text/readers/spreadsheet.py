"""Excel workbooks, by openpyxl: the rows of each sheet below its header; formulas by the values that were saved."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from typing import IO, Any

from retrieval.text.archive import open_archive
from retrieval.text.piece import Piece, Unreadable
from retrieval.text.readers.table import columns, record

LOOKED = 20  # rows at a sheet's top among which the header may stand


def read(stream: IO[bytes], name: str) -> Iterator[Piece]:
    """One passage a row of each sheet that has a column of texts; a piece's line is its row.

    Raises:
        Unreadable: it is no workbook, or no sheet has such a column.
    """
    import openpyxl

    del name
    open_archive(stream, "an Excel workbook")
    stream.seek(0)
    try:
        book = openpyxl.load_workbook(stream, read_only=True, data_only=True)
    except Exception as error:  # noqa: BLE001 - a damaged workbook fails in as many ways as it has parts
        raise Unreadable(f"not an Excel workbook: {error}") from None
    found = False
    for sheet in book.worksheets:
        for piece in _rows(sheet, sheet.title if len(book.worksheets) > 1 else ""):
            found = True
            yield piece
    if not found:
        raise Unreadable("no sheet has a column 'text' with rows below it")


def _rows(sheet: Any, name: str) -> Iterator[Piece]:
    header: list[str] = []
    for number, cells in enumerate(sheet.iter_rows(values_only=True), 1):
        if not header:
            names = columns(cells)
            if "text" in names:
                header = names
            elif number >= LOOKED:
                return
        elif any(cell not in (None, "") for cell in cells):
            yield record(number, header, [_plain(cell) for cell in cells], name)


def _plain(cell: Any) -> Any:
    if isinstance(cell, datetime):
        return cell.date().isoformat() if cell.time() == cell.time().min else cell.isoformat()
    if isinstance(cell, date):
        return cell.isoformat()
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)
    return cell if cell is None else str(cell)
