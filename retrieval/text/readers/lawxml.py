"""The law's own XML: Akoma Ntoso, USLM, Formex, Germany's gii-norm, Canada's, the United Kingdom's.

One passage an article, under its own number, with the chapters above it in its title. What stands outside of
articles (preambles, annexes and schedules without any) is a passage of its own; contents, notes and signatures are
left out, and so is what was removed or is not in force yet. Articles that an amendment quotes are its text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import IO, Any

from retrieval.text.archive import attribute, local, parse
from retrieval.text.dates import iso_date
from retrieval.text.outline import distinct_key, slug
from retrieval.text.piece import Piece
from retrieval.text.raised import raised
from retrieval.text.readers.vocabulary import Vocabulary, two_letters, vocabulary

_PARAGRAPHS = (
    "p paragraph subparagraph point indent item li list alinea subsection clause subclause intro wrapup row tr"
    " blocklist listintroduction listwrapup np visa consid definition dt chapeau continuation subsubclause"
    " level p2 p3 p4 p5 p6 para paratext text quotedstructure quotedcontent recital ti sti heading num.p"
    " crossheading marginalnote label provision parag gr.seq oral amendedtext formula longtitle title titletext p1group"
    " p1 blockamendment quoted-block quot.s section article rule chapter part header docnumber officialtitle visa"
    " content gr.visa gr.consid gr.consid.init preamble.init preamble.final"
)
_BREAKS = frozenset(_PARAGRAPHS.split())
_CELLS = frozenset(("entry", "td", "th", "cell"))
_NUMBERS = frozenset(("num", "no.p", "no.parag", "label", "pnumber", "dt", "dd", "number", "enum"))
_QUOTED = frozenset((
    "quotedStructure", "quotedText", "embeddedStructure", "embeddedText", "quotedContent", "quoted-block", "QUOT.S",
    "AmendedText", "BlockAmendment",
))  # fmt: skip
# Elements that are passages of their own where they hold no units, and those that only hold such elements.
_CONTAINERS = frozenset((
    "part", "chapter", "book", "tome", "division", "subdivision", "subpart", "subchapter", "schedule",
    "annex", "attachment", "hcontainer", "doc", "appendix", "gr.seq", "reorganizationplan",
))  # fmt: skip
_WRAPPERS = frozenset(("attachments", "schedules", "components", "component", "mainbody", "courtrules", "contents"))
_HEADERS = frozenset(("ScheduleFormHeading", "TitleBlock"))  # around a container's number and heading


def read(stream: IO[bytes], name: str) -> Iterator[Piece]:
    """The passages of a legal XML file; a piece's line is its element's.

    Raises:
        Unreadable: it is not XML.
    """
    del name
    root = parse(stream.read(), "XML")
    if local(root) == "dokumente":
        yield from _german(root)
        return
    row = vocabulary(local(root))
    if row is None:
        yield Piece(
            1, note=f"XML with the root <{local(root)}>, which is none of the vocabularies of law that are read"
        )
        return
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
        own = list(_own(root, row))
        names = {local(node) for node in own}
        wanted = next((units & names for units in row.units if units & names), frozenset[str]())
        found = [node for node in own if local(node) in wanted]
        others = {above for node in found for above in node.iterancestors() if local(above) != local(node)}
        self._units = {node for node in found if node not in others}
        self._holders = {above for node in self._units for above in node.iterancestors()}
        self._containers = {node for node in own if local(node).lower() in _CONTAINERS}
        self._labels = _labels(row, root)
        self._title = _act_title(row, root, self._holders)
        self._problems: list[Piece] = []
        self._periods = _periods(root, self._problems)
        self._keys: dict[str, int] = {}
        self._floating: list[tuple[int, str]] = []
        self._loose = _Loose([], 1)

    def pieces(self) -> Iterator[Piece]:
        """The passages in order, behind what is wrong with the periods in which they are in force."""
        yield from self._problems
        yield from self._inside(self._root, [])
        yield from self._rest()

    def _inside(self, node: Any, trail: list[str]) -> Iterator[Piece]:
        row = self._row
        for child in node:
            name = local(child)
            holds = child in self._holders
            if name in row.skipped | _HEADERS or (name in row.titles and not holds):
                continue
            if name == row.floating:
                yield from self._rest()
                self._float(child)
            elif child in self._units:
                yield from self._rest()
                yield from self._unit(child, trail)
            elif holds or name.lower() in _WRAPPERS or child in self._containers:
                yield from self._rest()
                above = _above(row, child) if name != row.wrapper else ""
                inner = [*trail, above] if above else trail
                if holds or name.lower() in _WRAPPERS or any(below in self._containers for below in child.iter()
                                                             if below is not child):  # fmt: skip
                    yield from self._inside(child, inner)
                else:
                    yield from self._gather(child, inner, own_heads=True)
                yield from self._rest()
            elif name not in row.number | row.heading:
                yield from self._gather(child, trail)

    def _unit(self, node: Any, trail: list[str]) -> Iterator[Piece]:
        row = self._row
        heads = {kind: _texts(node, names, row) for kind, names in (("number", row.number), ("heading", row.heading))}
        if row.wrapper and local(node.getparent()) == row.wrapper:
            heads["heading"] = _texts(node.getparent(), row.heading, row)
        label = self._label(node, heads["number"])
        text = flat(node, row, own_heads=True)
        if not re.search(r"\w", text) or attribute(node, "status") == "removed":
            return
        title = [self._title, *trail, *(text for _, text in self._floating), f"{label} {heads['heading']}".strip()]
        try:
            dates = self._dates(node)
        except ValueError as error:
            yield Piece(node.sourceline or 1, problem=f"{label}: {error}")
            return
        fields = {**self._labels, **dates, "title": ", ".join(filter(None, title)), "text": text}
        yield Piece(node.sourceline or 1, fields, distinct_key(slug(label), title, self._keys))

    def _label(self, node: Any, number: str) -> str:
        """An article's name: its number as printed, with a word before it where it is only digits."""
        unit = local(node)
        number = re.sub(r"\s+", " ", number).strip(' .:—–-[]"“”')
        if not number or re.search(r"[^\W\d_]{2}|§|第", number):
            return number or unit.capitalize()
        if unit == "P1":
            return f"{self._british(node)} {number}"
        names = self._row.names
        word = names.get(str(self._labels.get("language", "")), names.get(unit, names.get("en", "")))
        return f"{word} {number}".strip()

    def _british(self, node: Any) -> str:
        """Acts have sections, their schedules paragraphs, and instruments what their titles say."""
        above = {local(holder) for holder in node.iterancestors()}
        if "Schedule" in above:
            return "Paragraph"
        if "Secondary" not in above:
            return "Article" if above & {"EURetained", "EUBody"} else "Section"
        words = re.findall(r"Order|Rules|Regulations", self._title)
        return {"Order": "Article", "Rules": "Rule"}.get(words[-1] if words else "", "Regulation")

    def _dates(self, node: Any) -> dict[str, str]:
        """First and last day in force. A British or Akoma Ntoso version ends on the day that the next begins."""
        row, found = self._row, {}
        holders = [node, node.getparent()] if row.wrapper and local(node.getparent()) == row.wrapper else [node]
        for ours, theirs in zip(("in_force_from", "in_force_to"), row.dates, strict=True):
            value = next((value for holder in holders if theirs and (value := attribute(holder, theirs))), "")
            if value:
                found[ours] = iso_date(value, ours)
        if row.wrapper and "in_force_to" in found:
            found["in_force_to"] = _day_before(found["in_force_to"])
        start, end = self._periods.get(attribute(node, "period").removeprefix("#"), ("", ""))
        found |= {ours: day for ours, day in (("in_force_from", start), ("in_force_to", end)) if day}
        return found

    def _float(self, node: Any) -> None:
        level = int(attribute(node, "level") or 1)
        self._floating = [(above, text) for above, text in self._floating if above < level]
        self._floating.append((level, _words(node, self._row)))

    def _gather(self, node: Any, trail: list[str], *, own_heads: bool = False) -> Iterator[Piece]:
        text = flat(node, self._row, own_heads=own_heads)
        if text:
            if self._loose.text and self._loose.trail != trail:
                yield from self._rest()
            if not self._loose.text:
                self._loose = _Loose(trail, node.sourceline or 1)
            self._loose.text.append(text)

    def _rest(self) -> Iterator[Piece]:
        loose, self._loose = self._loose, _Loose([], 1)
        text = "\n".join(loose.text)
        if len(text) > 1 and re.search(r"\w", text):
            title = [part for part in (self._title, *loose.trail) if part]
            key = slug(loose.trail[-1]) if loose.trail else "0"
            yield Piece(loose.line, {**self._labels, "title": ", ".join(title), "text": text},
                        distinct_key(key, title, self._keys))  # fmt: skip


def _own(node: Any, row: Vocabulary) -> Iterator[Any]:
    """The elements of a document that are its own: not what it quotes, nor what is left out."""
    for child in node:
        name = local(child)
        if name and name not in _QUOTED and name not in row.skipped:
            yield child
            yield from _own(child, row)


def _periods(root: Any, problems: list[Piece]) -> dict[str, tuple[str, str]]:
    """Akoma Ntoso's periods by their names: the first and the last day of each, over all of its intervals.

    A date that cannot be read is left out, as if the period were open there, and is one of the `problems`.
    """
    groups = [node for node in root.iter() if local(node) == "temporalGroup"]
    ended = {attribute(node, "end").removeprefix("#") for group in groups for node in group if local(node)}
    events: dict[str, tuple[str, str]] = {}  # the day, and the one before, on which what ends there is last in force
    for node in (node for node in root.iter() if local(node) == "eventRef"):
        day, before, name = "", "", _name(node)
        try:
            day = iso_date(attribute(node, "date"), f"the date of {name or 'an event'}")
            before = _day_before(day) if name in ended else ""
        except ValueError as error:
            problems.append(Piece(node.sourceline or 1, problem=str(error)))
        events[name] = day, before
    found = {}
    for group in groups:
        intervals = [node for node in group if local(node)]
        starts, ends = (
            [events.get(attribute(node, side).removeprefix("#"), ("", ""))[at] for node in intervals]
            for at, side in enumerate(("start", "end"))
        )
        if intervals:
            found[_name(group)] = (min(starts), max(ends) if all(ends) else "")
    return found


def _name(node: Any) -> str:
    return attribute(node, "eId") or attribute(node, "id")


def _day_before(day: str) -> str:
    try:
        return (date.fromisoformat(day) - timedelta(days=1)).isoformat() if day else ""
    except OverflowError:
        raise ValueError(f"no day comes before {day}") from None


def _german(root: Any) -> Iterator[Piece]:
    """gii-norm: a flat list of <norm>, some of which are chapters that hold until the next of their depth."""
    keys: dict[str, int] = {}
    act, parts = "", list[tuple[str, str]]()
    for norm in (node for node in root if local(node) == "norm"):
        about = next((node for node in norm if local(node) == "metadaten"), norm)
        said = {local(node): _words(node, None) for node in about.iter()}
        if not act and (said.get("langue") or said.get("jurabk")):
            act = said.get("kurzue") or said.get("langue") or said.get("jurabk", "")
        part = next((node for node in norm.iter() if local(node) == "gliederungseinheit"), None)
        if part is not None:
            code = said.get("gliederungskennzahl", "")
            parts = [(above, text) for above, text in parts if len(above) < len(code)]
            parts.append((code, f"{said.get('gliederungsbez', '')} {said.get('gliederungstitel', '')}".strip()))
        label, content = said.get("enbez", ""), _content(norm)
        if not re.search(r"\w", content) or label.lower().startswith("inhalts"):
            continue
        if label.lower().startswith(("anlage", "anhang", "schlussformel")):
            parts = []
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


def _act_title(row: Vocabulary, root: Any, holders: set[Any]) -> str:
    for name in row.titles:
        for node in root.iter():
            if local(node) == name and node not in holders:
                text = _words(node, row) or attribute(node, "value")
                if text:
                    return text[:300]
    return ""


def _above(row: Vocabulary, node: Any) -> str:
    """The number and heading of a chapter: elements of its own, or Formex's TITLE with TI and STI inside."""
    found = [f"{_texts(node, row.number, row).rstrip(' .:—–-')} {_texts(node, row.heading, row)}".strip()]
    found += [_words(part, row) for part in node if local(part) in _HEADERS]
    found += [_words(child, row) for part in node if local(part) == "TITLE"
              for child in part if local(child) in {"TI", "STI"}]  # fmt: skip
    if not any(found) and local(node) in {"Part", "Chapter", "Schedule", "Pblock"}:  # of the United Kingdom
        found = [_texts(node, frozenset({"Number", "Title"}), row)]
    return " ".join(filter(None, found)).strip(" —–-")


def _texts(node: Any, names: frozenset[str], row: Vocabulary) -> str:
    """The words of those children that have one of these names."""
    return " ".join(filter(None, (_words(child, row) for child in node if local(child) in names)))


def _words(node: Any, row: Vocabulary | None) -> str:
    """An element's text on one line, without the notes in it."""
    return " ".join(flat(node, row).split())


def flat(node: Any, row: Vocabulary | None, *, own_heads: bool = False) -> str:
    """An element's text, a line for each paragraph or point. `own_heads` leaves out its number and heading."""
    made: list[str] = []
    left_out = (row.number | row.heading | _HEADERS | {"TITLE"}) if row and own_heads else frozenset[str]()
    if node.text:
        made.append(node.text)
    for child in node:
        if local(child) not in left_out:
            _flatten(child, row, made)
        made.append(child.tail or "")
    lines = (" ".join(line.split()) for line in "".join(made).split("\v"))
    text = "\n".join(line.strip("| ") if set(line) <= set("| ") else line for line in lines if line.strip("| "))
    return re.sub(r"(?m)^([(\[]?\w{1,4}[.)\]]{1,2}|\d{1,3}[A-Za-z]?|[•–—-])\n", r"\1 ", text)


def _flatten(node: Any, row: Vocabulary | None, made: list[str]) -> None:
    name = local(node)
    if not name or (row and name in row.skipped):
        return
    if name.lower() in _BREAKS or name == "BR":
        made.append("\v")
    elif name.lower() in _CELLS:
        made.append(" | ")
    up = name.lower() == "sup" or (name == "HT" and attribute(node, "TYPE") == "SUP")
    subsection = (
        name == "Pnumber" and re.fullmatch("P[2-9]", local(node.getparent())) and not attribute(node, "PuncAfter")
    )
    made.append("(" if subsection else "")
    made.append(raised(node.text or "", "".join(made[-3:]), node.tail or "") if up else node.text or "")
    for child in node:
        _flatten(child, row, made)
        made.append(child.tail or "")
    made.append(")" if subsection else "")
    if name.lower() in _NUMBERS:
        made.append(" ")
