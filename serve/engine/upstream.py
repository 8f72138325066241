"""What comes back from an engine: one response as it arrives, and the errors it can end in.

UpstreamError      what went wrong, in words that a client may read; `cause` is for the log
├── Refused        no connection: nobody listens, the name does not resolve, TLS fails
├── TimedOut       no connection in `connect_s`, or not a byte for `timeout_s`
├── Died           the connection broke after it began, or what came over it was not HTTP
└── Oversized      the body is longer than the caller allows
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cached_property
from types import TracebackType
from typing import ClassVar

from serve.engine.connection import READ, Connection, Malformed
from serve.engine.response_head import ResponseHead
from serve.http.coding import CODINGS, Decoder, Spoilt, coding
from serve.http.head import Pairs


class UpstreamError(Exception):
    """The engine did not answer as it should. `str()` names no address and no path."""

    message: ClassVar[str]

    def __init__(self, cause: BaseException | None = None, message: str = "") -> None:
        super().__init__(message or self.message)
        self.cause = cause


class Refused(UpstreamError):
    """No connection: the request was not sent."""

    message = "The engine cannot be reached."


class TimedOut(UpstreamError):
    """No byte came for `timeout_s`; the request may have been worked on."""

    message = "The engine sent nothing for too long."


class Died(UpstreamError):
    """The connection broke inside the answer."""

    message = "The connection to the engine broke before its answer was complete."


class Oversized(UpstreamError):
    """The answer, or its head, is longer than the limit."""

    message = "The engine's answer is larger than this server accepts."


class Unconnected(TimeoutError):
    """No connection came about in time."""


_OF_THE_CODED = (b"content-encoding", b"content-length")
# What a request can end in: timeouts and TLS are among the sockets' own.
FAILURES = (OSError, Malformed)


def upstream_error(error: BaseException) -> UpstreamError:
    """Any of FAILURES as one of ours."""
    if isinstance(error, Unconnected):
        return TimedOut(error, "The engine could not be reached in time.")
    if isinstance(error, TimeoutError):
        return TimedOut(error)
    if isinstance(error, ConnectionRefusedError | ssl.SSLCertVerificationError | socket.gaierror):
        return Refused(error)
    if isinstance(error, Malformed):
        return Died(error, "The engine's answer is not valid HTTP.")
    return Died(error)


def unreached(error: UpstreamError) -> bool:
    """Whether no connection came about, so that not a byte of the request can have arrived."""
    return isinstance(error, Refused) or isinstance(error.cause, Unconnected)


class Upstream:
    """One response, from the moment its headers are in. Read it to its end, or `abort` it."""

    status = 0
    _head: ResponseHead

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._parts: list[bytes] = []
        self._size = 0
        self._ended = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._take: Callable[[bytes], bool] | None = None
        self._decoder: Decoder | None = None
        # Told once, when nothing more is read of it; whether that is because the connection broke.
        self.on_over: Callable[[bool], None] | None = None

    @cached_property
    def headers(self) -> dict[str, str]:
        """By name in lower case; of several the last."""
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in self._head.headers}

    @property
    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        """As they came, their names in lower case; perhaps without Content-Length."""
        return self._head.headers

    @property
    def passed(self) -> Pairs:
        """Those that go on to the client, without Content-Length. Not to be changed: other responses share them."""
        return self._head.passed

    @property
    def beside(self) -> Pairs:
        """Of these, those that say nothing of the body, which is written anew. Not to be changed either."""
        return self._head.beside

    @property
    def anew(self) -> Pairs:
        """The same before a body that is written anew in JSON."""
        return self._head.anew

    @property
    def events(self) -> Pairs:
        """The same before a stream of events that is written anew."""
        return self._head.events

    @property
    def coded(self) -> bool:
        """Whether the body has a content coding."""
        return self._head.coded

    @property
    def media(self) -> str:
        """The media type of what can be read as it is; "" for a coded body."""
        return self._head.media

    @property
    def streams(self) -> bool:
        """Whether the answer is a stream of events."""
        return self.status == 200 and self.media == "text/event-stream"

    def __enter__(self) -> Upstream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Whatever ends the block early, the client's leaving above all, cuts the engine off."""
        if kind is not None:
            self.abort()

    def decode(self) -> None:
        """Take a coding that we know off the body from here on: engines, or what stands before them, compress it though
        they are asked not to."""
        for name, value in self.raw_headers:
            if name == b"content-encoding" and (coded := coding(value.decode("latin-1"))) in CODINGS:
                self._decoder = Decoder(coded)
                left = [pair for pair in self.raw_headers if pair[0] not in _OF_THE_CODED]
                self._head = ResponseHead(self.status, left)
                self.__dict__.pop("headers", None)
                parts, self._parts, self._size = self._parts, [], 0
                for part in parts:
                    self.piece(part)
                if self._ended:
                    self.end(self._error)
                return

    # -- what the connection tells

    def head(self, head: ResponseHead) -> None:
        """Take status and headers."""
        self.status, self._head = head.status, head
        self._wake()

    def piece(self, data: bytes) -> None:
        """Take a piece of the body, decoded if it is compressed."""
        if self._decoder is not None:
            try:
                data = b"".join(self._decoder.feed(data))
            except Spoilt as error:
                return self._spoil(Malformed(f"its coding: {error}"))
            if not data:
                return
        if self._take is not None and not self._parts:
            if not self._take(data):
                self._take = None  # it is behind: from here on the task goes on
                self._connection.pause()
                self._wake()
            return
        self._parts.append(data)
        self._size += len(data)
        if self._size > READ:
            self._connection.pause()
        self._wake()

    def _spoil(self, error: Malformed) -> None:
        self._decoder = None
        if self._ended:
            self._error = error
        else:
            self._connection.abort(error)

    def end(self, error: Exception | None) -> None:
        """The answer is whole, or ended with an error."""
        if error is None and self._decoder is not None and not self._decoder.complete:
            error = Malformed("its coded body ends early")
        self._ended, self._error = True, error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        except asyncio.CancelledError:
            self.abort()
            raise
        finally:
            self._waiter = None

    # -- reading it

    async def headed(self) -> None:
        """Wait for the status and the headers. Raises one of FAILURES."""
        while not self.status:
            if self._ended:
                assert self._error is not None
                raise self._error
            await self._wait()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes off the socket; what has come since the last chunk is one chunk.

        Raises an UpstreamError where the body breaks off, after all that came before.
        """
        while True:
            if self._parts:
                chunk = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
                self._parts, self._size = [], 0
                if not self._ended:
                    self._connection.resume()
                yield chunk
            elif self._ended:
                break
            else:
                await self._wait()
        self._check()

    async def pump(self, take: Callable[[bytes], bool], ready: Callable[[], Awaitable[None]]) -> None:
        """Give the body to `take`, chunk by chunk, in the very callback that brings it: no task is woken for it.

        Where `take` returns False it is full; reading then rests until `ready` returns. Raises as `chunks` does.
        """
        while not self._ended or self._parts:
            if self._parts:
                chunk = b"".join(self._parts)
                self._parts, self._size = [], 0
                full = not take(chunk)
            else:
                self._take = take
                await self._wait()
                full, self._take = self._take is None, None
            if full:
                await ready()
            if not self._ended:
                self._connection.resume()
        self._check()

    async def read(self, limit: int) -> bytes:
        """The whole body, of at most `limit` bytes."""
        while not self._ended and self._size <= limit:
            if self._size > READ:
                self._connection.resume()
            await self._wait()
        if self._size > limit:
            self.abort()
            raise Oversized
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts, self._size = [], 0
        self._check()
        return body

    def put_back(self, body: bytes) -> None:
        """Make a body that has been read whole the next thing to read."""
        self._parts, self._size = [body], len(body)

    def abort(self) -> None:
        """Close the connection now, whatever it still carries. Does nothing after the body's end."""
        self._over(broke=False)
        if not self._ended:
            self._connection.abort()

    async def done(self, within_s: float = 1.0) -> None:
        """Let go of a response whose content is over but perhaps not its body.

        What still comes is thrown away, so that the connection can serve again; if its end does not come, it is
        closed.
        """
        if self._ended and self._error is None:
            return self._over(broke=False)
        try:
            async with asyncio.timeout(within_s):
                await self.read(READ)
        except (UpstreamError, TimeoutError):
            self.abort()

    def _check(self) -> None:
        """At the end: was it one?"""
        self._over(broke=self._error is not None)
        if self._error is not None:
            raise upstream_error(self._error) from self._error

    def _over(self, *, broke: bool) -> None:
        told, self.on_over = self.on_over, None
        if told is not None:
            told(broke)
