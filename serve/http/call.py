"""One HTTP call on the hot path: its body in, bounded; its answer out; and word of it when the client leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from serve.errors import ApiError
from serve.http.body import BOM, Headers, Room, check, expanded, header, media, too_large
from serve.http.exchange import Exchange, Wire
from serve.http.head import BODILESS, CHUNKS, CLOSES, JSON, Pairs, head, lines
from serve.http.pace import PIECE
from serve.http.recognition import relengthed
from serve.http.shape import PLAIN, Shape
from serve.limits.turns import Turn
from serve.observe.tracing import RequestSpan

if TYPE_CHECKING:
    from serve.http.request import RequestHead

log = logging.getLogger("trimtab.call")

_JSON = Pairs([JSON])


class ClientGone(Exception):
    """The client has left; there is nobody to answer."""


class Pulse(Protocol):
    """What beats while an answer is awaited."""

    def stop(self) -> None:
        """Beat no more."""


class Call(Exchange):
    """A request and its answer, straight on the protocol.

    ASGI between the two would cost as much as all the rest: a message for each half of an answer, a task that waits
    for the client to leave, the middlewares of a framework whose machinery a relayed chat does not use.

    `events` says whether the answer is a stream of events (so an error can be its last one).
    """

    events = bodiless = limited = (
        False  # HEAD: an answer has no body; `extra` has rate headers, the engine's are not ours
    )
    status = 0
    shape: Shape = PLAIN  # of errors
    extra: Callable[[int], bytes] | None = None  # the lines of our headers, by the status of the answer that begins
    span: RequestSpan | None = None  # where requests are traced
    turn: Turn | None = None  # a large body's
    grown: Callable[[int], None] | None = None  # told how long a body is that is longer than its head says
    heard: Callable[[bytes], None] | None = None  # told of each piece of the answer's body
    pulse: Pulse | None = None  # sends comments while a stream is silent
    passed: Callable[[], bytes] = bytes  # the end of what was last passed on of a stream
    _chunked = _left = False
    _task: asyncio.Task[object] | None = None  # to be cancelled when the client leaves

    def __init__(
        self, wire: Wire, line: Callable[[Call], Awaitable[None]], head: RequestHead, digits: bytes = b""
    ) -> None:
        """`line` answers it. `digits`: its Content-Length, where `head` is another request's with the same head."""
        super().__init__(wire, head)
        self.line, self.path, self.query = line, head.path, head.query
        self.granted, self.memo = head.granted, head.memo
        self._top, self._digits = head, digits

    def leave(self) -> None:
        """The client has left: wake the reader, and cancel the block that runs while it stays."""
        super().leave()
        if self._task is not None:
            self._task.cancel()
            self._task, self._left = None, True

    async def run(self) -> None:
        """Answer. A bug becomes a 500, and an answer that was begun and not ended a connection that breaks."""
        try:
            await self.line(self)
        except Exception:
            log.exception("%s", self.path)
            self.extra = None
            if not self.started:
                self.fail(ApiError("an internal error; the server's log has it", code="internal_error"))
        if not self.ended:
            self.break_off()

    # -- what came

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """As they came, their names in lower case."""
        return relengthed(self._top.headers, self._digits) if self._digits else self._top.headers

    @property
    def named(self) -> Mapping[bytes, bytes]:
        """The first header of each name."""
        named = self._top.named
        return {**named, b"content-length": self._digits} if self._digits else named

    def has(self, name: bytes) -> bool:
        """Whether there is a header of that (lower-case) name."""
        return name in self._top.named

    def header(self, name: bytes) -> str | None:
        """The first header of that (lower-case) name."""
        value = self._digits if self._digits and name == b"content-length" else self._top.named.get(name)
        return None if value is None else value.decode("latin-1")

    @property
    def method(self) -> str:
        """As it came: GET, POST…"""
        return self._top.method.decode("ascii")

    @property
    def media(self) -> str:
        """The body's media type, in lower case; "" without one."""
        return media(self.headers)

    @property
    def length(self) -> int | None:
        """The body's length in bytes, as its headers say; None where they say nothing."""
        value = self.header(b"content-length")
        return int(value) if value is not None and value.isdigit() else None if self.more_body else len(self.body)

    async def read(self, limit: int, *, json: bool = True, room: Room | None = None) -> bytes:
        """The whole body, of at most `limit` bytes; `json` says that it must be declared as JSON. One that becomes
        large without its coding waits for `room`.

        Raises:
            UnsupportedMedia: its coding is unknown, or it is no JSON. TooLarge: it is longer. TooSlow: it does not
            come. BadRequest: its coding is damaged. ClientGone: it stops half-way.
        """
        # Nearly every body is here already: JSON behind a head in which no header stands twice.
        known = self._top.plain and not self.more_body and len(self.body) <= limit
        coded = "" if known else check(self.headers, limit, json=json)
        pieces: list[bytes] = []  # not list[bytes](), inside which an exception is raised and swallowed
        size = len(self.body)
        while self.more_body and not self.disconnected and size <= limit:
            self.send_continue()
            if len(self.body) > PIECE:
                pieces.append(bytes(self.body))
                self.body = b""
            if pieces:
                await self._wire.pace.turn()
            self._wire.resume_reading()
            await self.wait_for_body()
            size = sum(map(len, pieces)) + len(self.body) if pieces else len(self.body)
            if self.grown is not None and not self.has(b"content-length"):
                self.grown(size)
        if self.disconnected:
            raise ClientGone
        if size > limit:
            raise too_large(limit)
        whole, self.body = bytes(self.body), b""
        if pieces:  # joined beside the event loop, without the interpreter's lock
            whole = await asyncio.to_thread(b"".join, [*pieces, whole])
        if coded:
            whole = await expanded(coded, whole, limit, room)
            if self.grown is not None:
                self.grown(len(whole))
        return whole.removeprefix(BOM) if json else whole

    def end_turn(self) -> None:
        """The work on a large body is done, if there is one: the next may have its turn."""
        if self.turn is not None:
            self.turn.end()
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
        """Send the status and the headers, unless a heartbeat has done that."""
        if self.started:
            return
        if events:
            headers = (headers if isinstance(headers, Pairs) else Pairs(headers)).unbuffered
        self.hold(self._head(status, headers))
        self.events = events

    def feed(self, chunk: bytes) -> bool:
        """Send a piece of the body, at once; False where the client is behind, and `drained` is to be waited for."""
        if chunk:
            if self.heard is not None:
                self.heard(chunk)
            if self._chunked:
                chunk = b"%x\r\n%s\r\n" % (len(chunk), chunk)
            if self._held:
                self._out(chunk)
            elif not self.disconnected:
                self._wire.transport.write(chunk)
        return not self._wire.full

    async def write(self, chunk: bytes) -> None:
        """The same, with the wait."""
        if not self.feed(chunk):
            await self.drained()

    async def drained(self) -> None:
        """Wait until the client has taken enough to be sent more. Raises ClientGone where it takes nothing at all."""
        if not await self._wire.drain():
            raise ClientGone

    def end(self, chunk: bytes = b"") -> None:
        """Send the last piece of the body."""
        if chunk and self.heard is not None:
            self.heard(chunk)
        if self._chunked:
            chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(chunk), chunk) if chunk else b"0\r\n\r\n"
        self.finish(chunk)

    def reply(self, status: int, body: bytes, headers: Headers = _JSON) -> None:
        """Send a whole answer; where a heartbeat has begun a stream, as its last event."""
        if self.started:
            return self.end(b"".join([b"data: %s\n" % line for line in body.splitlines()]) + b"\n")
        top = self._head(status, headers, len(body))
        bare = self.bodiless or status in BODILESS
        if self.heard is not None and not bare:
            self.heard(body)
        self.finish(top if bare else top + body)

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
            headers = (headers if isinstance(headers, Pairs) else Pairs(headers)).unrated
        text = headers.lines if isinstance(headers, Pairs) else lines(tuple(headers))
        if self.extra is not None:
            text += self.extra(status)  # noqa: S610  no Django
        if self.granted:
            text += lines(self.granted)
        if status in BODILESS:
            pass
        elif length is not None:
            text += b"content-length: %d\r\n" % length
        elif not self._old and header(headers, b"content-length") is None:
            self._chunked = True
            text += CHUNKS
        if not self.keep_alive:
            text += CLOSES
        top = head(status, text)
        self.started, self.status = True, status
        return top
