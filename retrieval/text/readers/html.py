"""HTML, by selectolax: headings, paragraphs, lists and tables of the body.

Scripts, navigation, a form's fields, asides, footers and what is hidden or struck out are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import IO, Any

from retrieval.text.encoding import decode
from retrieval.text.labels import labels
from retrieval.text.outline import pieces
from retrieval.text.piece import Document, Line, Piece
from retrieval.text.raised import raised
from retrieval.text.readers.counters import letters, roman

LEFT_OUT = {
    "script", "style", "nav", "noscript", "template", "head", "svg", "button", "select", "textarea", "datalist",
    "label", "iframe", "object", "footer", "aside", "del", "s", "strike", "rt", "rp",
}  # fmt: skip
BLOCKS = {
    "p", "div", "section", "article", "main", "header", "li", "ul", "ol", "dl", "dt", "dd", "blockquote", "figure",
    "figcaption", "address", "hr", "body", "html", "details", "summary", "fieldset", "center", "caption", "form",
}  # fmt: skip
_NUMBERS: dict[str, Callable[[int], str]] = {
    "a": letters, "A": lambda n: letters(n).upper(), "i": roman, "I": lambda n: roman(n).upper(),
}  # fmt: skip
_OWN_NUMBER = re.compile(r"\s*(?:[(\[（]?\w{1,4}[.)\]）]|§|[-•–])")  # an item that brings its own
_COUNT = re.compile(r"\s*-?[0-9]{1,6}\s*")
_CHARSET = re.compile(rb"""<meta[^>]+charset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE)


def read(stream: IO[bytes], name: str) -> Iterator[Piece]:
    """The passages of a page: one for each section or article."""
    del name
    yield from pieces(document(_text(stream.read())))


def document(text: str) -> Document:
    """A page's lines and what its head says: title, language, `<meta>` names that we know."""
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(text)
    blocks = _Blocks()
    if tree.body is not None:
        blocks.walk(tree.body)
    blocks.end()
    lines = tuple(Line(text, i, level, verbatim) for i, (text, level, verbatim) in enumerate(blocks.made, 1))
    said = _properties(tree)
    if any(line.level for line in lines):
        said.pop("title", None)  # the headings have it, without the site's name
    return Document(lines, said, joint=" › ", tidy=True)


def _text(data: bytes) -> str:
    """By the page's own word for its encoding, where bytes can be of several."""
    said = _CHARSET.search(data[:4096])
    if said and not data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        name = said[1].decode("ascii", "replace").lower()
        name = {"gb2312": "gb18030", "gbk": "gb18030", "iso-8859-1": "cp1252", "big5": "big5hkscs",
                "shift_jis": "cp932", "shift-jis": "cp932", "x-sjis": "cp932", "euc-kr": "cp949",
                "ks_c_5601-1987": "cp949"}.get(name, name)  # fmt: skip
        try:
            if not name.startswith(("utf-16", "utf16", "utf-32")):  # the word itself could be read as ASCII
                return data.decode(name)
        except (LookupError, UnicodeDecodeError):
            pass  # it says one thing and is another
    return decode(data)


def _properties(tree: Any) -> dict[str, Any]:
    found: dict[str, str] = {}
    for node in tree.css("meta"):
        key = (node.attributes.get("name") or node.attributes.get("property") or "").lower()
        key = re.sub(r"^(?:dcterms|dc|og|article)[.:]", "", key)
        if key in {"title", "language", "lang", "locale", "jurisdiction", "region", "version", "effective",
                   "effective_date", "valid_from", "valid_to", "expires"}:  # fmt: skip
            found[key] = node.attributes.get("content") or ""
    if (title := tree.css_first("title")) is not None:
        found["title"] = " ".join(title.text().split())
    if tree.root is not None and tree.root.attributes.get("lang"):
        found["language"] = tree.root.attributes["lang"]
    try:
        return labels(found)
    except ValueError:
        return labels({k: v for k, v in found.items() if k in {"title", "language"}})  # a cache's dates, not a law's


class _Blocks:
    """Gathers (text, heading level, verbatim) in the order of the page."""

    def __init__(self) -> None:
        self.made: list[tuple[str, int, bool]] = []
        self._text = ""
        self._counts: dict[int, int] = {}  # of ordered lists

    def end(self, level: int = 0) -> None:
        """Close the block that is being gathered."""
        text = re.sub(r"[ \t\r\n\f]+", " ", self._text.replace("\u00a0", " ")).replace("\v ", "\v").strip()
        if text:
            self.made += [(line.strip(), level, False) for line in (text.split("\v") if not level else [text])]
        self._text = ""

    def walk(self, node: Any) -> None:
        """Take in a node and all below it."""
        child = node.child
        while child is not None:
            self._take(child)
            child = child.next

    def _take(self, node: Any) -> None:
        tag = node.tag
        if tag == "-text":
            self._text += node.text(deep=False) or ""
        elif tag in LEFT_OUT or tag.startswith(("-", "!")) or _hidden(node):
            return
        elif tag == "sup":
            after = node.next.text(deep=False) if node.next is not None and node.next.tag == "-text" else ""
            self._text += raised(node.text().strip(), self._text, after or "")
        elif tag == "br":
            self._text += "\v"
        elif tag == "pre":
            self.end()
            self.made += [(line, 0, True) for line in node.text().strip("\n").split("\n")]
        elif tag == "table":
            self.end()
            self._table(node)
        elif re.fullmatch(r"h[1-6]", tag):
            self.end()
            self.walk(node)
            self._text = self._text.replace("\v", " ")
            self.end(int(tag[1]))
        elif tag in BLOCKS:
            self._block(node)
        else:
            self.walk(node)

    def _block(self, node: Any) -> None:
        self.end()
        mark = self._mark(node) if node.tag == "li" else ""
        self._text = mark
        self.walk(node)
        if self._text.strip() == mark.strip():
            self._text = ""
        self.end()

    def _mark(self, item: Any) -> str:
        """What the browser writes before an item: it stands in no text."""
        holder = item.parent
        if holder is None or holder.tag != "ol":
            return "- "
        start, value = holder.attributes.get("start") or "", item.attributes.get("value") or ""
        first = int(start) if _COUNT.fullmatch(start) else 1
        number = int(value) if _COUNT.fullmatch(value) else self._counts.get(holder.mem_id, first - 1) + 1
        self._counts[holder.mem_id] = number
        plain = "none" in (holder.attributes.get("style") or "")
        if plain or number < 1 or _OWN_NUMBER.match(item.text()):
            return ""
        return f"{_NUMBERS.get(holder.attributes.get('type') or '', str)(number)}. "

    def _table(self, node: Any) -> None:
        """A table of data as rows with bars; one that only lays out the page as its cells."""
        rows = [row for row in node.css("tr") if _owner(row) is None or _owner(row).mem_id == node.mem_id]
        cells = [[cell for cell in row.iter() if cell.tag in {"td", "th"}] for row in rows]
        if node.css_first("table table") is not None or max(map(len, cells), default=0) < 2:
            for cell in (cell for row in cells for cell in row):
                self.walk(cell)
                self.end()
            return
        for i, row in enumerate(cells):
            texts = [_cell(cell) for cell in row]
            self.made.append((f"| {' | '.join(texts)} |", 0, True))
            if i == 0:
                self.made.append((f"|{'---|' * len(texts)}", 0, True))


def _cell(node: Any) -> str:
    blocks = _Blocks()
    blocks.walk(node)
    blocks.end()
    return " ".join(" ".join(text for text, _, _ in blocks.made).split())


def _hidden(node: Any) -> bool:
    style = (node.attributes.get("style") or "").replace(" ", "").lower()
    return "hidden" in node.attributes or "display:none" in style or "visibility:hidden" in style


def _owner(row: Any) -> Any:
    node = row.parent
    while node is not None and node.tag != "table":
        node = node.parent
    return node
