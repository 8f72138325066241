"""OpenDocument text: headings by outline level, paragraphs, numbered lists, text boxes, notes and tables.

Deleted text goes; a note follows the paragraph that refers to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from retrieval.text.archive import attribute, local, open_archive, part
from retrieval.text.labels import labels
from retrieval.text.outline import pieces
from retrieval.text.piece import Document, Line, Piece, Unreadable
from retrieval.text.raised import raised
from retrieval.text.readers.odt_numbering import OUTLINE, Numbering

_WHAT = "an OpenDocument text"
_SKIPPED = {
    "tracked-changes",
    "annotation",
    "note",
    "forms",
    "sequence-decls",
    "table-of-content",
    "frame",
    "custom-shape",
}


def read(stream: IO[bytes], name: str) -> Iterator[Piece]:
    """The passages of an ODT file; a piece's line is its paragraph.

    Raises:
        Unreadable: it is no OpenDocument text, or is encrypted.
    """
    del name
    archive = open_archive(stream, _WHAT)
    content, meta = part(archive, "content.xml", _WHAT), part(archive, "meta.xml", _WHAT)
    body = next((node for node in content.iter() if local(node) == "text"), None) if content is not None else None
    if body is None:
        raise Unreadable(f"not {_WHAT}: it has no text, or is encrypted")
    lines: list[Line] = []
    styles = part(archive, "styles.xml", _WHAT)
    _Walk(lines, Numbering(styles, content), _superscripts(styles, content)).all(body)
    problems: list[str] = []
    said = _properties(meta, problems)
    yield from (Piece(1, problem=f"properties: {problem}") for problem in problems)
    if any(line.level for line in lines):
        said.pop("title", None)
    yield from pieces(Document(tuple(lines), said, numbered=True, tidy=True))


def _superscripts(*parts: Any) -> frozenset[str]:
    """The names of styles that raise their text."""
    return frozenset(
        attribute(style, "name")
        for part in parts if part is not None
        for style in part.iter() if local(style) == "style"
        if any(attribute(below, "text-position").startswith(("super", "1", "2", "3", "4", "5")) for below in style)
    )  # fmt: skip


def _properties(meta: Any, problems: list[str]) -> dict[str, Any]:
    said = {}
    for node in meta.iter() if meta is not None else ():
        if local(node) in {"title", "language", "keyword"} and node.text:
            said[local(node).replace("keyword", "tags")] = node.text
        elif local(node) == "user-defined" and node.text:
            said[attribute(node, "name")] = node.text
    return labels(said, problems)


@dataclass(slots=True)
class _Walk:
    """Appends the lines of a text; `label` is what stands before the next paragraph of a list's item."""

    lines: list[Line]
    numbering: Numbering
    superscripts: frozenset[str]
    label: str = ""
    notes: int = 0

    def all(self, node: Any, style: str = "", depth: int = 0) -> None:
        for child in node:
            name, number = local(child), len(self.lines) + 1
            if name in {"frame", "custom-shape"}:
                self._boxes(child)
            elif name in _SKIPPED:
                continue
            elif name == "h":
                self._heading(child, number)
            elif name == "p":
                self.lines += [Line(text, number) for text in self._marked(self._text(child)).split("\n")]
                self._beside(child)
            elif name == "table":
                self.lines += [Line(row, number, verbatim=True) for row in self._table(child)]
            elif name == "list":
                self._list(child, style, depth)
            elif name == "list-item":
                self.label = self.numbering.label(style, depth, attribute(child, "start-value"))
                bullet = self.label == "-"
                for block in child:
                    self.label = "-" if bullet else self.label
                    self.all([block], style, depth)
                self.label = ""
            else:
                self.all(child, style, depth)

    def _list(self, node: Any, style: str, depth: int) -> None:
        own = attribute(node, "style-name") or style
        continued = attribute(node, "continue-numbering") == "true" or attribute(node, "continue-list")
        if not depth and not continued:
            self.numbering.restart(own)
        self.all(node, own, depth + 1)

    def _heading(self, node: Any, number: int) -> None:
        level = int(attribute(node, "outline-level") or 1)
        text = " ".join(self._text(node).split())
        if text and not self.label and attribute(node, "is-list-header") != "true":
            self.label = self.numbering.label(OUTLINE, level, attribute(node, "start-value"))
        self.lines.append(Line(self._marked(text), number, level))
        self._beside(node)

    def _beside(self, paragraph: Any) -> None:
        """The notes and text boxes of a paragraph, in lines after it."""
        for node in paragraph:
            if local(node) == "note":
                body = next((part for part in node if local(part) == "note-body"), None)
                text = " ".join(self._text(body).split()) if body is not None else ""
                mark = "".join("".join(part.itertext()) for part in node if local(part) == "note-citation")
                self.lines.append(Line(f"[{mark}] {text}", len(self.lines) + 1))
                if body is not None:
                    self._beside(body)
            elif local(node) in {"frame", "custom-shape"}:
                self._boxes(node)
            else:
                self._beside(node)

    def _boxes(self, frame: Any) -> None:
        for box in frame if local(frame) == "frame" else [frame]:
            if local(box) in {"text-box", "custom-shape"}:
                self.all(box)

    def _marked(self, text: str) -> str:
        label, self.label = self.label, ""
        glue = "" if not label or label.endswith(("、", "　")) else " "
        return f"{label}{glue}{text}"

    def _text(self, node: Any) -> str:
        made = node.text or ""
        for child in node:
            name = local(child)
            if name == "s":
                made += " " * int(attribute(child, "c") or 1)
            elif name == "tab":
                made += "\t"
            elif name == "line-break":
                made += "\n"
            elif name == "note":
                made += "".join(f"[{''.join(part.itertext())}]" for part in child if local(part) == "note-citation")
            elif name == "span" and attribute(child, "style-name") in self.superscripts:
                made += raised(self._text(child), made, child.tail or "")
            elif name not in _SKIPPED:
                made += self._text(child) + (" " if name in {"p", "h", "list-item"} else "")
            made += child.tail or ""
        return made

    def _table(self, table: Any) -> Iterator[str]:
        """Rows with bars; a table inside of a cell is part of that cell's text."""
        for row in _rows(table):
            cells = [cell for cell in row if local(cell) == "table-cell"]
            yield f"| {' | '.join(' '.join(' '.join(self._text(p) for p in cell).split()) for cell in cells)} |"


def _rows(node: Any) -> Iterator[Any]:
    for child in node:
        if local(child) == "table-row":
            yield child
        elif local(child) in {"table-rows", "table-header-rows", "table-row-group"}:
            yield from _rows(child)
