"""Word documents, by python-docx: headings by their styles, tables, and the numbers that Word itself writes.

The text is what a reader sees with all changes accepted: insertions stay, deletions and hidden text go. Notes follow
the paragraph that refers to them; pictures, comments, tables of contents and running heads are left out.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from retrieval.text.archive import open_archive, parse
from retrieval.text.labels import labels
from retrieval.text.outline import pieces
from retrieval.text.piece import Document, Line, Piece, Unreadable
from retrieval.text.raised import raised
from retrieval.text.readers.numbering import Numbering

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_DOCUMENT = b"application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
_CONTENTS = "Table of Contents"
_SKIPPED = {"del", "moveFrom", "pPr", "rPr", "Fallback", "instrText", "delText", "fldChar", "commentReference", "rt"}
_TEXT = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-", "ptab": "\t"}


def read(stream: IO[bytes], name: str) -> Iterator[Piece]:
    """The passages of a DOCX file; a piece's line is its paragraph.

    Raises:
        Unreadable: it is no Word document.
    """
    import docx

    del name
    archive = open_archive(stream, "a Word document")
    try:
        document = docx.Document(_without_macros(archive) or stream)
        lines = tuple(_lines(document))
    except Exception as error:  # noqa: BLE001 - a damaged document fails in as many ways as it has parts
        raise Unreadable(f"not a Word document: {error}") from None
    problems: list[str] = []
    said = _properties(document, problems)
    yield from (Piece(1, problem=f"properties: {problem}") for problem in problems)
    yield from pieces(Document(lines, said, numbered=True, tidy=True))


def _without_macros(archive: zipfile.ZipFile) -> IO[bytes] | None:
    """A copy that calls itself a document, of one with macros, which python-docx refuses; None for any other."""
    kind = b"application/vnd.ms-word.document.macroEnabled.main+xml"
    try:
        types = archive.read("[Content_Types].xml")
    except KeyError:
        return None
    if kind not in types:
        return None
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w", zipfile.ZIP_DEFLATED) as made:
        for name in archive.namelist():
            made.writestr(name, types.replace(kind, _DOCUMENT) if name == "[Content_Types].xml" else archive.read(name))
    copy.seek(0)
    return copy


def _properties(document: Any, problems: list[str]) -> dict[str, Any]:
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
    return labels(said, problems)


@dataclass(slots=True)
class _Notes:
    """Footnotes and endnotes by kind and id; `waiting` are those that the paragraph at hand refers to."""

    texts: dict[tuple[str, str], str]
    count: int = 0
    waiting: list[str] = field(default_factory=list)

    def mark(self, kind: str, key: str) -> str:
        """What stands in the text for a note."""
        text = self.texts.get((kind, key), "")
        if not text:
            return ""
        self.count += 1
        self.waiting.append(f"[{self.count}] {text}")
        return f"[{self.count}]"

    def lines(self, number: int) -> Iterator[Line]:
        """The notes that wait, each on a line."""
        yield from (Line(text, number) for text in self.waiting)
        self.waiting = []


def _lines(document: Any) -> Iterator[Line]:
    from docx.table import Table

    numbering, notes, number = Numbering(document), _Notes(_notes(document)), 0
    for block in _blocks(document):
        number += 1
        if isinstance(block, Table):
            wide = len(block.columns) > 1
            yield from (Line(text, number, verbatim=wide) for text in _table(block, numbering, notes))
            yield from notes.lines(number)
            yield Line("", number)
            continue
        if _in_contents(block):
            continue
        text, level = _text(block._p, notes), _level(block)
        if level:
            text = " ".join(text.split())
        yield from (Line(part, number, level) for part in _numbered(block, text, numbering).split("\n"))
        yield from notes.lines(number)


def _numbered(paragraph: Any, text: str, numbering: Numbering) -> str:
    """A paragraph's text with the number that Word writes before it; an empty one has a number and no text.

    One whose mark was deleted or moved away is joined to the next, and counts only if there is text in it.
    """
    gone = paragraph._p.xpath("w:pPr/w:rPr/w:del | w:pPr/w:rPr/w:moveFrom")
    mark = numbering.label(paragraph) if text.strip() or not gone else ""
    if not text.strip():
        return text
    glue = "" if not mark or mark.endswith(("、", "　")) else " "
    return f"{mark}{glue}{text}"


def _in_contents(paragraph: Any) -> bool:
    """Whether a paragraph is a line of a table of contents, by its style."""
    return bool(re.fullmatch(r"(?:toc|verzeichnis|tm|tdc|sommario|目录) ?\d", (paragraph.style.name or "").lower()))


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
            elif tag == "sdt" and any(_value(node) == _CONTENTS for node in child.iter(f"{_W}docPartGallery")):
                continue
            elif tag in {"sdt", "sdtContent", "ins", "customXml", "smartTag", "moveTo"}:
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


def _text(element: Any, notes: _Notes | None = None) -> str:
    made = ""
    for child in element:
        tag = child.tag.rpartition("}")[2] if isinstance(child.tag, str) else ""
        if tag in _SKIPPED or (tag == "r" and _has(child, "vanish")):
            continue
        if tag == "t":
            made += child.text or ""
        elif tag == "r" and _has(child, "vertAlign", "superscript"):
            made += raised(_text(child, notes), made)
        elif tag in {"footnoteReference", "endnoteReference"} and notes is not None:
            made += notes.mark(tag.removesuffix("Reference"), child.get(f"{_W}id"))
        elif tag == "p":  # a text box
            made += f"\n{_text(child, notes)}"
        elif tag == "br" and child.get(f"{_W}type") == "page":
            made += "\n"
        else:
            made += _TEXT.get(tag) or _text(child, notes)
    return made


def _has(run: Any, name: str, value: str = "") -> bool:
    """Whether a run has a property: that value, or any that does not turn it off."""
    found = run.find(f"{_W}rPr/{_W}{name}")
    if found is None:
        return False
    return _value(found) == value if value else _value(found) not in {"0", "false", "off"}


def _value(element: Any) -> str:
    return str(element.get(f"{_W}val") or "")


def _table(table: Any, numbering: Numbering, notes: _Notes) -> Iterator[str]:
    """Rows with bars; a merged cell stands once in its row, and below it as often as it spans."""
    known: dict[Any, str] = {}  # a cell's number is counted once
    for i, row in enumerate(table.rows):
        cells: list[Any] = []
        for cell in row.cells:
            if not cells or cell._tc is not cells[-1]._tc:
                cells.append(cell)
        for cell in cells:
            if cell._tc not in known:
                known[cell._tc] = "\n".join(_cell(cell, numbering, notes))
        texts = [known[cell._tc] for cell in cells]
        if len(table.columns) == 1:
            yield from "\n".join(texts).split("\n")
            continue
        yield f"| {' | '.join(' '.join(text.split()) for text in texts)} |"
        if i == 0:
            yield f"|{'---|' * len(texts)}"


def _cell(cell: Any, numbering: Numbering, notes: _Notes) -> Iterator[str]:
    from docx.text.paragraph import Paragraph

    for child in cell._tc.iter(f"{_W}p"):
        yield _numbered(Paragraph(child, cell), _text(child, notes), numbering)


def _notes(document: Any) -> dict[tuple[str, str], str]:
    found = {}
    for kind in ("footnote", "endnote"):
        part = next((p for p in document.part.package.iter_parts() if str(p.partname) == f"/word/{kind}s.xml"), None)
        for note in parse(part.blob, "a Word document") if part is not None else ():
            if note.get(f"{_W}type") in (None, "normal"):
                found[kind, str(note.get(f"{_W}id"))] = " ".join(_text(note).split())
    return found
