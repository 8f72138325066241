"""The ASGI application, loaded late: a worker that relays chats never imports it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from serve.chat.service import Service

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Application:
    """The ASGI application of all other paths, loaded beside the event loop when the first request for one comes."""

    def __init__(self, service: Callable[[], Service]) -> None:
        self._service = service
        self._loading = asyncio.Lock()
        self._app: Any = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request by ASGI, once the application is loaded."""
        if self._app is None:
            async with self._loading:
                self._app = self._app or await asyncio.to_thread(self._load)
        await self._app(scope, receive, send)

    def _load(self) -> Any:
        from serve.api.app import build

        return build(self._service)
