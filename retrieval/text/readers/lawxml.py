"""The law's own XML: Akoma Ntoso, USLM, Formex, Germany's gii-norm, Canada's, the United Kingdom's.

One passage an article, under its own number, with the chapters above it in its title. What stands outside of
articles (preambles, annexes without any) is a passage of its own; contents, notes and signatures are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from retrieval.text.archive import attribute, local, parse
from retrieval.text.labels import iso_date
from retrieval.text.outline import distinct_key, slug
from retrieval.text.piece import Piece, Unreadable
from retrieval.text.readers.vocabulary import Vocabulary, two_letters, vocabulary

_PARAGRAPHS = (
    "p paragraph subparagraph point indent item li list alinea subsection clause subclause intro wrapup row tr"
    " blocklist listintroduction listwrapup np visa consid definition dt chapeau continuation subsubclause"
    " level p2 p3 p4 p5 p6 para paratext text quotedstructure quotedcontent recital ti sti heading num.p"
    " crossheading marginalnote label provision parag gr.seq oral amendedtext formula"
)
_BREAKS = frozenset(_PARAGRAPHS.split())
_CELLS = frozenset(("entry", "td", "th", "cell"))
_NUMBERS = frozenset(("num", "no.p", "no.parag", "label", "pnumber", "dt", "dd", "number"))


def read(stream: IO[bytes], name: str) -> Iterator[Piece]:
    """The passages of a legal XML file; a piece's line is its element's.

    Raises:
        Unreadable: it is not XML, or of none of these vocabularies.
    """
    del name
    root = parse(stream.read(), "XML")
    if local(root) == "dokumente":
        yield from _german(root)
        return
    row = vocabulary(local(root))
    if row is None:
        raise Unreadable(f"XML with the root <{local(root)}>, which is none of the vocabularies of law that are read")
    yield from _Walk(row, root).pieces()


@dataclass(slots=True)
class _Loose:
    """Text outside of any article, gathered until the next."""

    trail: list[str]
    line: int
    text: list[str] = field(default_factory=list)


class _Walk:
    """One pass over a document in its order."""

    def __init__(self, row: Vocabulary, root: Any) -> None:
        self._row, self._root = row, root
        names = {local(node) for node in root.iter()}
        self._units = next((units & names for units in row.units if units & names), frozenset[str]())
        self._labels = _labels(row, root)
        self._title = _act_title(row, root)
        self._keys: dict[str, int] = {}
        self._floating: list[tuple[int, str]] = []
        self._loose = _Loose([], 1)

    def pieces(self) -> Iterator[Piece]:
        """The passages in order."""
        yield from self._inside(self._root, [])
        yield from self._rest()

    def _inside(self, node: Any, trail: list[str]) -> Iterator[Piece]:
        row = self._row
        for child in node:
            name = local(child)
            units = any(local(below) in self._units for below in child.iter())
            if name in row.skipped or (name in row.titles and not units):
                continue
            if name == row.floating:
                yield from self._rest()
                self._float(child)
            elif name in self._units:
                yield from self._rest()
                yield from self._unit(child, trail)
            elif units:
                yield from self._rest()
                above = _above(row, child) if name != row.wrapper else ""
                yield from self._inside(child, [*trail, above] if above else trail)
            elif name not in row.number | row.heading:
                self._gather(child, trail)

    def _unit(self, node: Any, trail: list[str]) -> Iterator[Piece]:
        row = self._row
        heads = {kind: _texts(node, names) for kind, names in (("number", row.number), ("heading", row.heading))}
        if row.wrapper and local(node.getparent()) == row.wrapper:
            heads["heading"] = _texts(node.getparent(), row.heading)
        label = self._label(local(node), heads["number"])
        text = flat(node, row, own_heads=True)
        if not text:
            return
        title = [self._title, *trail, *(text for _, text in self._floating), f"{label} {heads['heading']}".strip()]
        fields = {**self._labels, **self._dates(node), "title": ", ".join(filter(None, title)), "text": text}
        yield Piece(node.sourceline or 1, fields, distinct_key(slug(label), title, self._keys))

    def _label(self, unit: str, number: str) -> str:
        """An article's name: its number as printed, with a word before it where it is only digits."""
        number = re.sub(r"\s+", " ", number).strip(' .:—–-[]"“”')
        if not number or re.search(r"[^\W\d_]{2}|§|第", number):
            return number or unit.capitalize()
        names = self._row.names
        word = names.get(str(self._labels.get("language", "")), names.get(unit, names.get("en", "")))
        return f"{word} {number}".strip()

    def _dates(self, node: Any) -> dict[str, str]:
        found = {}
        for ours, theirs in zip(("in_force_from", "in_force_to"), self._row.dates, strict=True):
            value = attribute(node, theirs) if theirs else ""
            if value:
                found[ours] = iso_date(value, ours)
        return found

    def _float(self, node: Any) -> None:
        level = int(attribute(node, "level") or 1)
        self._floating = [(above, text) for above, text in self._floating if above < level]
        self._floating.append((level, " ".join(flat(node, self._row).split())))

    def _gather(self, node: Any, trail: list[str]) -> None:
        text = flat(node, self._row)
        if text:
            if not self._loose.text:
                self._loose = _Loose(trail, node.sourceline or 1)
            self._loose.text.append(text)

    def _rest(self) -> Iterator[Piece]:
        loose, self._loose = self._loose, _Loose([], 1)
        text = "\n".join(loose.text)
        if len(text) > 1:
            title = [part for part in (self._title, *loose.trail) if part]
            key = slug(loose.trail[-1]) if loose.trail else "0"
            yield Piece(loose.line, {**self._labels, "title": ", ".join(title), "text": text},
                        distinct_key(key, title, self._keys))  # fmt: skip


def _german(root: Any) -> Iterator[Piece]:
    """gii-norm: a flat list of <norm>, some of which are chapters that hold until the next of their depth."""
    keys: dict[str, int] = {}
    act, parts = "", list[tuple[str, str]]()
    for norm in (node for node in root if local(node) == "norm"):
        said = {local(node): " ".join("".join(node.itertext()).split()) for node in norm.iter()}
        if not act and (said.get("langue") or said.get("jurabk")):
            act = said.get("kurzue") or said.get("langue") or said.get("jurabk", "")
        part = next((node for node in norm.iter() if local(node) == "gliederungseinheit"), None)
        if part is not None:
            code = said.get("gliederungskennzahl", "")
            parts = [(above, text) for above, text in parts if len(above) < len(code)]
            parts.append((code, f"{said.get('gliederungsbez', '')} {said.get('gliederungstitel', '')}".strip()))
        label, content = said.get("enbez", ""), _content(norm)
        if not content or label.lower().startswith("inhalts"):
            continue
        title = [act, *(text for _, text in parts), f"{label} {said.get('titel', '')}".strip()]
        title = list(dict.fromkeys(part for part in title if part))
        fields = {"title": ", ".join(title), "text": content, "region": "Deutschland", "language": "de"}
        if jurabk := said.get("jurabk"):
            fields["source"] = jurabk
        yield Piece(norm.sourceline or 1, fields, distinct_key(slug(label) if label else "0", title, keys))


def _content(norm: Any) -> str:
    text = next((node for node in norm if local(node) == "textdaten"), None)
    body = next((node for node in text if local(node) == "text"), None) if text is not None else None
    return flat(body, None) if body is not None else ""


def _labels(row: Vocabulary, root: Any) -> dict[str, str]:
    found = {"region": row.region, "language": attribute(root, "lang")}
    for node in root.iter():
        name = local(node)
        if name in row.country:
            found["region"] = found["region"] or attribute(node, row.country[name])
        if name in row.language:
            key = row.language[name]
            found["language"] = found["language"] or (attribute(node, key) if key else (node.text or "").strip())
    found["language"] = two_letters(found["language"])
    return {name: value for name, value in found.items() if value}


def _act_title(row: Vocabulary, root: Any) -> str:
    for name in row.titles:
        node = next((node for node in root.iter() if local(node) == name), None)
        text = " ".join("".join(node.itertext()).split()) if node is not None else ""
        text = text or (attribute(node, "value") if node is not None else "")
        if text:
            return text[:300]
    return ""


def _above(row: Vocabulary, node: Any) -> str:
    """The number and heading of a chapter: elements of its own, or Formex's TITLE with TI and STI inside."""
    found = [f"{_texts(node, row.number).rstrip(' .:—–-')} {_texts(node, row.heading)}".strip()]
    found += [" ".join("".join(child.itertext(with_tail=False)).split()) for part in node if local(part) == "TITLE"
              for child in part if local(child) in {"TI", "STI"}]  # fmt: skip
    return " ".join(filter(None, found)).strip(" —–-")


def _texts(node: Any, names: frozenset[str]) -> str:
    """The words of those children that have one of these names."""
    found = [" ".join("".join(child.itertext(with_tail=False)).split()) for child in node if local(child) in names]
    return " ".join(found)


def flat(node: Any, row: Vocabulary | None, *, own_heads: bool = False) -> str:
    """An element's text, a line for each paragraph or point. `own_heads` leaves out its number and heading."""
    made: list[str] = []
    left_out = (row.number | row.heading) if row and own_heads else frozenset[str]()
    if node.text:
        made.append(node.text)
    for child in node:
        if local(child) not in left_out:
            _flatten(child, row, made)
        made.append(child.tail or "")
    lines = (" ".join(line.split()) for line in "".join(made).split("\v"))
    text = "\n".join(line.strip("| ") if set(line) <= set("| ") else line for line in lines if line.strip("| "))
    return re.sub(r"(?m)^([(\[]?\w{1,4}[.)\]]{1,2}|\d{1,3}[a-z]?|[•–—-])\n", r"\1 ", text)


def _flatten(node: Any, row: Vocabulary | None, made: list[str]) -> None:
    name = local(node)
    if not name or (row and name in row.skipped):
        return
    if name.lower() in _BREAKS or name == "BR":
        made.append("\v")
    elif name.lower() in _CELLS:
        made.append(" | ")
    made.append(node.text or "")
    for child in node:
        _flatten(child, row, made)
        made.append(child.tail or "")
    if name.lower() in _NUMBERS:
        made.append(" ")
