"""A head that has been read, as bytes around the digits of its Content-Length, so that the next like it is recognised.

Programs send the same head with each of their messages. What equals, byte for byte, a head that llhttp has accepted
means the same, so only the digits and the body are new. Only whole messages are recognised, nothing before or behind.
"""

from __future__ import annotations

import re

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)[ \t]*\r\n", re.IGNORECASE)
_DIGITS = 15  # at most: more is no length of a body that anybody takes
LEARN = 4  # heads of a connection at most that are kept, one after another, while none of them comes again


class Template:
    """The bytes before and behind the digits."""

    __slots__ = ("_after", "_before")

    def __init__(self, before: bytes, after: bytes) -> None:
        self._before, self._after = before, after

    def same(self, other: Template) -> bool:
        """Whether these are the same bytes."""
        return (self._before, self._after) == (other._before, other._after)

    def match(self, data: bytes) -> tuple[bytes, bytes] | None:
        """The digits and the body, where `data` is one whole message with this head."""
        if not data.startswith(self._before):
            return None
        start = len(self._before)
        end = data.find(b"\r", start, start + _DIGITS)
        digits = data[start:end]
        if not digits.isdigit() or not data.startswith(self._after, end):
            return None
        body = data[end + len(self._after) :]
        return (digits, body) if len(body) == int(digits) else None


def template(data: bytes, start: bytes, names: list[bytes]) -> Template | None:
    """The template of the head that `data` begins with, which has these headers and a first line that begins so.

    None for a head whose next one could mean something else: a header stands twice, or a coding gives the length.
    """
    if b"transfer-encoding" in names or len(set(names)) < len(names) or not data.startswith(start):
        return None
    raw = data[: data.find(b"\r\n\r\n") + 4]
    found = _LENGTH.search(raw)
    if found is None or not raw.count(b"\r\n") == raw.count(b"\n") == len(names) + 2:
        return None
    return Template(raw[: found.start(1)], raw[found.end(1) :])


def relengthed(headers: list[tuple[bytes, bytes]], digits: bytes) -> list[tuple[bytes, bytes]]:
    """The same headers with another Content-Length."""
    return [(name, digits) if name == b"content-length" else (name, value) for name, value in headers]
