"""OpenDocument text: headings by outline level, paragraphs, lists and tables; deleted text of tracked changes goes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

from retrieval.text.archive import attribute, local, open_archive, part
from retrieval.text.labels import labels
from retrieval.text.outline import pieces
from retrieval.text.piece import Document, Line, Piece, Unreadable

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
    _walk(body, lines)
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


def _walk(node: Any, lines: list[Line], prefix: str = "") -> None:
    for child in node:
        name, number = local(child), len(lines) + 1
        if name in _SKIPPED:
            continue
        if name == "h":
            lines.append(Line(" ".join(_text(child).split()), number, int(attribute(child, "outline-level") or 1)))
        elif name == "p":
            lines += [Line(f"{prefix}{text}", number) for text in _text(child).split("\n")]
        elif name == "table":
            lines += [Line(row, number, verbatim=True) for row in _table(child)]
        elif name == "list-item":
            _walk(child, lines, "- ")
        else:
            _walk(child, lines, prefix)


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
