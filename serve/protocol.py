"""uvicorn's HTTP protocol, with bounds that it lacks, and a straight way for the hot paths.

A request for one of `lines` becomes a `Call`; everything else takes uvicorn's way to the ASGI application.
"""

from __future__ import annotations

import asyncio
import sys
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serve.call import Call

Lines = Mapping[tuple[str, str], Callable[[Call], Awaitable[None]]]
_OFFER = (b"upgrade", b"connection", b"http2-settings")
_HEAD_S = 30.0  # for a request's head to be complete
_HEAD_BYTES = 2**17  # of a request that are not its body; a chunked body's frame gets as much again as its bytes allow


class Protocol(HttpToolsProtocol):
    """One client's connection."""

    _outside = _inside = 0
    _data = b""  # what is being read
    _begun = False  # a head that is not complete
    _late: asyncio.TimerHandle | None = None

    def __init__(self, lines: Lines, **settings: Any) -> None:
        super().__init__(**settings)
        self._lines = lines

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._late = self.loop.call_later(_HEAD_S, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._outside += len(data)
        self._data = data
        super().data_received(data)
        self._data = b""
        if self._begun and self._late is None:  # most heads come in one piece, and need no clock
            self._late = self.loop.call_later(_HEAD_S, self.transport.close)
        # Sixteen bytes around each of the body's are more than the smallest chunks need.
        if self._outside > _HEAD_BYTES + 16 * self._inside and not self.transport.is_closing():
            self.send_400_response("The request's head is too large.")

    def on_message_begin(self) -> None:
        self._outside = self._inside = 0
        self._begun = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_time()
        if self.parser.should_upgrade():
            return  # and again, without the offer
        path, query = _split(self.url)
        line = self._lines.get((self.parser.get_method().decode("ascii"), path))
        if line is None:
            return super().on_headers_complete()
        before = self.cycle
        keep = self.parser.should_keep_alive() and self.parser.get_http_version() != "1.0"
        call: Any = Call(self, path, query, self.headers, keep=keep, expect=self.expect_100_continue)
        self.cycle = call
        app: Any = line
        if before is None or before.response_complete:
            self._start_asgi_task(call, app)
        else:  # pipelined: it waits for its turn
            self.flow.pause_reading()
            self.pipeline.appendleft((call, app))

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _unsupported_upgrade_warning(self) -> None:
        """Read a request again without its offer of another protocol, which is declined by answering (RFC 9110, 7.8).

        Java's client offers HTTP/2 with each first request, and llhttp takes the body for that protocol's.
        """
        error = sys.exc_info()[1]
        assert isinstance(error, httptools.HttpParserUpgrade)
        rest, headers = self._data[error.args[0] :], [pair for pair in self.headers if pair[0] not in _OFFER]
        if len(headers) == len(self.headers):  # CONNECT
            return self.send_400_response("This is no tunnel.")
        head = b"".join(b"%s: %s\r\n" % pair for pair in headers)
        line = b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        self.parser = httptools.HttpRequestParser(self)
        super().data_received(b"%s%s\r\n%s" % (line, head, rest))

    def on_body(self, body: bytes) -> None:
        self._outside -= len(body)
        self._inside += len(body)
        super().on_body(body)

    def _in_time(self) -> None:
        self._begun = False
        if self._late is not None:
            self._late.cancel()
            self._late = None


def _split(url: bytes) -> tuple[str, bytes]:
    """Path and query of a request's target."""
    parsed = httptools.parse_url(url)
    path = (parsed.path or b"").decode("ascii")
    return urllib.parse.unquote(path) if "%" in path else path, parsed.query or b""
