"""Rich Text Format, by striprtf: its text as plain text; styles, pictures, notes and tables' lines are lost."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import IO

from retrieval.text.outline import pieces
from retrieval.text.piece import Piece, Unreadable
from retrieval.text.raised import DIGITS
from retrieval.text.readers.plain import document

# A control word with its number, a letter as an escape, a brace, or text.
_TOKEN = re.compile(r"\\([a-z]+)(-?\d*) ?|\\'[0-9a-fA-F]{2}|\\.|[{}]|[^\\{}]+", re.DOTALL)
_RAISED = re.compile(r"\{(?:\\[a-z]+-?\d*)*?\\super(?![a-z])(?:\\[a-z]+-?\d*)* ?(\d+)\}")


def _raise(found: re.Match[str]) -> str:
    """Raised digits as the letters that they look like, in RTF's escapes."""
    return "".join(f"\\u{ord(DIGITS[int(digit)])}?" for digit in found[1])


def _without_hidden(text: str) -> str:
    r"""Leave out what stands between \v and \v0, \plain or the end of its group; control words and braces stay."""
    made: list[str] = []
    hidden = [False]  # by group, the innermost last
    for found in _TOKEN.finditer(text):
        part, word, number = found[0], found[1], found[2]
        if part == "{":
            hidden.append(hidden[-1])
        elif part == "}":
            if len(hidden) > 1:
                hidden.pop()
        elif word in {"v", "plain"}:
            hidden[-1] = word == "v" and number != "0"
        elif hidden[-1] and (not word or word == "u"):
            continue
        made.append(part)
    return "".join(made)


def read(stream: IO[bytes], name: str) -> Iterator[Piece]:
    """The passages of an RTF file.

    Raises:
        Unreadable: it is no RTF.
    """
    from striprtf import striprtf

    del name
    data = stream.read()
    if not data.lstrip().startswith(b"{\\rtf"):
        raise Unreadable("not RTF: it does not begin with {\\rtf")
    # The format is ASCII; what is beyond it is written as escapes in the code page that the header names.
    to_text: Callable[..., str] = striprtf.rtf_to_text
    text = to_text(_RAISED.sub(_raise, _without_hidden(data.decode("latin-1"))), errors="replace")
    # Letters beyond the first plane are written as two halves.
    yield from pieces(document(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")))
