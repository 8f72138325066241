"""A client's connection: HTTP/1.1 read by llhttp (httptools), bounded in time and in size, answered in turn.

A request for one of the site's lines becomes a `Call`; every other goes to the ASGI application as a `Cycle`. One task
a connection answers its requests one after another: a task for each would cost more than reading the request does.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import cast

import httptools

from serve.errors import BadRequest
from serve.http.asgi import Cycle, scope
from serve.http.call import Call
from serve.http.clock import Clock
from serve.http.exchange import HIGH_WATER, Exchange
from serve.http.gate import Gate
from serve.http.recognition import LEARN
from serve.http.request import Known, RequestHead, judged, recognisable, refusing
from serve.http.site import Site

log = logging.getLogger("trimtab.http")

_OFFER = (b"upgrade", b"connection", b"http2-settings")
_HEAD_S = 30.0  # for a request's head to be complete
_LINGER_S = 10.0  # for a client that is still sending to take the answer that it gets instead
_HEAD_BYTES = 2**17  # of a request that are not its body; a chunked body's frame gets as much again as its bytes allow


class Protocol(asyncio.Protocol):
    """One client's connection.

    `due` are the exchanges whose answers are not complete, in the order of their requests: the first of them is being
    answered. `receiving` is the one whose body is still to come, though its answer may be complete.
    """

    transport: asyncio.Transport
    full = False

    def __init__(self, site: Site) -> None:
        self._site, self._loop = site, asyncio.get_running_loop()
        self.due: deque[Exchange] = deque()
        self.receiving: Exchange | None = None
        self.task: asyncio.Task[None] | None = None
        self._parked: asyncio.Future[None] | None = None  # the task waits for the next request
        self._writable: asyncio.Event | None = None
        self._parser: httptools.HttpRequestParser | _Deaf = httptools.HttpRequestParser(self)
        self.clock = Clock(self._loop)
        self._url, self._headers = b"", list[tuple[bytes, bytes]]()
        self._data = b""  # what is being read
        self._begun = self._last = self._paused = self._lost = False  # a head has begun; no request follows
        self._known: Known | None = None  # the head that nearly all its requests have
        self._learn, self._messages = LEARN, 0  # heads still to be remembered; requests that begin in `_data`
        self._outside = self._inside = 0  # bytes of the request now read, without and within its body

    # -- what the event loop says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Give the client a bounded time for its first head."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance
        self._site.connections.add(self)
        self.clock.wait(_HEAD_S, self.transport, heads=True)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request that is being answered that its client has left, and forget those behind it."""
        self._lost = True
        self.clock.stop()
        self._site.connections.discard(self)
        waiting, self.receiving, self._parser = list(self.due), None, _DEAF
        self.due.clear()
        for exchange in waiting:
            exchange.leave()
        self.resume_writing()
        self._unpark()

    def data_received(self, data: bytes) -> None:
        """Parse, and bound what is no body."""
        between = self.receiving is None and not self._begun and not self._last
        if self._known is not None and between and (known := self._known.read(data, self._gate())) is not None:
            self._learn = LEARN
            call = self._exchange(known[0])
            call.body, call.more_body = known[1], False
            self._queue(call)
        else:
            self._parse(data)
        if self.due:
            self.clock.pause()
            if self._parked is not None:
                self._unpark()
            elif self.task is None:
                self._start()
        elif self._begun and not self.clock.heads:  # most heads come in one piece, and need no clock
            self.clock.wait(_HEAD_S, self.transport, heads=True)

    def _parse(self, data: bytes) -> None:
        self._outside += len(data)
        self._data, self._messages = data, 0
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._without_offer(offer.args[0])
        except httptools.HttpParserError as error:
            self._malformed(error)
        self._data = b""
        # Sixteen bytes around each of the body's are more than the smallest chunks need.
        if self._outside > _HEAD_BYTES + 16 * self._inside and not self.transport.is_closing():
            self.refuse("The request's head is too large.")

    def pause_writing(self) -> None:
        """The client is behind."""
        self.full = True
        self._writable = self._writable or asyncio.Event()
        self._writable.clear()

    def resume_writing(self) -> None:
        """It has caught up, or has left."""
        self.full = False
        if self._writable is not None:
            self._writable.set()

    async def drain(self) -> None:
        """Wait until the client has taken enough to be sent more."""
        if self.full and self._writable is not None:
            await self._writable.wait()

    # -- answering

    def _start(self) -> None:
        self.task = self._loop.create_task(self._answer())
        self._site.tasks.add(self.task)
        self.task.add_done_callback(self._site.tasks.discard)

    async def _answer(self) -> None:
        """Answer one request after the other, until the connection is lost."""
        try:
            while not self._lost:
                if self.due:
                    exchange = self.due[0]
                    await exchange.run()
                    if not exchange.ended:
                        return  # it broke off, and the connection with it
                    del exchange  # an idle connection holds nothing of what it has answered
                else:
                    self._parked = self._loop.create_future()
                    await self._parked
        finally:
            self.task, self._parser = None, _DEAF
            self.due.clear()

    def _unpark(self) -> None:
        parked, self._parked = self._parked, None
        if parked is not None and not parked.done():
            parked.set_result(None)

    def answered(self, exchange: Exchange) -> None:
        """The answer has been written to its end: close the connection or go on to the next request."""
        if self.due and self.due[0] is exchange:
            self.due.popleft()
        if not exchange.keep_alive:
            self._hang_up(unread=exchange.more_body)
        if len(self.due) < 2 and not self.transport.is_closing():
            self.resume_reading()
            if exchange.keep_alive and not self.due:
                self.clock.wait(_HEAD_S if self._begun else self._site.keep_alive_s, self.transport, heads=self._begun)

    def _hang_up(self, *, unread: bool) -> None:
        """Close; where a body is `unread` only later, since a reset would take the answer from who still sends it."""
        self._parser = _DEAF
        self.due.clear()
        if not unread:
            return self.clock.close(self.transport, self._site.keep_alive_s)
        if self.transport.can_write_eof():  # TLS cannot be closed by halves
            self.transport.write_eof()
        self.clock.wait(_LINGER_S, self.transport)

    def shutdown(self) -> None:
        """The server stops: close, at once or after the answer that is due."""
        if self.due:
            self.due[-1].keep_alive = False
            self._last = True
        else:
            self.transport.close()

    def resume_reading(self) -> None:
        """Read on from the socket."""
        if self._paused:
            self._paused = False
            self.transport.resume_reading()

    def _pause_reading(self) -> None:
        if not self._paused:
            self._paused = True
            self.transport.pause_reading()

    # -- what the parser says

    def on_message_begin(self) -> None:
        """Count anew for the next request."""
        self._outside = self._inside = 0
        self._messages += 1
        self._begun, self._url, self._headers = True, b"", []

    def on_url(self, url: bytes) -> None:
        """A piece of the request's target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header. Trailers, which come after the body, are dropped: what they could say has been decided by then."""
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Judge the head, and begin a call or an ASGI cycle."""
        parser = self._parser
        self._begun = False
        if self._last or isinstance(parser, _Deaf) or parser.should_upgrade():
            return  # a request that nobody answers; or it comes again, without the offer
        headers, self._headers = self._headers, []
        head = judged(self._site, parser, self._url, headers)
        self._last = not head.keep
        if self._messages == 1 and self._learn and head.keep:
            self._learn -= 1
            self._known = recognisable(head, self._gate(), self._url, self._data) or self._known
        self.receiving = self._exchange(head)
        self._queue(self.receiving)

    def _exchange(self, head: RequestHead) -> Exchange:
        if head.line is not None:
            call = Call(self, head.line, head)
            call.shape = self._site.shape
            return call
        if head.expect:  # refused, it may send its body or its next request
            head.keep = False
        return Cycle(self, self._site.app, scope(head, self._url, self.transport), head, self._site.shape)

    def _queue(self, exchange: Exchange) -> None:
        self.due.append(exchange)
        if len(self.due) > 1:  # pipelined
            self._pause_reading()

    def _gate(self) -> Gate | None:
        return None if self._site.gate is None else self._site.gate()

    def on_body(self, body: bytes) -> None:
        """Count a piece of the body, and pass it on."""
        self._outside -= len(body)
        self._inside += len(body)
        if self.receiving is not None and not self.receiving.ended and self.receiving.take(body) > HIGH_WATER:
            self._pause_reading()

    def on_message_complete(self) -> None:
        """The body is whole, unless what follows is to be read again."""
        if self.receiving is not None:
            self.receiving.whole()
            self.receiving = None
            if len(self.due) < 2:
                self.resume_reading()  # to see the client leave

    # -- what is no request for us

    def _without_offer(self, at: int) -> None:
        """Read a request again without its offer of another protocol, which is declined by answering (RFC 9110, 7.8).

        Java's client offers HTTP/2 with each first request, and llhttp takes the body for that protocol's.
        """
        if isinstance(self._parser, _Deaf):
            return
        rest, headers = self._data[at:], [pair for pair in self._headers if pair[0] not in _OFFER]
        if len(headers) == len(self._headers):  # CONNECT
            return self.refuse("This is no tunnel.")
        head = b"".join(b"%s: %s\r\n" % pair for pair in headers)
        line = b"%s %s HTTP/%s\r\n" % (self._parser.get_method(), self._url, self._parser.get_http_version().encode())
        self._parser = httptools.HttpRequestParser(self)
        self._parse(b"%s%s\r\n%s" % (line, head, rest))

    def _malformed(self, error: httptools.HttpParserError) -> None:
        if self._last and self.receiving is None:
            self._parser = _DEAF  # what stands behind the last request is nobody's
            return
        cause = error.__context__
        if isinstance(error, httptools.HttpParserCallbackError) and not isinstance(cause, _UNREADABLE):
            log.error("a bug in reading a request", exc_info=error)
        self.refuse("Invalid HTTP request received.")

    def refuse(self, why: str) -> None:
        """Refuse what is no HTTP, after the answers that are still due, and hear no more on this connection."""
        if isinstance(self._parser, _Deaf):
            return
        self._parser, broken, self.receiving = _DEAF, self.receiving, None
        error = BadRequest(why, code="invalid_http")
        nothing = RequestHead(None, "", b"", [], {}, ())
        nothing.keep = False
        refusal = Call(self, refusing(error), nothing)
        refusal.more_body, refusal.shape = False, self._site.shape
        if broken is not None:  # what is no HTTP is the rest of its body
            if broken.started or broken.ended:
                return self.transport.close()
            self.due.remove(broken)
            broken.leave()
        if self.due:
            self.due.append(refusal)
        else:
            refusal.fail(error)


_UNREADABLE = (httptools.HttpParserError, UnicodeDecodeError)


class _Deaf:
    """Parser stub that discards all further input."""

    def feed_data(self, data: bytes) -> None:
        """Discard `data`."""


_DEAF = _Deaf()
