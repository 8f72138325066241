"""The head of an engine's response, what is made of it, and how the next one like it is recognised."""

from __future__ import annotations

from functools import cached_property, lru_cache

from serve.http.head import EVENTS, JSON, Pairs
from serve.http.headers import response_headers
from serve.http.recognition import Template, template

_OF_BODIES = (b"content-type", b"content-encoding", b"content-language", b"cache-control", b"etag")


@lru_cache(256)
def _kind(value: bytes) -> str:
    """The media type that a Content-Type names."""
    return value.decode("latin-1").partition(";")[0].strip().lower()


class ResponseHead:
    """Status and headers, their names in lower case; `coded` says that the body has a content coding."""

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.status, self.headers = status, headers

    @cached_property
    def names(self) -> frozenset[bytes]:
        """The headers' names."""
        return frozenset([name for name, _ in self.headers])

    @cached_property
    def coded(self) -> bool:
        """Whether the body has a content coding."""
        return b"content-encoding" in self.names

    @cached_property
    def media(self) -> str:
        """The media type of what can be read as it is; "" for a coded body."""
        kind = ""
        for name, value in self.headers:
            if name == b"content-type":
                kind = _kind(value)
            elif name == b"content-encoding" and value.lower() != b"identity":
                return ""
        return kind

    @cached_property
    def passed(self) -> Pairs:
        """Those that go on to the client, without Content-Length. Not to be changed: other responses share them."""
        return Pairs(response_headers(self.headers))

    @cached_property
    def beside(self) -> Pairs:
        """Of these, those that say nothing of the body, which is written anew. Not to be changed either."""
        return Pairs(pair for pair in self.passed if pair[0] not in _OF_BODIES)

    @cached_property
    def anew(self) -> Pairs:
        """The same before a body that is written anew in JSON."""
        return Pairs((JSON, *self.beside))

    @cached_property
    def events(self) -> Pairs:
        """The same before a stream of events that is written anew."""
        return Pairs((*EVENTS, *self.beside))


_heads: dict[bytes, ResponseHead] = {}  # by their bytes; the second half of them is the latest
_HEADS, _LONGEST = 64, 2048


def shared(data: bytes, status: int, headers: list[tuple[bytes, bytes]]) -> ResponseHead:
    """A head that has been read from the beginning of `data`, for all responses of late that have the same one.

    What is made of it is made once. A stream's head differs from the next one's in its date at most.
    """
    end = data.find(b"\r\n\r\n", 0, _LONGEST)
    if end < 0:
        return ResponseHead(status, headers)
    raw = data[:end]
    if raw.count(b"\r\n") != len(headers) or not raw.startswith(b"HTTP/1.1 %d" % status):
        return ResponseHead(status, headers)  # a folded header, or one behind a 100
    head = _heads.get(raw)
    if head is None:
        if len(_heads) >= _HEADS:
            for old in list(_heads)[: _HEADS // 2]:
                del _heads[old]
        head = _heads[raw] = ResponseHead(status, headers)
    return head


class Known:
    """A head that has been read, for responses that have the same one; they share it, without its Content-Length."""

    __slots__ = ("_head", "_template")

    def __init__(self, head: ResponseHead, form: Template) -> None:
        left = [pair for pair in head.headers if pair[0] != b"content-length"]
        self._head, self._template = ResponseHead(head.status, left), form

    def read(self, data: bytes) -> tuple[ResponseHead, bytes] | None:
        """Head and body of a response, where `data` is one with this head."""
        found = self._template.match(data)
        return None if found is None else (self._head, found[1])


def recognisable(head: ResponseHead, data: bytes) -> Known | None:
    """The head that `data` begins with as one to recognise; None if it is no ordinary answer in JSON."""
    if head.status != 200 or head.media != "application/json":
        return None
    form = template(data, b"HTTP/1.1 200", [name for name, _ in head.headers])
    return None if form is None else Known(head, form)
