"""Server-sent events: the data of each, out of bytes that are all there or still coming.

A line ends in LF or CRLF; comments and other fields than `data` are skipped. https://html.spec.whatwg.org/#parsing-an-event-stream
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing

DONE = b"[DONE]"  # the data that ends a stream of OpenAI's APIs
_BOM = b"\xef\xbb\xbf"  # which a stream may begin with
_EVENT_LIMIT = 8 * 2**20  # bytes of one line


class TooLong(ValueError):
    """An event is longer than anyone would send."""


def data_lines(stream: bytes) -> Iterator[bytes]:
    """The data of the events in a stream, or in a part of one, whose events are one line each."""
    return (line[5:].strip() for line in stream.splitlines() if line.startswith(b"data:"))


async def events(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The data of each event as it comes, up to [DONE].

    Raises:
        TooLong: a line of more than 8 MiB.
    """
    data: list[bytes] = []
    async with aclosing(_lines(chunks)) as lines:
        async for line in lines:
            line = line.removeprefix(_BOM)
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            if line or not data:
                continue
            event, data = b"\n".join(data), []
            if event.strip() == DONE:
                return
            yield event


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The lines of a stream; at its end an empty one, which ends an event that nothing else did."""
    buffer = b""
    async for chunk in chunks:
        *lines, buffer = (buffer + chunk).split(b"\n")
        if len(buffer) > _EVENT_LIMIT:
            raise TooLong("the engine sent an event that is too long")
        for line in lines:
            yield line.removesuffix(b"\r")
    yield buffer
    yield b""
