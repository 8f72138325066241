"""The head of an answer as bytes."""

from __future__ import annotations

import http
from collections.abc import Sequence

from serve.http.headers import NOSNIFF

JSON = (b"content-type", b"application/json")
BODILESS = (204, 304)  # answers without a body, and without a length of one
CLOSE = (b"connection", b"close")
CHUNKED = (b"transfer-encoding", b"chunked")
_NOSNIFF = b"%s: %s\r\n\r\n" % NOSNIFF
_PHRASES = {status.value: status.phrase for status in http.HTTPStatus}
_LINES = {status: f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n".encode() for status in range(100, 600)}


def head(status: int, pairs: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A status, of 100 to 599, and headers. Raises ValueError for a header that would end the head."""
    lines = b"".join([b"%s: %s\r\n" % pair for pair in pairs])
    if lines.count(b"\n") != len(pairs) or lines.count(b"\r") != len(pairs):
        raise ValueError("a header holds a line's end")
    return b"%s%s%s" % (_LINES[status], lines, _NOSNIFF)
