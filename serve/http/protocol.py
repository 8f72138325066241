"""uvicorn's HTTP protocol, with bounds that it lacks, and a straight way for the hot paths.

A request for one of `lines` becomes a `Call`; everything else takes uvicorn's way to the ASGI application.
"""

from __future__ import annotations

import asyncio
import sys
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serve.errors import ApiError, BadRequest
from serve.http.call import Call
from serve.http.gate import Gate
from serve.http.shape import PLAIN, Shape

Lines = Mapping[tuple[str, str], Callable[[Call], Awaitable[None]]]
_OFFER = (b"upgrade", b"connection", b"http2-settings")
_HEAD_S = 30.0  # for a request's head to be complete
_LINGER_S = 10.0  # for a client that is still sending to take the answer that it gets instead
_HEAD_BYTES = 2**17  # of a request that are not its body; a chunked body's frame gets as much again as its bytes allow


class Protocol(HttpToolsProtocol):
    """One client's connection."""

    _outside = _inside = 0
    _left = 0  # of an answer, unsent, when the connection was to be closed
    _data = b""  # what is being read
    _begun = False  # a head that is not complete
    _late: asyncio.TimerHandle | None = None
    _ahead: Sequence[Any] = ()  # requests before the last one, where some came pipelined

    def __init__(
        self,
        lines: Lines,
        shape: Shape = PLAIN,
        gate: Callable[[], Gate] | None = None,
        **settings: Any,
    ) -> None:
        """`lines` by method and path; `shape` is that of an error where there is no line to say it.

        The `gate` of now sees every request's head first, whatever its path, and says what browsers are told.
        """
        super().__init__(**settings)
        self._lines, self._shape, self._gate = lines, shape, gate

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give the client a bounded time for its first head."""
        super().connection_made(transport)
        self._late = self.loop.call_later(_HEAD_S, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell every request that is under way that its client has left."""
        self._in_time()
        for cycle in self._ahead:  # uvicorn tells the last one only
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        """Parse, and bound what is no body."""
        self._outside += len(data)
        self._data = data
        super().data_received(data)
        self._data = b""
        if self._late is None and (self.cycle is None or self.cycle.response_complete):
            if self._begun:  # most heads come in one piece, and need no clock
                self._late = self.loop.call_later(_HEAD_S, self.transport.close)
            elif self.timeout_keep_alive_task is None and self.cycle is not None:
                # What came begins no request, and has stopped the clock all the same.
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )
        # Sixteen bytes around each of the body's are more than the smallest chunks need.
        if self._outside > _HEAD_BYTES + 16 * self._inside and not self.transport.is_closing():
            self.send_400_response("The request's head is too large.")

    def on_message_begin(self) -> None:
        """Count anew for the next request."""
        self._outside = self._inside = 0
        self._begun = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Judge the head, and begin a call or an ASGI cycle."""
        self._in_time()
        if self.parser.should_upgrade():
            return  # and again, without the offer
        path, query = _split(self.url)
        method = self.parser.get_method()
        line = self._lines.get((method.decode("ascii"), path)) or self._below(method.decode("ascii"), path)
        granted: Sequence[tuple[bytes, bytes]] = ()
        if self._gate is not None:
            gate = self._gate()
            if (error := gate.refusal(method, self.headers)) is not None:
                line = _refusing(error, bodiless=method == b"HEAD")
            elif gate.cors.origins:
                granted, preflight = gate.cors.grant(method, self.headers)
                line = _preflight if preflight else line
        before = self.cycle
        waits = before is not None and not before.response_complete  # pipelined
        if waits:
            self._ahead = [*(cycle for cycle in self._ahead if not cycle.response_complete), before]
        if line is None:
            super().on_headers_complete()
            if granted:
                self.cycle.default_headers = [*self.cycle.default_headers, *granted]
            if self.expect_100_continue:  # refused, it may send its body or its next request
                self.cycle.keep_alive = False
        else:
            old = self.parser.get_http_version() < "1.1"
            keep = not old and self.parser.should_keep_alive()
            call: Any = Call(self, path, query, self.headers, keep=keep, expect=self.expect_100_continue, old=old)
            call.shape = self._shape
            if granted:
                call.granted = granted
            self.cycle = call
            app: Any = line
            if waits:
                self.flow.pause_reading()
                self.pipeline.appendleft((call, app))
            else:
                self._start_asgi_task(call, app)
        self.headers = []  # for trailers, which are nobody's: as headers they could say what was decided without them

    def _below(self, method: str, path: str) -> Callable[[Call], Awaitable[None]] | None:
        """The line of a path below /v1/NAME/ that has none itself: that of "/v1/NAME/*"."""
        return self._lines.get((method, path[: path.find("/", 4) + 1] + "*")) if path.startswith("/v1/") else None

    def on_message_complete(self) -> None:
        """The body is whole, unless what follows is to be read again."""
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
        self._data = b"%s%s\r\n%s" % (line, head, rest)
        super().data_received(self._data)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, after the answers that are still due, and hear no more on this connection."""
        if isinstance(self.parser, _Deaf):
            return
        self.parser = _Deaf()  # type: ignore[assignment]
        self._in_time()
        error, refusal = BadRequest(msg, code="invalid_http"), Call(self, "", b"", (), keep=False, expect=False)
        refusal.more_body, refusal.shape = False, self._shape
        last: Any = self.cycle
        self.cycle = refusal  # type: ignore[assignment]
        if last is None or (last.response_complete and not last.more_body):
            return refusal.fail(error)
        if last.response_complete:  # what is broken is the rest of a body that has its answer
            return self.transport.close()
        self._ahead = [*self._ahead, last]
        if last.more_body:  # then it is its body that is broken
            if self.pipeline and self.pipeline[0][0] is last:
                self.pipeline.popleft()
            elif last.response_started:
                return self.transport.close()
            else:
                last.disconnected = True
                last.message_event.set()
                return refusal.fail(error)

        async def refuse(call: Call) -> None:
            call.fail(error)

        self.pipeline.appendleft((refusal, refuse))  # type: ignore[arg-type]

    def hang_up(self, *, unread: bool) -> None:
        """Close; where a body is `unread` only later, since a reset would take the answer from who still sends it."""
        if not unread:
            return self.timeout_keep_alive_handler()
        self.parser = _Deaf()  # type: ignore[assignment]
        if self.transport.can_write_eof():  # TLS cannot be closed by halves
            self.transport.write_eof()
        self._in_time()
        self._late = self.loop.call_later(_LINGER_S, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """Close, once all is written. A client that takes nothing of it for so long has left, or holds it for ever."""
        before, self._left = self._left, self.transport.get_write_buffer_size()
        if self._left and self._left == before:
            return self.transport.abort()
        self.transport.close()
        if self._left:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_body(self, body: bytes) -> None:
        """Count a piece of the body, and pass it on."""
        self._outside -= len(body)
        self._inside += len(body)
        super().on_body(body)

    def _in_time(self) -> None:
        self._begun = False
        if self._late is not None:
            self._late.cancel()
            self._late = None


def _refusing(error: ApiError, *, bodiless: bool) -> Callable[[Call], Awaitable[None]]:
    async def line(call: Call) -> None:
        call.bodiless = bodiless
        call.fail(error)

    return line


async def _preflight(call: Call) -> None:
    call.reply(204, b"", ())


class _Deaf:
    """Parser stub that discards all further input."""

    def feed_data(self, data: bytes) -> None:
        """Discard `data`."""


def _split(url: bytes) -> tuple[str, bytes]:
    """Path and query of a request's target."""
    parsed = httptools.parse_url(url)
    path = (parsed.path or b"").decode("ascii")
    return urllib.parse.unquote(path) if "%" in path else path, parsed.query or b""
