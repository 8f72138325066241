"""Server-sent events: the data of each, out of bytes that are all there or still coming.

A line ends in LF or CRLF; comments and other fields than `data` are skipped. https://html.spec.whatwg.org/#parsing-an-event-stream
"""

from __future__ import annotations

from collections.abc import Iterator

DONE = b"[DONE]"  # the data that ends a stream of OpenAI's APIs
_BOM = b"\xef\xbb\xbf"  # which a stream may begin with
_EVENT_LIMIT = 8 * 2**20  # bytes of one line


class TooLong(ValueError):
    """An event is longer than anyone would send."""


def data_lines(stream: bytes) -> Iterator[bytes]:
    """The data of the events in a stream, or in a part of one, whose events are one line each."""
    return (line[5:].strip() for line in stream.splitlines() if line.startswith(b"data:"))


def last_lines(stream: bytes, most: int) -> Iterator[bytes]:
    """The same of at most so many events at its end, the last one first."""
    end = len(stream)
    for _ in range(most):
        start = stream.rfind(b"\ndata:", 0, end)
        if start < 0:
            if stream.startswith(b"data:"):
                yield _line(stream, 5)
            return
        yield _line(stream, start + 6)
        end = start


def _line(stream: bytes, start: int) -> bytes:
    end = stream.find(b"\n", start)
    return stream[start : end if end >= 0 else None].strip()


class Events:
    """The data of a stream's events, out of its pieces; `ended` once [DONE] has come, after which there are none."""

    __slots__ = ("_buffer", "_data", "ended")

    def __init__(self) -> None:
        self.ended = False
        self._buffer = b""  # a line that is not complete
        self._data: list[bytes] = []  # the lines of an event that is not complete

    def feed(self, piece: bytes) -> list[bytes]:
        """The events that a piece completes.

        Raises:
            TooLong: a line of more than 8 MiB.
        """
        if self.ended:
            return []
        if not self._buffer and not self._data and piece[:6] == b"data: " and piece.find(b"\n") == len(piece) - 2:
            line = piece[6:-2]  # one event, as most pieces are
            if piece[-1] == 0x0A and not line.endswith((b"\r", DONE)):
                return [line]
        *lines, self._buffer = (self._buffer + piece).split(b"\n")
        if len(self._buffer) > _EVENT_LIMIT:
            raise TooLong("the engine sent an event that is too long")
        return self._events(lines)

    def close(self) -> list[bytes]:
        """The event that nothing but the stream's end has ended."""
        rest, self._buffer = self._buffer, b""
        return self._events([rest, b""])

    def _events(self, lines: list[bytes]) -> list[bytes]:
        out: list[bytes] = []
        for line in lines:
            line = line.removesuffix(b"\r").removeprefix(_BOM)
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            if line or not self._data or self.ended:
                continue
            event, self._data = b"\n".join(self._data), []
            self.ended = event.strip() == DONE
            if not self.ended:
                out.append(event)
        return out
