"""The name of a model in an answer, where an engine calls it otherwise than its list of models does."""

from __future__ import annotations

import msgspec


class Renamed:
    """Writes `name` where a stream or an answer has `"model":"misnomer"`; every other byte passes as it is.

    A text cannot be mistaken for it: in a JSON string the quotation marks have backslashes.
    """

    def __init__(self, misnomer: str, name: str) -> None:
        field = b'"model":'
        self._wrong, self._right = field + msgspec.json.encode(misnomer), field + msgspec.json.encode(name)
        self._held = b""  # the beginning of the field, at the end of what came so far

    def feed(self, chunk: bytes) -> bytes:
        """What of this piece of the stream the client gets now: all but a beginning of the field at its end."""
        text = self.whole(self._held + chunk)
        kept = next(
            (n for n in range(min(len(self._wrong) - 1, len(text)), 0, -1) if text.endswith(self._wrong[:n])), 0
        )
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def close(self) -> bytes:
        """What was held back when the stream ended."""
        held, self._held = self._held, b""
        return held

    def whole(self, body: bytes) -> bytes:
        """An answer that is no stream."""
        return body.replace(self._wrong, self._right)
