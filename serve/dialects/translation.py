"""One answer on its way from an engine's API to a client's dialect, whole or as a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from serve.dialects.dialect import Piece, Reader, Writer


class Translation:
    """Joins a reader of the engine's answer to a writer of the client's."""

    def __init__(self, reader: Reader, writer: Writer) -> None:
        self.reader, self._writer = reader, writer
        self._described = False

    def opening(self) -> bytes:
        """The events that begin the stream."""
        return self._writer.start()

    def feed(self, data: bytes) -> bytes:
        """A whole answer or one event's data in; events out, possibly none.

        Raises:
            BadEvent: it is no part of an answer.
        """
        return self._events(self.take(data))

    def take(self, data: bytes) -> Sequence[Piece]:
        """The same without writing events, for an answer that is written whole."""
        pieces = self.reader.feed(data)
        if self.reader.meta and not self._described:
            self._described = True
            self._writer.describe(self.reader.meta)
        return pieces

    def closing(self, usage: Mapping[str, Any]) -> bytes:
        """The events that end the stream: held back text, finish reasons, and what the dialect ends on."""
        return self._events(self.reader.close()) + self._writer.close(usage)

    def reply(self, usage: Mapping[str, Any]) -> bytes:
        """The whole answer."""
        self.reader.close()
        return self._writer.whole(self.reader.choices, usage)

    def _events(self, pieces: Sequence[Piece]) -> bytes:
        writer = self._writer
        if len(pieces) == 1:
            piece = pieces[0]
            return writer.end(piece) if piece.finish else writer.delta(piece)
        return b"".join([writer.end(piece) if piece.finish else writer.delta(piece) for piece in pieces])
