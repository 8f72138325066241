"""The headers of a request to an engine, and their lines, which are written once for many requests."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property


class Written(dict[str, str]):
    """Headers that do not change any more."""

    @cached_property
    def lines(self) -> bytes:
        """As they go over the wire. Raises ValueError for a header that would end the head."""
        return written(self)


def written(headers: Mapping[str, str]) -> bytes:
    """The lines of headers. Raises ValueError for a header that would end the head."""
    text = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if text.count("\n") != len(headers) or text.count("\r") != len(headers) or "\0" in text:
        raise ValueError("a header holds a line's end")
    return text.encode("latin-1")
