"""A request that the ASGI application answers: its scope, `receive` and `send` on a connection of ours."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import httptools

from serve.errors import ApiError
from serve.http.body import Headers
from serve.http.exchange import Exchange, Wire
from serve.http.head import BODILESS, CHUNKED, CLOSE, JSON, head, lines
from serve.http.shape import Shape

if TYPE_CHECKING:
    from serve.http.request import RequestHead
    from serve.http.site import App, Message

log = logging.getLogger("trimtab.asgi")


class Cycle(Exchange):
    """One run of the application."""

    def __init__(self, wire: Wire, app: App, scope: Message, head: RequestHead, shape: Shape) -> None:
        """`shape`: of an error where the application has a bug."""
        super().__init__(wire, head)
        self._app, self._scope, self._granted, self._shape = app, scope, head.granted, shape
        self._bodiless = scope["method"] == "HEAD"
        self._chunked = self._given = False  # the body's end has been given to the application
        self._left: int | None = None  # bytes that Content-Length has still to come

    async def run(self) -> None:
        """Answer. A bug becomes a 500, and an answer that was begun and not ended a connection that breaks."""
        try:
            await self._app(self._scope, self.receive, self.send)
        except Exception:
            log.exception("%s", self._scope["path"])
            if not self.started and not self.disconnected:
                await self._fail()
        if not self.ended:
            self.break_off()

    async def receive(self) -> Message:
        """The next piece of the body; "http.disconnect" once the client has left or has its answer."""
        self.send_continue()
        while not (self.body or self.disconnected or self.ended or (not self.more_body and not self._given)):
            self._wire.resume_reading()
            await self.wait_for_change()
        if self.disconnected or self.ended:
            return {"type": "http.disconnect"}
        piece, self.body = bytes(self.body), b""
        self._given = not self.more_body
        return {"type": "http.request", "body": piece, "more_body": self.more_body}

    async def send(self, message: Message) -> None:
        """Write the head of the answer or a piece of its body, once the client has taken enough of what went before.

        Raises:
            RuntimeError: the message has no place here, or the body is not as long as its Content-Length says.
        """
        if not await self._wire.drain() or self.disconnected:
            return
        kind = message["type"]
        if self.ended or kind != ("http.response.body" if self.started else "http.response.start"):
            raise RuntimeError(f"{kind} has no place here in an answer")
        if kind == "http.response.start":
            self._out(self._head(message["status"], message.get("headers", ())))
        else:
            self._body(message.get("body", b""), more=message.get("more_body", False))

    def _head(self, status: int, headers: Headers) -> bytes:
        pairs = [(name.lower(), value) for name, value in headers if name.lower() != CHUNKED[0]]
        for name, value in pairs:
            if name == b"content-length":
                self._left = int(value)
            elif name == CLOSE[0] and value.lower() == CLOSE[1]:
                self.keep_alive = False
        pairs = [*(pair for pair in pairs if pair[0] != CLOSE[0]), *self._granted]
        if self._bodiless or status in BODILESS:
            self._bodiless = True
        elif self._left is None and not self._old:
            self._chunked = True
            pairs.append(CHUNKED)
        if not self.keep_alive:
            pairs.append(CLOSE)
        top = head(status, lines(pairs))
        self.started, self._expect = True, False
        return top

    def _body(self, piece: bytes, *, more: bool) -> None:
        if self._bodiless:
            piece = b""
        elif self._left is not None:
            self._left -= len(piece)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("the body is not as long as its Content-Length says")
        elif self._chunked:
            piece = (b"%x\r\n%s\r\n" % (len(piece), piece) if piece else b"") + (b"" if more else b"0\r\n\r\n")
        if more:
            self._out(piece)
        else:
            self.finish(piece)
            self._wake()

    async def _fail(self) -> None:
        error = ApiError("an internal error; the server's log has it", code="internal_error")
        body = self._shape.error(error)
        pairs = [JSON, (b"content-length", b"%d" % len(body))]
        await self.send({"type": "http.response.start", "status": error.status, "headers": pairs})
        await self.send({"type": "http.response.body", "body": body})


def scope(head: RequestHead, url: bytes, transport: asyncio.Transport) -> Message:
    """A request as ASGI has it. `url` is its target as it came."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": head.version,
        "method": head.method.decode("ascii"),
        "scheme": "http" if transport.get_extra_info("sslcontext") is None else "https",
        "path": head.path,
        "raw_path": httptools.parse_url(url).path or b"",
        "query_string": head.query,
        "root_path": "",
        "headers": head.headers,
        "client": _address(transport.get_extra_info("peername")),
        "server": _address(transport.get_extra_info("sockname")),
        "state": {},
    }


def _address(name: object) -> tuple[str, int] | None:
    """Host and port; None for a socket that has none."""
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) else None
