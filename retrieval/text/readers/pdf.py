"""PDF with text, by pypdf: lines as they stand on the page, without running heads and page numbers.

A scan has no text to read: optical character recognition has to add it first.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import IO, Any

from retrieval.text.heading import head
from retrieval.text.labels import labels
from retrieval.text.outline import pieces
from retrieval.text.piece import Document, Line, Piece, Unreadable

SCAN = "has no text (a scan?): add it by OCR first, for example with ocrmypdf"
EDGE = 2  # lines at the top and bottom of a page that may be running heads
_PAGE = re.compile(
    r"(?:[-–—\s]*|(?:page|seite|página|pagina|стр\.?|第)\s*)\d{1,4}(?:\s*(?:/|of|von|de|di|页|頁)\s*\d{0,4})?[-–—\s]*",
    re.IGNORECASE,
)
_HYPHEN = re.compile(r"(?<=[^\W\d_])[-\u00ad]\n\s*(?=[a-zà-öø-ÿ])")


def read(stream: IO[bytes], name: str) -> Iterator[Piece]:
    """The passages of a PDF; a piece's line is its page.

    Raises:
        Unreadable: it is damaged or encrypted, or has no text on any page.
    """
    import pypdf

    logging.getLogger("pypdf").setLevel(logging.ERROR)  # what it mends is no news
    try:
        reader = pypdf.PdfReader(stream)
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unreadable("is encrypted")
        pages = [_text(page) for page in reader.pages]
        said = _properties(reader)
    except Unreadable:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged PDF fails in as many ways as there are objects in it
        raise Unreadable(f"not a PDF that can be read: {error}") from None
    if not any(page.strip() for page in pages):
        raise Unreadable(SCAN)
    for number, page in enumerate(pages, 1):
        if not page.strip():
            yield Piece(number, problem=f"page {number} has no text (a scan?)")
    for piece in pieces(Document(tuple(_lines(pages)), said, wrapped=True, numbered=True, tidy=True)):
        yield replace(piece, fields={**piece.fields, "text": _unwrapped(str(piece.fields["text"]))})


def _text(page: Any) -> str:
    return str(page.extract_text() or "").replace("\0", "")


def _properties(reader: Any) -> dict[str, Any]:
    """The title, where it is one and not the name of the program's file; PDF has no dates in force."""
    found = reader.metadata or {}
    title = str(found.get("/Title") or "").strip()
    if not title or re.search(r"\.(?:docx?|pdf|odt|tex|indd)$|^Microsoft Word|^untitled$", title, re.IGNORECASE):
        return {}
    return labels({"title": title})


def _lines(pages: list[str]) -> Iterator[Line]:
    rows = [page.splitlines() for page in pages]
    running = _running(rows)
    for number, lines in enumerate(rows, 1):
        last = len(lines) - 1
        edges = [i < EDGE or i > last - EDGE for i in range(len(lines))]
        runs = [edge and (_runs(line, running) or bool(_PAGE.fullmatch(line.strip())))
                for edge, line in zip(edges, lines, strict=True)]  # fmt: skip
        if number == 1 and False in runs and (first := runs.index(False)) and head(lines[first]):
            runs[:first] = [_PAGE.fullmatch(line.strip()) is not None for line in lines[:first]]  # the act's name
        yield from (Line(line, number) for line, running_head in zip(lines, runs, strict=True) if not running_head)


def _runs(line: str, running: set[str]) -> bool:
    return _shape(line) in running and _may_run(line.strip())


def _running(rows: list[list[str]]) -> set[str]:
    """What stands at the top or bottom of many pages, numbers aside; never an article's head or a sentence's end.

    Left and right pages may have heads of their own, and the first page none.
    """
    edges = ({line for line in [*lines[:EDGE], *lines[-EDGE:]] if _may_run(line.strip())} for lines in rows)
    counts = Counter(shape for lines in edges for shape in set(map(_shape, lines)))
    some = len(rows) if len(rows) == 2 else max(3, 0.3 * len(rows))
    return {shape for shape, count in counts.items() if count >= some}


def _may_run(line: str) -> bool:
    return bool(line) and not line.endswith((".", ",", ";", "-", "。", "，", "；")) and head(line) is None


def _shape(line: str) -> str:
    return re.sub(r"\d+", "0", line.strip())


def _unwrapped(text: str) -> str:
    """Lines that the page cut are joined again where one runs to the margin and ends no sentence."""
    text = _HYPHEN.sub("", text)
    lines = text.split("\n")
    margin = max(map(len, lines)) * 0.8
    made = lines[:1]
    for before, line in pairwise(lines):
        han = bool(re.search(r"[\u3040-\u9fff]$", before) and re.match(r"[\u3040-\u9fff]", line))
        cut = (
            len(before) >= margin
            and len(before) > 20
            and line.strip()
            and not before.endswith((".", ":", "。", ";", "；", "："))
        )
        if cut and not re.match(r"[(（•*\-–]|\d+[.)]", line):
            made[-1] += line if han else f" {line}"
        else:
            made.append(line)
    return "\n".join(made)
