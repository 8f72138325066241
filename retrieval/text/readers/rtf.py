"""Rich Text Format, by striprtf: its text as plain text; styles, pictures and tables' lines are lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import IO

from retrieval.text.outline import pieces
from retrieval.text.piece import Piece, Unreadable
from retrieval.text.readers.plain import document


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
    yield from pieces(document(to_text(data.decode("latin-1"), errors="replace")))
