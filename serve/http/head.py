"""The head of an answer as bytes."""

from __future__ import annotations

import http
from collections.abc import Collection
from functools import cached_property

from serve.http.headers import NOSNIFF

JSON = (b"content-type", b"application/json")
EVENTS = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"))
_UNBUFFERED = (b"x-accel-buffering", b"no")  # proxies such as nginx hold a stream back, unless asked not to
BODILESS = (204, 304)  # answers without a body, and without a length of one
CLOSE = (b"connection", b"close")
CHUNKED = (b"transfer-encoding", b"chunked")
CLOSES, CHUNKS = (b"%s: %s\r\n" % pair for pair in (CLOSE, CHUNKED))
_NOSNIFF = b"%s: %s\r\n\r\n" % NOSNIFF
_PHRASES = {status.value: status.phrase for status in http.HTTPStatus}
_LINES = {status: f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n".encode() for status in range(100, 600)}


class Pairs(list[tuple[bytes, bytes]]):
    """Headers that do not change any more, and their lines, which are written once for many answers."""

    @cached_property
    def lines(self) -> bytes:
        """As they go over the wire. Raises ValueError for a header that would end the head."""
        return lines(self)

    @cached_property
    def unrated(self) -> Pairs:
        """Without an engine's rate headers, before ours."""
        return Pairs(pair for pair in self if not pair[0].startswith(b"x-ratelimit-"))

    @cached_property
    def unbuffered(self) -> Pairs:
        """Of a stream of events, which proxies are not to hold back."""
        return Pairs([*(pair for pair in self if pair[0] != _UNBUFFERED[0]), _UNBUFFERED])


def lines(pairs: Collection[tuple[bytes, bytes]]) -> bytes:
    """The lines of headers. Raises ValueError for a header that would end the head."""
    text = b"".join([b"%s: %s\r\n" % pair for pair in pairs])
    if text.count(b"\n") != len(pairs) or text.count(b"\r") != len(pairs):
        raise ValueError("a header holds a line's end")
    return text


def head(status: int, lines: bytes) -> bytes:
    """A status, of 100 to 599, and the lines of headers."""
    return b"%s%s%s" % (_LINES[status], lines, _NOSNIFF)
