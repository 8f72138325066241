"""The head of a request: what llhttp has read of it, what answers it, and how the next one like it is recognised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import httptools

from serve.errors import ApiError
from serve.http.call import Call
from serve.http.gate import Gate
from serve.http.recognition import Template, template
from serve.http.site import Line, Site

Pairs = Sequence[tuple[bytes, bytes]]
_VERSIONS = ("1.1", "1.0")
_DIGITS = 19  # of a Content-Length: llhttp reads any number of zeros before them, `int` no more than 4300


class Unanswerable(Exception):
    """A head that llhttp takes and that a server must not answer (RFC 9112)."""


class RequestHead:
    """A head. `line` answers it, or the ASGI application where that is None; `named`: the first header of each name.

    `granted` are headers for the browser of a page of another origin. `keep` the connection after the answer; the
    client `expect`s a 100; it speaks HTTP/1.0, which is `old`. `plain`: the body is JSON without a coding, and no
    header stands twice. `memo` is for what others make of these headers: requests whose heads differ in their
    Content-Length only share it.
    """

    __slots__ = (
        "expect", "granted", "headers", "keep", "line", "memo", "method", "named", "old", "path", "plain",
        "query", "version",
    )  # fmt: skip

    def __init__(
        self,
        line: Line | None,
        path: str,
        query: bytes,
        headers: list[tuple[bytes, bytes]],
        named: Mapping[bytes, bytes],
        granted: Pairs,
    ) -> None:
        self.line, self.path, self.query = line, path, query
        self.headers, self.named, self.granted = headers, named, granted
        self.method, self.version = b"POST", "1.1"
        self.keep, self.expect, self.old = True, False, False
        once, coded = len(named) == len(headers), b"content-encoding" in named
        self.plain = once and not coded and named.get(b"content-type") == b"application/json"
        self.memo: dict[object, Any] = {}


def judged(
    site: Site, parser: httptools.HttpRequestParser, url: bytes, headers: list[tuple[bytes, bytes]]
) -> RequestHead:
    """The head that a parser has just read to its end.

    Raises:
        httptools.HttpParserInvalidURLError, UnicodeDecodeError: the target is no URL. Unanswerable: its version is
        neither 1.0 nor 1.1, it names no host or two, or its length has too many digits.
    """
    method, version, named = parser.get_method(), parser.get_http_version(), dict(reversed(headers))
    _check(version, headers, named)
    line, path, query = site.find(method, url)
    granted: Pairs = ()
    if site.gate is not None:
        line, granted = _passed(site.gate(), line, method, _addressed(headers, url), named)
    head = RequestHead(line, path, query, headers, named, granted)
    head.method, head.version = method, version
    head.old = head.version < "1.1"
    head.keep = not head.old and not site.once and parser.should_keep_alive()
    head.expect = b"expect" in named and named[b"expect"].lower() == b"100-continue"
    return head


def _check(version: str, headers: Pairs, named: Mapping[bytes, bytes]) -> None:
    if version not in _VERSIONS:
        raise Unanswerable(f"HTTP/{version} is not spoken here, but HTTP/1.1 and HTTP/1.0.")
    if b"host" not in named:
        if version == "1.1":
            raise Unanswerable("A request of HTTP/1.1 needs a Host header.")
    elif len(named) < len(headers) and [name for name, _ in headers].count(b"host") > 1:
        raise Unanswerable("The request has more than one Host header.")
    if len(named.get(b"content-length", b"")) > _DIGITS:
        raise Unanswerable("Content-Length has too many digits.")


def _addressed(headers: Pairs, url: bytes) -> Pairs:
    """The headers with all that names a host: a target may be a whole URL, whose host is what counts then (RFC 9112,
    3.2.2)."""
    if url.startswith(b"/") or not (parsed := httptools.parse_url(url)).host:
        return headers
    host = b"[%s]" % parsed.host if b":" in parsed.host else parsed.host
    return [*headers, (b"host", host if parsed.port is None else b"%s:%d" % (host, parsed.port))]


class Known:
    """A head that has been read and judged, for requests that have the same one while the gate that judged it holds."""

    __slots__ = ("_gate", "_head", "_template")

    def __init__(self, head: RequestHead, gate: Gate | None, form: Template) -> None:
        self._head, self._gate, self._template = head, gate, form

    def same(self, other: Known) -> bool:
        """Whether it is the same head, perhaps judged by another gate."""
        return self._template.same(other._template)

    def read(self, data: bytes, gate: Gate | None) -> tuple[RequestHead, bytes, bytes] | None:
        """The head, and the Content-Length and the body of a request that has the same one; None for any other."""
        found = self._template.match(data) if gate is self._gate else None
        return None if found is None else (self._head, *found)


def recognisable(head: RequestHead, gate: Gate | None, url: bytes, data: bytes) -> Known | None:
    """The head that `data` begins with as one to recognise; None if it is no ordinary request for a line of ours."""
    if head.line is None or not head.keep or head.expect or head.method != b"POST":
        return None
    form = template(data, b"POST %s HTTP/1.1\r\n" % url, [name for name, _ in head.headers])
    return None if form is None else Known(head, gate, form)


def _passed(
    gate: Gate, line: Line | None, method: bytes, headers: Pairs, named: Mapping[bytes, bytes]
) -> tuple[Line | None, Pairs]:
    """What answers a request, by its head, and the headers for the browser that sent it."""
    if not gate.knows(named, len(headers)) and (error := gate.refusal(method, headers)) is not None:
        return refusing(error, bodiless=method == b"HEAD"), ()
    if not gate.cors.origins:
        return line, ()
    granted, preflight = gate.cors.grant(method, headers)
    return (_preflight if preflight else line), granted


def refusing(error: ApiError, *, bodiless: bool = False) -> Line:
    """A line that refuses."""

    async def line(call: Call) -> None:
        call.bodiless = bodiless
        call.fail(error)

    return line


async def _preflight(call: Call) -> None:
    call.reply(204, b"", ())
