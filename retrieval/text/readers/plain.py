"""Plain text: articles where the text counts them, else one passage."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO

from retrieval.text.encoding import decode
from retrieval.text.outline import pieces
from retrieval.text.piece import Document, Line, Piece


def read(stream: IO[bytes], name: str) -> Iterator[Piece]:
    """The passages of a text file."""
    del name
    yield from pieces(document(decode(stream.read())))


def document(text: str) -> Document:
    """A text's lines, whatever ends them."""
    lines = tuple(Line(line, i) for i, line in enumerate(split(text), 1))
    return Document(lines, wrapped=True, numbered=True, tidy=True)


def split(text: str) -> list[str]:
    """Lines as editors count them: CR, LF or both; a form feed or a Unicode separator ends none."""
    return re.split(r"\r\n|\r|\n", text)
