"""Word documents, by python-docx: headings by their styles, tables, and the numbers that Word itself writes.

The text is what a reader sees with all changes accepted: insertions stay, deletions go. Footnotes follow the
document's text; pictures, comments and running heads are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO, Any

from retrieval.text.archive import open_archive, parse
from retrieval.text.labels import labels
from retrieval.text.outline import pieces
from retrieval.text.piece import Document, Line, Piece, Unreadable
from retrieval.text.readers.numbering import Numbering

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_SKIPPED = {"del", "moveFrom", "pPr", "rPr", "Fallback", "instrText", "delText", "fldChar", "commentReference"}
_TEXT = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-", "ptab": "\t"}


def read(stream: IO[bytes], name: str) -> Iterator[Piece]:
    """The passages of a DOCX file; a piece's line is its paragraph.

    Raises:
        Unreadable: it is no Word document.
    """
    import docx

    del name
    open_archive(stream, "a Word document")
    stream.seek(0)
    try:
        document = docx.Document(stream)
        lines = tuple(_lines(document))
    except Exception as error:  # noqa: BLE001 - a damaged document fails in as many ways as it has parts
        raise Unreadable(f"not a Word document: {error}") from None
    yield from pieces(Document(lines, _properties(document), numbered=True, tidy=True))


def _properties(document: Any) -> dict[str, Any]:
    found = document.core_properties
    version = found.version if re.search(r"\d", found.version or "") else ""
    said = {"title": found.title, "language": found.language, "tags": found.keywords, "version": version}
    custom = next(
        (part for part in document.part.package.iter_parts() if str(part.partname).endswith("/custom.xml")), None
    )
    if custom is not None:
        said |= {node.get("name"): "".join(node.itertext()) for node in parse(custom.blob, "a Word document")}
    if any(_level(p) in (1, 2) for p in document.paragraphs) or said["title"] in {"Word Document", "Microsoft Word"}:
        said.pop("title")  # the document's own heading says it
    try:
        return labels(said)
    except ValueError:
        return labels({k: v for k, v in said.items() if k in {"title", "language", "tags", "version"}})


def _lines(document: Any) -> Iterator[Line]:
    from docx.table import Table

    numbering, number = Numbering(document), 0
    for block in _blocks(document):
        number += 1
        if isinstance(block, Table):
            yield from (Line(text, number, verbatim=len(block.columns) > 1) for text in _table(block))
            yield Line("", number)
            continue
        text, level = _text(block._p), _level(block)
        if level:
            text = " ".join(text.split())
        mark = numbering.label(block) if text.strip() else ""
        glue = "" if not mark or mark.endswith(("、", "　")) else " "
        yield from (Line(part, number, level) for part in f"{mark}{glue}{text}".split("\n"))
    yield from _notes(document, number + 1)


def _blocks(parent: Any) -> Iterator[Any]:
    """Paragraphs and tables in order, those in content controls too."""
    from docx.table import Table
    from docx.text.paragraph import Paragraph

    def walk(element: Any) -> Iterator[Any]:
        for child in element:
            tag = child.tag.rpartition("}")[2] if isinstance(child.tag, str) else ""
            if tag == "p":
                yield Paragraph(child, parent)
            elif tag == "tbl":
                yield Table(child, parent)
            elif tag in {"sdt", "sdtContent", "ins", "customXml", "smartTag"}:
                yield from walk(child)

    yield from walk(parent.element.body)


def _level(paragraph: Any) -> int:
    """1 for the document's title, 2 for a first heading, …; 0 for text.

    By the style's name in the file, which is English in every language's Word, or its outline level.
    """
    style = paragraph.style
    while style is not None:
        if found := re.fullmatch(r"(?:heading|überschrift|titre|título|标题) ?(\d)", style.name or "", re.IGNORECASE):
            return int(found[1]) + 1
        if (style.name or "").lower() == "title":
            return 1
        outline = style.element.find(f"{_W}pPr/{_W}outlineLvl")
        if outline is not None and int(outline.get(f"{_W}val")) < 9:
            return int(outline.get(f"{_W}val")) + 2
        style = style.base_style
    return 0


def _text(element: Any) -> str:
    made = ""
    for child in element:
        tag = child.tag.rpartition("}")[2] if isinstance(child.tag, str) else ""
        if tag in _SKIPPED:
            continue
        if tag == "t":
            made += child.text or ""
        elif tag == "p":  # a text box
            made += f"\n{_text(child)}"
        elif tag == "br" and child.get(f"{_W}type") == "page":
            made += "\n"
        else:
            made += _TEXT.get(tag) or _text(child)
    return made


def _table(table: Any) -> Iterator[str]:
    """Rows with bars; a merged cell stands once."""
    for i, row in enumerate(table.rows):
        cells: list[Any] = []
        for cell in row.cells:
            if not cells or cell._tc is not cells[-1]._tc:
                cells.append(cell)
        texts = ["\n".join(_cell(cell)) for cell in cells]
        if len(table.columns) == 1:
            yield from "\n".join(texts).split("\n")
            continue
        yield f"| {' | '.join(' '.join(text.split()) for text in texts)} |"
        if i == 0:
            yield f"|{'---|' * len(texts)}"


def _cell(cell: Any) -> Iterator[str]:
    for child in cell._tc.iter(f"{_W}p"):
        yield _text(child)


def _notes(document: Any, number: int) -> Iterator[Line]:
    part = next((p for p in document.part.package.iter_parts() if str(p.partname) == "/word/footnotes.xml"), None)
    if part is None:
        return
    for note in parse(part.blob, "a Word document"):
        text = " ".join(_text(note).split())
        if text and note.get(f"{_W}type") in (None, "normal"):
            yield Line(f"[{note.get(f'{_W}id')}] {text}", number)
