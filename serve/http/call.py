"""One HTTP call on the hot path: its body in, bounded; its answer out; and word of it when the client leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Protocol

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from serve.errors import ApiError
from serve.http.body import BODY_S, BOM, Headers, check, expanded, header, media, too_large, too_slow
from serve.http.headers import NOSNIFF
from serve.http.pace import PACE, PIECE
from serve.http.shape import PLAIN, Shape
from serve.observe.tracing import RequestSpan

log = logging.getLogger("trimtab.call")

JSON = (b"content-type", b"application/json")
EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
UNBUFFERED = (b"x-accel-buffering", b"no")
STUCK_S = 120.0  # a client that takes nothing for so long has left, and only the network does not know yet
_BODILESS = (204, 304)
_NOSNIFF = b"%s: %s\r\n" % NOSNIFF


class ClientGone(Exception):
    """The client has left; there is nobody to answer."""


class Wire(Protocol):
    """The client's connection, as far as a call needs it."""

    transport: asyncio.Transport
    flow: FlowControl

    def on_response_complete(self) -> None:
        """The next request may begin."""

    def hang_up(self, *, unread: bool) -> None:
        """Close, once the client has had time to take its answer."""


class Pulse(Protocol):
    """What beats while an answer is awaited."""

    def stop(self) -> None:
        """Beat no more."""


class Call:
    """A request and its answer, straight on uvicorn's protocol, which sees in it the cycle that it would make itself.

    ASGI between the two would cost as much as all the rest: a message for each half of an answer, a task that waits
    for the client to leave, the middlewares of a framework whose machinery a relayed chat does not use.

    `started` says whether the answer's headers are out (so an error can no longer choose a status), `ended` whether
    all of it is, `events` whether it is a stream of events (so an error can be its last one).
    """

    def __init__(
        self,
        wire: Wire,
        path: str,
        query: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        *,
        keep: bool,
        expect: bool,
        old: bool = False,
    ) -> None:
        """`keep` the connection afterwards; the client `expect`s a 100; it speaks HTTP/1.0, which is `old`."""
        self.path, self.query, self.headers = path, query, headers
        self.started = self.ended = self.events = False
        self.status = 0
        self.bodiless = False  # HEAD: an answer has no body
        self.shape: Shape = PLAIN  # of errors
        self.granted: Headers = ()  # headers for the browser of a page of another origin
        self.extra: Callable[[int], Headers] | None = None  # headers of ours, by the status of the answer that begins
        self.span: RequestSpan | None = None  # where requests are traced
        self.limited = False  # `extra` has rate headers; the engine's are of somebody else's limits
        self.turn: Callable[[], None] | None = None  # ends the turn of a large body
        self.grown: Callable[[int], None] | None = None  # told how long a body without a length is so far
        self.passed: Callable[[], bytes] = bytes  # the end of what was last passed on of a stream
        self.heard: Callable[[bytes], None] | None = None  # told of each piece of the answer's body
        self.pulse: Pulse | None = None  # sends comments while a stream is silent
        self._chunked = self._left = False
        self._waiter: asyncio.Future[None] | None = None
        self._task: asyncio.Task[object] | None = None  # to be cancelled when the client leaves
        self.named = dict(reversed(headers))  # the first header of each name
        self._wire, self._expect, self._old = wire, expect and not old, old
        # What uvicorn's protocol reads and writes of a cycle.
        self.body = bytearray()  # so far
        self.more_body, self.disconnected, self.keep_alive = True, False, keep

    # -- as uvicorn's protocol sees it

    @property
    def message_event(self) -> Call:
        """What uvicorn sets when there is news: this call."""
        return self  # whose `set` it calls; as an attribute it would be a cycle for the collector to find

    @property
    def response_started(self) -> bool:
        """Whether the head of the answer is out."""
        return self.started

    @property
    def response_complete(self) -> bool:
        """Whether all of the answer is out."""
        return self.ended

    def set(self) -> None:
        """Wake the reader: body data, end of body, or disconnect."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if self.disconnected and self._task is not None:
            self._task.cancel()
            self._task, self._left = None, True

    async def run_asgi(self, line: Callable[[Call], Awaitable[None]]) -> None:
        """Answer. A bug becomes a 500, and an answer that was begun and not ended a connection that breaks."""
        try:
            await line(self)
        except Exception:
            log.exception("%s", self.path)
            self.extra = None
            if not self.started:
                self.fail(ApiError("an internal error; the server's log has it", code="internal_error"))
        if not self.ended and not self.disconnected:
            if self.started and self._old:  # to which an orderly end would be the answer's
                self._wire.transport.abort()
            else:
                self._wire.transport.close()

    # -- what came

    def header(self, name: bytes) -> str | None:
        """The first header of that (lower-case) name."""
        value = self.named.get(name)
        return None if value is None else value.decode("latin-1")

    @property
    def media(self) -> str:
        """The body's media type, in lower case; "" without one."""
        return media(self.headers)

    @property
    def length(self) -> int | None:
        """The body's length in bytes, as its headers say; None where they say nothing."""
        value = self.header(b"content-length")
        return int(value) if value is not None and value.isdigit() else None if self.more_body else len(self.body)

    async def read(self, limit: int, *, json: bool = True) -> bytes:
        """The whole body, of at most `limit` bytes; `json` says that it must be declared as JSON.

        Raises:
            UnsupportedMedia: its coding is unknown, or it is no JSON. TooLarge: it is longer. TooSlow: it does not
            come. BadRequest: its coding is damaged. ClientGone: it stops half-way.
        """
        # Nearly every body: JSON of a known length, and no header stands twice.
        named, length = self.named, self.named.get(b"content-length", b"")
        plain = named.get(b"content-type") == JSON[1] and b"content-encoding" not in named
        known = plain and len(named) == len(self.headers) and length.isdigit() and int(length) <= limit
        coded = "" if known else check(self.headers, limit, json=json)
        pieces, size = list[bytes](), len(self.body)
        while self.more_body and not self.disconnected and size <= limit:
            if self._expect:
                self._expect = False
                self._wire.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            if len(self.body) > PIECE:
                pieces.append(bytes(self.body))
                self.body.clear()
            if pieces:
                await PACE.turn()
            self._wire.flow.resume_reading()
            await self._news()
            size = sum(map(len, pieces)) + len(self.body) if pieces else len(self.body)
            if self.grown is not None:
                self.grown(size)
        if self.disconnected:
            raise ClientGone
        if size > limit:
            raise too_large(limit)
        whole = bytes(self.body)
        self.body.clear()
        if pieces:  # joined beside the event loop, without the interpreter's lock
            whole = await asyncio.to_thread(b"".join, [*pieces, whole])
        if coded:
            whole = await expanded(coded, whole, limit)
        return whole.removeprefix(BOM) if json else whole

    async def _news(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(BODY_S):
                await self._waiter
        except TimeoutError:
            raise too_slow() from None
        finally:
            self._waiter = None

    def end_turn(self) -> None:
        """The work on a large body is done, if there is one: the next may have its turn."""
        if self.turn is not None:
            self.turn()
            self.turn = None

    def __enter__(self) -> Call:
        """While the client stays: the block is cancelled, wherever it waits, as soon as it leaves, and `ClientGone`
        comes out of it. A cancellation that is not ours, the server's at its end, passes through.

        Raises:
            ClientGone: it has left already.
        """
        if self.disconnected:
            raise ClientGone
        self._task = asyncio.current_task()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._task = None
        if self.pulse is not None:
            self.pulse.stop()
            self.pulse = None  # which knows us: it would be a cycle
        if kind is asyncio.CancelledError and self._left:
            task = asyncio.current_task()
            if task is not None and not task.uncancel():
                raise ClientGone from None

    # -- what goes out

    def start(self, status: int, headers: Headers, *, events: bool = False) -> None:
        """Send the status and the headers, unless a heartbeat has done that.

        A stream of events asks proxies such as nginx not to hold it back.
        """
        if self.started:
            return
        if events:
            headers = [*(pair for pair in headers if pair[0] != UNBUFFERED[0]), UNBUFFERED]
        self._write(self._head(status, headers))
        self.events = events

    def feed(self, chunk: bytes) -> bool:
        """Send a piece of the body, at once; False where the client is behind, and `drained` is to be waited for."""
        if chunk:
            if self.heard is not None:
                self.heard(chunk)
            self._write(b"%x\r\n%s\r\n" % (len(chunk), chunk) if self._chunked else chunk)
        return not self._wire.flow.write_paused

    async def write(self, chunk: bytes) -> None:
        """The same, with the wait."""
        if not self.feed(chunk):
            await self.drained()

    async def drained(self) -> None:
        """Wait until the client has taken enough to be sent more. Raises ClientGone where it takes nothing at all."""
        try:
            async with asyncio.timeout(STUCK_S):
                await self._wire.flow.drain()
        except TimeoutError:
            self._wire.transport.abort()
            raise ClientGone from None

    def end(self, chunk: bytes = b"") -> None:
        """Send the last piece of the body."""
        if chunk and self.heard is not None:
            self.heard(chunk)
        if self._chunked:
            chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(chunk), chunk) if chunk else b"0\r\n\r\n"
        self._end(chunk)

    def reply(self, status: int, body: bytes, headers: Headers = (JSON,)) -> None:
        """Send a whole answer; where a heartbeat has begun a stream, as its last event."""
        if self.started:
            return self.end(b"".join([b"data: %s\n" % line for line in body.splitlines()]) + b"\n")
        head = self._head(status, headers, len(body))
        bare = self.bodiless or status in _BODILESS
        if self.heard is not None and not bare:
            self.heard(body)
        self._end(head if bare else head + body)

    def fail(self, error: ApiError) -> None:
        """Send an error: as the answer, or, where a stream of events has begun, as its last one.

        Any other answer that has begun stays unfinished: the connection then closes inside it, which no client takes
        for its end.
        """
        if not self.started:
            self.reply(error.status, self.shape.error(error), (JSON, *error.headers))
        elif self.events and not self.ended:
            self.end(self.shape.error_event(error))

    def _head(self, status: int, headers: Headers, length: int | None = None) -> bytes:
        if self._expect and self.more_body:  # it may or may not send its body now
            self.keep_alive = False
        if self.limited:
            headers = [pair for pair in headers if not pair[0].startswith(b"x-ratelimit-")]
        pairs = [*headers, *self.extra(status)] if self.extra is not None else list(headers)  # noqa: S610  no Django
        if self.granted:
            pairs += self.granted
        if status in _BODILESS:
            pass
        elif length is not None:
            pairs.append((b"content-length", b"%d" % length))
        elif not self._old and header(pairs, b"content-length") is None:
            self._chunked = True
            pairs.append((b"transfer-encoding", b"chunked"))
        if not self.keep_alive:
            pairs.append((b"connection", b"close"))
        lines = b"".join([b"%s: %s\r\n" % pair for pair in pairs])
        if lines.count(b"\n") != len(pairs) or lines.count(b"\r") != len(pairs):
            raise ValueError("a header holds a line's end")
        head = b"%s%s%s\r\n" % (STATUS_LINE[status], lines, _NOSNIFF)
        self.started, self.status = True, status
        return head

    def _end(self, last: bytes) -> None:
        self._write(last)
        self.ended = True
        self.body.clear()  # the connection keeps its last call, perhaps for long
        if not self.disconnected:
            if not self.keep_alive:
                self._wire.hang_up(unread=self.more_body)
            self._wire.on_response_complete()

    def _write(self, data: bytes) -> None:
        if data and not self.disconnected:
            self._wire.transport.write(data)
