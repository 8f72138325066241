"""OpenDocument text: headings by outline level, paragraphs, numbered lists and tables; deleted text goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from retrieval.text.archive import attribute, local, open_archive, part
from retrieval.text.labels import labels
from retrieval.text.outline import pieces
from retrieval.text.piece import Document, Line, Piece, Unreadable
from retrieval.text.readers.odt_numbering import OUTLINE, Numbering

_WHAT = "an OpenDocument text"
_SKIPPED = {"tracked-changes", "annotation", "note", "forms", "sequence-decls", "table-of-content", "frame"}


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
    _Walk(lines, Numbering(part(archive, "styles.xml", _WHAT), content)).all(body)
    said = _properties(meta)
    if any(line.level for line in lines):
        said.pop("title", None)
    yield from pieces(Document(tuple(lines), said, numbered=True, tidy=True))


def _properties(meta: Any) -> dict[str, Any]:
    said = {}
    for node in meta.iter() if meta is not None else ():
        if local(node) in {"title", "language", "keyword"} and node.text:
            said[local(node).replace("keyword", "tags")] = node.text
        elif local(node) == "user-defined" and node.text:
            said[attribute(node, "name")] = node.text
    try:
        return labels(said)
    except ValueError:
        return labels({k: v for k, v in said.items() if k in {"title", "language", "tags"}})


@dataclass(slots=True)
class _Walk:
    """Appends the lines of a text; `label` is what stands before the next paragraph of a list's item."""

    lines: list[Line]
    numbering: Numbering
    label: str = ""

    def all(self, node: Any, style: str = "", depth: int = 0) -> None:
        for child in node:
            name, number = local(child), len(self.lines) + 1
            if name in _SKIPPED:
                continue
            if name == "h":
                self._heading(child, number)
            elif name == "p":
                self.lines += [Line(text, number) for text in self._marked(_text(child)).split("\n")]
            elif name == "table":
                self.lines += [Line(row, number, verbatim=True) for row in _table(child)]
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
        text = " ".join(_text(node).split())
        if text and not self.label and attribute(node, "is-list-header") != "true":
            self.label = self.numbering.label(OUTLINE, level, attribute(node, "start-value"))
        self.lines.append(Line(self._marked(text), number, level))

    def _marked(self, text: str) -> str:
        label, self.label = self.label, ""
        glue = "" if not label or label.endswith(("、", "　")) else " "
        return f"{label}{glue}{text}"


def _text(node: Any) -> str:
    made = node.text or ""
    for child in node:
        name = local(child)
        if name == "s":
            made += " " * int(attribute(child, "c") or 1)
        elif name == "tab":
            made += "\t"
        elif name == "line-break":
            made += "\n"
        elif name not in _SKIPPED:
            made += _text(child)
        made += child.tail or ""
    return made


def _table(table: Any) -> Iterator[str]:
    for row in (node for node in table.iter() if local(node) == "table-row"):
        cells = [cell for cell in row if local(cell) == "table-cell"]
        yield f"| {' | '.join(' '.join(' '.join(_text(p) for p in cell).split()) for cell in cells)} |"
