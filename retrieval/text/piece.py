"""What a reader makes of a file: lines with their structure, and pieces that become passages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class Unreadable(ValueError):
    """A file that has no text, or is not what its name says; the message says which."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line or paragraph. `level` is a heading's depth, 0 for text."""

    text: str
    number: int  # of the line, page or paragraph in the file, from 1
    level: int = 0
    verbatim: bool = False  # code or a table: it holds no headings


@dataclass(frozen=True, slots=True)
class Document:
    """A file's lines in order, with what it says of itself under our names for labels."""

    lines: tuple[Line, ...]
    labels: Mapping[str, Any] = field(default_factory=dict)
    wrapped: bool = False  # a line may be the continuation of a sentence
    numbered: bool = False  # "1. Title" may be a heading
    joint: str = ", "  # between the parts of a title
    tidy: bool = False  # indentation means nothing


@dataclass(frozen=True, slots=True)
class Piece:
    """The fields of one passage, or a problem, or a note: a part of the file that holds no rules.

    `key` names the place in the file's structure, which becomes the id; None: the fields have an id, or their
    content is one. `sheet` is the part of the file that it comes from, where the parts have names.
    """

    line: int
    fields: Mapping[str, Any] = field(default_factory=dict)
    key: str | None = None
    problem: str = ""
    note: str = ""
    sheet: str = ""
