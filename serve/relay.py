"""The one seam to an engine's HTTP: send a request, stream what comes back, abort.

    UpstreamError      what went wrong, in words that a client may read; `cause` is for the log
    ├── Refused        no connection: nobody listens, the name does not resolve, TLS fails
    ├── TimedOut       no connection in `connect_s`, or not a byte for `timeout_s`
    ├── Died           the connection broke after it began, or what came over it was not HTTP
    └── Oversized      the body is longer than the caller allows

Nothing is buffered, decompressed, redirected or remembered (no cookies, no proxies from the environment). Whoever
gives up on a response, by `abort` or by cancelling the task that waits for it, closes the engine's connection at
once, since that is what makes an engine stop generating.
"""

from __future__ import annotations

import asyncio
import io
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import ClassVar, cast
from weakref import WeakKeyDictionary

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDictProxy
from yarl import URL

STALE_S = 1.0  # a pooled connection that the engine had closed shows it within a round trip
LARGE = 2**20  # aiohttp sends bytes in one go, and warns from here on; a file it sends piece by piece
READ = 2**16  # pause reading when so much waits for a slow client (aiohttp's own figure is four times that)


class UpstreamError(Exception):
    """The engine did not answer as it should. `str()` names no address and no path."""

    message: ClassVar[str]

    def __init__(self, cause: BaseException | None = None, message: str = "") -> None:
        super().__init__(message or self.message)
        self.cause = cause


class Refused(UpstreamError):
    message = "The engine cannot be reached."


class TimedOut(UpstreamError):
    message = "The engine sent nothing for too long."


class Died(UpstreamError):
    message = "The connection to the engine broke before its answer was complete."


class Oversized(UpstreamError):
    message = "The engine's answer is larger than this server accepts."


# What a request can end in. aiohttp's errors, what its parser lets through, timeouts and the sockets' own.
FAILURES = (aiohttp.ClientError, HttpProcessingError, OSError)
_UNREACHED = (
    aiohttp.ClientConnectorError, aiohttp.ServerFingerprintMismatch, aiohttp.InvalidURL,
    aiohttp.NonHttpUrlClientError, aiohttp.RedirectClientError, ConnectionRefusedError, ssl.SSLCertVerificationError,
)  # fmt: skip
_GONE = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientConnectionResetError)


def upstream_error(error: BaseException) -> UpstreamError:
    """Any of FAILURES as one of ours."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return TimedOut(error, "The engine could not be reached in time.")
    if isinstance(error, TimeoutError):
        return TimedOut(error)
    if isinstance(error, _UNREACHED):
        return Refused(error)
    if isinstance(error, aiohttp.ClientResponseError | HttpProcessingError):
        return Died(error, "The engine's answer is not valid HTTP.")
    return Died(error)


def unreached(error: UpstreamError) -> bool:
    """Whether no connection came about, so that not a byte of the request can have arrived."""
    return isinstance(error, Refused) or isinstance(error.cause, aiohttp.ConnectionTimeoutError)


class _Stale(Exception):
    """A pooled connection turned out to be closed: nothing was received, so the request can be sent once more."""


class _Line:
    """What aiohttp does not say of a connection: that it served before, whose body it carries, how it closed.

    After a malformed chunk aiohttp closes the connection and leaves the body's reader waiting for ever, timeouts
    included. Here the closed connection ends that wait.
    """

    known: ClassVar[WeakKeyDictionary[ResponseHandler, _Line]] = WeakKeyDictionary()

    def __init__(self, wire: ResponseHandler) -> None:
        self.reset = False
        self._content: aiohttp.StreamReader | None = None
        self._closed = wire.closed
        if self._closed is not None:
            self._closed.add_done_callback(self._end)

    def carry(self, content: aiohttp.StreamReader) -> None:
        self._content = content
        if self._closed is None or self._closed.done():
            self._end(self._closed)

    def _end(self, closed: asyncio.Future[None] | None) -> None:
        self.reset = closed is not None and not closed.cancelled() and closed.exception() is not None
        content, self._content = self._content, None  # it refers to the wire, our weak key
        if content is not None and not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError("the connection closed inside the body"))


class _Response(aiohttp.ClientResponse):
    """aiohttp's response, which also knows its connection's past and cuts it off when its start fails."""

    line: _Line

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        transport, wire = connection.transport, connection.protocol
        assert wire is not None
        reused, began = wire in _Line.known, time.monotonic()
        if not reused:
            _Line.known[wire] = _Line(wire)
        self.line = _Line.known[wire]
        try:
            await super().start(connection)
        except BaseException as error:
            if transport is not None:
                transport.abort()  # close() would first wait for an engine that does not read our body
            heard = isinstance(error, aiohttp.ServerDisconnectedError) and not isinstance(error.message, str)
            if reused and not heard and isinstance(error, _GONE) and time.monotonic() - began < STALE_S:
                raise _Stale from error
            raise
        self.line.carry(self.content)
        return self


class Upstream:
    """One response, from the moment its headers are in. Read it to its end, or `abort` it."""

    def __init__(self, response: _Response) -> None:
        self._response = response
        self.status: int = response.status
        self.headers: CIMultiDictProxy[str] = response.headers
        self.raw_headers: tuple[tuple[bytes, bytes], ...] = response.raw_headers
        # Told once, when nothing more is read of it; whether that is because the connection broke.
        self.on_over: Callable[[bool], None] | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes off the socket; what has come since the last chunk is one chunk.

        Raises an UpstreamError where the body breaks off, after all that came before.
        """
        content = self._response.content
        while True:
            try:
                chunk = await content.readany()
            except asyncio.CancelledError:
                self.abort()
                raise
            except FAILURES as error:
                # aiohttp raises before it gives out what it has; without the exception it gives that too.
                content.set_exception(cast(BaseException, None))
                rest = content.read_nowait()
                self._over(broke=True)
                self.abort()
                if rest:
                    yield rest
                raise upstream_error(error) from error
            if not chunk:
                break
            yield chunk
        self._check_end()
        self._over(broke=False)

    async def read(self, limit: int) -> bytes:
        """The whole body, of at most `limit` bytes."""
        parts, size = [], 0
        async for chunk in self.chunks():
            size += len(chunk)
            if size > limit:
                self.abort()
                raise Oversized
            parts.append(chunk)
        return b"".join(parts)

    def abort(self) -> None:
        """Close the connection now, whatever it still carries. Does nothing after the body's end."""
        self._over(broke=False)
        connection = self._response.connection
        if connection is not None and connection.transport is not None:
            connection.transport.abort()
        self._response.close()

    async def done(self, within_s: float = 1.0) -> None:
        """Let go of a response whose content is over but perhaps not its body.

        What still comes is thrown away, so that the connection can serve again; if its end does not come, it is
        closed.
        """
        try:
            async with asyncio.timeout(within_s):
                await self.read(READ)
        except (UpstreamError, TimeoutError):
            self.abort()

    def _check_end(self) -> None:
        """A body that lasts until the connection closes: aiohttp takes even a reset for its end."""
        if "content-length" in self.headers or "transfer-encoding" in self.headers:
            return
        if self._response.line.reset:
            self._over(broke=True)
            raise Died

    def _over(self, *, broke: bool) -> None:
        told, self.on_over = self.on_over, None
        if told is not None:
            told(broke)


class Relay:
    """The client of one worker process: a pool of connections. Make it inside the running loop."""

    def __init__(self, *, connect_s: float, timeout_s: float, limit: int = 0) -> None:
        """`limit` bounds the connections to all engines together; 0 does not."""
        self._patience = connect_s + timeout_s  # for an engine that stops reading our body
        self._timeout = aiohttp.ClientTimeout(total=None, connect=connect_s, sock_read=timeout_s)
        self._pooled = self._session(aiohttp.TCPConnector(limit=limit))
        self._fresh = self._session(aiohttp.TCPConnector(limit=limit, force_close=True))

    def _session(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            response_class=_Response,
            headers={"Accept-Encoding": "identity"},
            skip_auto_headers=("Accept", "Content-Type", "User-Agent"),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=READ,
        )

    async def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Upstream:
        """Send a request and return when the response's headers are in. Raises an UpstreamError.

        A request that met a pooled connection which the engine had closed is sent once more, over a new one.
        """
        target = URL(url, encoded=True)
        try:
            async with asyncio.timeout(self._patience):
                try:
                    return await self._send(self._pooled, method, target, headers, body)
                except _Stale:
                    return await self._send(self._fresh, method, target, headers, body)
        except FAILURES as error:
            raise upstream_error(error) from error

    @staticmethod
    async def _send(
        session: aiohttp.ClientSession, method: str, url: URL, headers: Mapping[str, str], body: bytes | None
    ) -> Upstream:
        data = io.BytesIO(body) if body is not None and len(body) > LARGE else body
        response = await session.request(method, url, headers=headers, data=data, allow_redirects=False)
        return Upstream(cast(_Response, response))

    async def close(self) -> None:
        await self._pooled.close()
        await self._fresh.close()
