"""The ASGI application, loaded late: a worker that relays chats never imports it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from serve.chat.record import new_id
from serve.chat.service import Service
from serve.config import Server
from serve.observe import logs
from serve.observe.logs import sound_id

if TYPE_CHECKING:
    from serve.approval.desk import Desk

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Application:
    """The ASGI application of all other paths, loaded beside the event loop when the first request for one comes."""

    def __init__(self, service: Callable[[], Service], desk: Callable[[], Desk]) -> None:
        self._service, self._desk = service, desk
        self._loading = asyncio.Lock()
        self._app: Any = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request by ASGI, once the application is loaded."""
        if self._app is None:
            async with self._loading:
                self._app = self._app or await asyncio.to_thread(self._load)
        if scope["type"] == "http":
            send = _told(self._service().config.server, scope, send)
        await self._app(scope, receive, send)

    def _load(self) -> Any:
        from serve.api.app import build

        return build(self._service, self._desk)


def _told(server: Server, scope: Message, send: Send) -> Send:
    """`send`, which also returns the request's id, and logs the request where the server keeps an access log."""
    given = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"), None)
    ident, since = sound_id(given) or new_id(), time.monotonic()
    if server.log == "json":
        logs.request_id.set(ident)

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", ident.encode())]
            if server.access_log:
                ms = round((time.monotonic() - since) * 1000, 1)
                logs.access(scope["method"], scope["path"], message["status"], {"request_id": ident, "ms": ms})
        await send(message)

    return answer
