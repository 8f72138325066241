"""reStructuredText, by docutils: sections, paragraphs, lists, code; nothing is included from other files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import IO, Any

from retrieval.text.encoding import decode
from retrieval.text.labels import labels
from retrieval.text.outline import pieces
from retrieval.text.piece import Document, Line, Piece
from retrieval.text.raised import raised
from retrieval.text.readers.counters import letters, roman

SETTINGS = {
    "file_insertion_enabled": False, "raw_enabled": False, "report_level": 5, "halt_level": 5,
    "input_encoding": "unicode", "doctitle_xform": False, "sectsubtitle_xform": False, "_disable_config": True,
}  # fmt: skip


def read(stream: IO[bytes], name: str) -> Iterator[Piece]:
    """The passages of an RST file: one for each section."""
    from docutils.core import publish_doctree

    tree = publish_doctree(decode(stream.read()), source_path=name, settings_overrides=SETTINGS)
    _raise(tree)
    said: dict[str, Any] = {}
    lines = tuple(_lines(tree, 0, said))
    problems: list[str] = []
    found = labels(said, problems)
    yield from (Piece(1, problem=problem) for problem in problems)
    yield from pieces(Document(lines, found, joint=" › "))


def _raise(tree: Any) -> None:
    """Put raised digits in the place of superscripts that are numbers."""
    from docutils import nodes

    for node in list(tree.findall(nodes.superscript)):
        at, beside = node.parent.index(node), node.parent.children
        before = beside[at - 1].astext() if at else ""
        after = beside[at + 1].astext() if at + 1 < len(beside) else ""
        node.replace_self(nodes.Text(raised(node.astext(), before, after)))


def _lines(node: Any, level: int, said: dict[str, Any]) -> Iterator[Line]:
    from docutils import nodes

    for child in node.children:
        number = child.line or 1
        if isinstance(child, nodes.section):
            yield from _lines(child, level + 1, said)
        elif isinstance(child, nodes.title):
            yield Line(child.astext(), number, max(1, level))
        elif isinstance(child, nodes.docinfo | nodes.field_list) and level <= 1 and not said:
            said.update(_fields(child))
        elif isinstance(child, nodes.comment | nodes.system_message | nodes.substitution_definition | nodes.target):
            continue
        elif isinstance(child, nodes.literal_block | nodes.table):
            yield from (Line(text, number, verbatim=True) for text in _table(child))
            yield Line("", number)
        else:
            yield from (Line(text, number) for text in _text(child).split("\n"))
            yield Line("", number)


def _fields(node: Any) -> Iterator[tuple[str, str]]:
    from docutils import nodes

    for child in node.children:
        if isinstance(child, nodes.field):
            yield child.children[0].astext(), child.children[1].astext()
        else:
            yield child.tagname, child.astext()


def _table(node: Any) -> list[str]:
    from docutils import nodes

    if isinstance(node, nodes.literal_block):
        return [str(line) for line in node.astext().split("\n")]
    rows = [[cell.astext().replace("\n", " ") for cell in row.children] for row in node.findall(nodes.row)]
    return [f"| {' | '.join(row)} |" for row in rows]


_MARKS: dict[str, Callable[[int], str]] = {
    "loweralpha": letters, "upperalpha": lambda n: letters(n).upper(),
    "lowerroman": roman, "upperroman": lambda n: roman(n).upper(),
}  # fmt: skip


def _text(node: Any) -> str:
    """A block's text, with the marks of its lists, however deep."""
    from docutils import nodes

    if isinstance(node, nodes.bullet_list | nodes.enumerated_list):
        how = _MARKS.get(node.get("enumtype", ""), str)
        first = int(node.get("start", 1))
        ordered = isinstance(node, nodes.enumerated_list)
        prefix, suffix = node.get("prefix", ""), node.get("suffix", "")
        marks = (f"{prefix}{how(i)}{suffix}" if ordered else "-" for i in range(first, 10**6))
        return "\n".join(f"{mark} {_blocks(item)}" for mark, item in zip(marks, node.children, strict=False))
    if isinstance(node, nodes.footnote | nodes.citation):
        label, *rest = node.children
        return f"[{label.astext()}] {' '.join(child.astext() for child in rest)}"
    return str(node.astext())


def _blocks(item: Any) -> str:
    return "\n".join(_text(child) for child in item.children)
