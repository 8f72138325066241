"""Named fields to a passage: our names for them, defaults for what they leave out, and what is wrong with them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from retrieval.passage import Passage
from retrieval.text.dates import iso_date
from retrieval.text.labels import named
from retrieval.text.readers.rows import bytes_wrong

LABELS = ("title", "source", "url", "region", "language", "kind", "in_force_from", "in_force_to")


@dataclass(frozen=True, slots=True)
class Row:
    """A passage, or why there is none. `place` is file:line; `file` the relative name that the id was made from.

    A `note` names a part of a file that holds no rules, such as a sheet without a column of texts. `name` is the
    relative name of the file that was read, whatever its ids are made from, and `sheet` the part of it that has a name.
    """

    place: str
    passage: Passage | None
    problem: str = ""
    file: str = ""
    note: str = ""
    name: str = ""
    sheet: str = ""


@dataclass(frozen=True, slots=True)
class Defaults:
    """Labels for rows that have none of their own."""

    region: str = ""
    language: str = ""
    kind: str = ""
    source: str = ""
    tags: tuple[str, ...] = ()


def row(place: str, fields: dict[str, Any], defaults: Defaults) -> Row:
    """A passage from named fields; fields that we have no name for are left out."""
    fields = named(fields)
    try:
        for name in ("in_force_from", "in_force_to"):
            if name in fields:
                fields[name] = iso_date("" if fields[name] is None else fields[name], name)
        labels = {name: _text(fields, name) or getattr(defaults, name, "") for name in LABELS}
        text, tags = _text(fields, "text").strip(), _tags(fields.get("tags")) or defaults.tags
        if version := _text(fields, "version"):
            tags = (*tags, f"version={version}")
        tags = tuple(sorted(set(tags)))  # as an index gives them back
        key = (_text(fields, "_id") or _text(fields, "id")).strip()
        passage = Passage(id=key or "unnamed", text=text, tags=tags, parent=_text(fields, "parent"), **labels)
    except ValueError as error:
        return Row(place, None, bytes_wrong(*map(str, fields.values())) or str(error))
    if not key:
        passage = replace(passage, id=f"sha-{passage.content_hash.hex()}")
    return Row(place, passage)


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{name} must be text, not {type(value).__name__}")
    return str(value)


def _tags(value: Any) -> tuple[str, ...]:
    if not value:
        return ()
    if isinstance(value, str):
        return tuple(tag.strip() for tag in re.split("[,，]", value) if tag.strip())
    if isinstance(value, list) and all(isinstance(tag, str) for tag in value):
        return tuple(value)
    raise ValueError("tags must be a list of texts, or one text with commas")
