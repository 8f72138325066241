"""A large JSON object split into its fields in short steps.

One call of a parser on 26 MB holds the interpreter's lock for 7 ms, in which all other requests wait. Nearly always
such a body is large by a few long strings (images, sound), so their insides are cut out first, which takes no more than
to look for quotes; what is left is small, is parsed as one, and says where the fields stand in the whole. What is cut
out is looked at for raw control characters, a window at a time; whether it is UTF-8 is for whoever decodes the string.
"""

from __future__ import annotations

from bisect import bisect_right

import msgspec

from serve.dialects.outline import step

_string = msgspec.json.Decoder(msgspec.Raw)
_WINDOW = 2**16  # bytes of a string that are cut out at a time
_MARGIN = 16  # bytes that stay before a cut: an escape that began before it may go on in them


class Hollow:
    """A JSON text without the insides of its long strings: `text`, and where its places are in the whole."""

    def __init__(self, body: bytes, most: int) -> None:
        """Raises ValueError where more than `most` bytes are no such insides, or one has a raw control character."""
        cuts = _cuts(body, most)
        kept, at = list[bytes](), 0
        self._places, self._missing = list[int](), list[int]()  # in `text`; bytes that are missing before each
        missing = 0
        for begin, end in cuts:
            kept.append(body[at:begin])
            missing += end - begin
            self._places.append(end - missing)
            self._missing.append(missing)
            at = end
        self.text = b"".join([*kept, body[at:]]) if cuts else body

    def place(self, at: int) -> int:
        """Where in the whole a place of the text is that is not inside a string."""
        found = bisect_right(self._places, at)
        return at + self._missing[found - 1] if found else at


def _cuts(body: bytes, most: int) -> list[tuple[int, int]]:
    """What can be left out: windows in a string that hold neither its end nor an escape."""
    cuts: list[tuple[int, int]] = []
    at, inside = 0, False
    while at < len(body):
        end = at + _WINDOW
        if body.find(b'"', at, end) < 0 and (not inside or body.find(b"\\", at, end) < 0):
            end = min(end, len(body))
            if inside:
                _string.decode(b'"%b"' % body[at:end])
            if inside and cuts and cuts[-1][1] == at:
                cuts[-1] = cuts[-1][0], end
            elif inside and end - at > _MARGIN:
                cuts.append((at + _MARGIN, end))
        else:
            piece, end = step(body, at, _WINDOW)
            inside ^= piece.count(b'"') % 2 == 1
            most -= len(piece)
            if most < 0:
                raise ValueError("too little of it is long strings")
        at = end
    return cuts
