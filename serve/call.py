"""One HTTP call: its body in, bounded; its answer out; and word of it when the client leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

from serve.errors import ApiError, TooLarge, TooSlow, UnsupportedMedia

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")
EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
_STUCK_S = 120.0  # a client that takes nothing for so long has left, and only the network does not know yet
_BODY_S = 60.0  # a client that sends nothing of its body for so long holds a connection for nothing


class ClientGone(Exception):
    """The client has left; there is nobody to answer."""


class Call:
    """ASGI's scope, receive and send, as the request path uses them.

    `started` says whether the answer's headers are out (so an error can no longer choose a status), `ended` whether
    all of it is, `events` whether it is a stream of events (so an error can be its last one).
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self._receive, self._send = scope, receive, send
        self.started = self.ended = self.events = False
        self.status = 0
        self._writing = 0.0  # since when the piece being sent has been on its way; 0.0: none is
        self.extra: list[tuple[bytes, bytes]] = []  # headers of ours that every answer to this call carries

    @property
    def path(self) -> str:
        return str(self.scope["path"])

    def header(self, name: bytes) -> str | None:
        """The first header of that (lower-case) name."""
        for key, value in self.scope["headers"]:
            if key == name:
                return str(value.decode("latin-1"))
        return None

    @property
    def media(self) -> str:
        """The body's media type without its parameters; JSON where the client names none."""
        return (self.header(b"content-type") or "application/json").partition(";")[0].strip().lower()

    async def body(self, limit: int) -> bytes:
        """The whole body, of at most `limit` bytes.

        Raises:
            UnsupportedMedia: it is compressed. TooLarge: it is longer. TooSlow: it does not come.
            ClientGone: it stops half-way.
        """
        if (self.header(b"content-encoding") or "identity").lower() != "identity":
            raise UnsupportedMedia("send the body uncompressed", code="content_encoding")
        length = self.header(b"content-length")
        if length is not None and length.isdigit() and int(length) > limit:
            raise TooLarge(f"the body is larger than {limit} bytes", code="body_too_large")
        parts, size = [], 0
        while True:
            try:
                async with asyncio.timeout(_BODY_S):
                    message = await self._receive()
            except TimeoutError:
                raise TooSlow(f"nothing of the body came for {_BODY_S:g} s", code="body_timeout") from None
            if message["type"] == "http.disconnect":
                raise ClientGone
            part = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise TooLarge(f"the body is larger than {limit} bytes", code="body_too_large")
            parts.append(part)
            if not message.get("more_body"):
                return b"".join(parts) if len(parts) > 1 else bytes(part)

    async def json_body(self, limit: int) -> bytes:
        """As `body`, for a call that must be JSON."""
        if self.media != "application/json":
            raise UnsupportedMedia(f"content-type must be application/json, not {self.media}", code="content_type")
        return await self.body(limit)

    @asynccontextmanager
    async def while_client_stays(self) -> AsyncIterator[None]:
        """Cancel the block, wherever it waits, as soon as the client leaves; `ClientGone` comes out of it.

        Only after the body has been read: it takes what else the connection says. A cancellation that is not ours,
        the server's at its end, passes through.
        """
        task = asyncio.current_task()
        assert task is not None
        gone = left = False

        async def watch() -> None:
            nonlocal gone
            while not await self._has_left():
                pass
            if not self.ended and not left:
                gone = True
                task.cancel()

        watcher = asyncio.create_task(watch())
        try:
            yield
        except asyncio.CancelledError:
            if not gone or task.uncancel():
                raise
            raise ClientGone from None
        finally:
            left = True
            watcher.cancel()

    async def _has_left(self) -> bool:
        """Hear what the connection says next, or look at the clock when it says nothing."""
        try:
            async with asyncio.timeout(_STUCK_S / 4):
                return bool((await self._receive())["type"] == "http.disconnect")
        except TimeoutError:
            return self._writing > 0 and time.monotonic() - self._writing > _STUCK_S

    async def start(self, status: int, headers: Headers, *, events: bool = False) -> None:
        """Send the status and the headers."""
        self.started, self.status, self.events = True, status, events
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *self.extra]})

    async def write(self, chunk: bytes) -> None:
        """Send a piece of the body, at once."""
        if chunk:
            self._writing = time.monotonic()
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
            self._writing = 0.0

    async def end(self, chunk: bytes = b"") -> None:
        """Send the last piece of the body."""
        self.ended = True
        await self._send({"type": "http.response.body", "body": chunk, "more_body": False})

    async def reply(self, status: int, body: bytes, headers: Headers = (JSON,)) -> None:
        """Send a whole answer."""
        await self.start(status, [*headers, (b"content-length", b"%d" % len(body))])
        await self.end(body)

    async def fail(self, error: ApiError) -> None:
        """Send an error: as the answer, or, where a stream of events has begun, as its last one.

        Any other answer that has begun stays unfinished: the server then closes the connection inside it, which no
        client takes for its end.
        """
        if not self.started:
            await self.reply(error.status, error.json(), (JSON, *error.headers))
        elif self.events and not self.ended:
            await self.end(error.event())
