"""The paths that are answered straight from the protocol: chats, what is relayed, and whether we are well.

The rest waits in `serve.api.app`, which is loaded when it is first asked for: a plain proxy starts without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

import msgspec

from serve.api.health import asker, readiness
from serve.chat.handle import Line, relaying, run, speaking
from serve.chat.service import Service
from serve.dialects import anthropic_messages, openai, openai_chat, openai_completions, openai_responses
from serve.dialects.dialect import Dialect
from serve.http.call import Call, Shape
from serve.http.protocol import Lines

# The wire APIs that requests for an answer may come in, each at its own path.
DIALECTS: tuple[Dialect, ...] = (openai_chat, openai_completions, openai_responses, anthropic_messages)
# What an engine may be asked through us beside chat: generation and utilities, nothing that administers it.
RELAYED = (
    "/v1/embeddings", "/v1/moderations", "/v1/rerank", "/v1/score",
    "/v1/audio/speech", "/v1/audio/transcriptions", "/v1/audio/translations",
    "/v1/images/generations", "/v1/images/edits", "/v1/images/variations",
)  # fmt: skip
HEALTH = {"/healthz": "The process is alive", "/readyz": "Every engine answers, every index is open; 503 until then"}

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def lines(service: Callable[[], Service], dialects: Sequence[Dialect] = DIALECTS) -> Lines:
    """By method and path. `service` gives the current one, so that a reload reaches the next request."""

    def travel(line: Line, shape: Shape) -> Callable[[Call], Awaitable[None]]:
        def answer(call: Call) -> Awaitable[None]:
            call.shape = shape
            return run(service(), call, line)

        return answer

    async def alive(call: Call) -> None:
        call.reply(200, b'{"status":"ok"}')

    async def ready(call: Call) -> None:
        body, well = readiness(service(), asker(service(), call.header(b"authorization")))
        call.reply(200 if well else 503, msgspec.json.encode(body))

    def head(line: Callable[[Call], Awaitable[None]]) -> Callable[[Call], Awaitable[None]]:
        """The same without the body."""

        def bare(call: Call) -> Awaitable[None]:
            call.bodiless = True
            return line(call)

        return bare

    posts = dict.fromkeys(RELAYED, travel(relaying(dialects), openai))
    posts |= {dialect.path: travel(speaking(dialect, dialects), dialect) for dialect in dialects}
    return {("POST", path): line for path, line in posts.items()} | {
        ("GET", "/healthz"): alive,
        ("GET", "/readyz"): ready,
        ("HEAD", "/healthz"): head(alive),
        ("HEAD", "/readyz"): head(ready),
    }


class Application:
    """The ASGI application of all other paths, loaded beside the event loop when the first request for one comes."""

    def __init__(self, service: Callable[[], Service]) -> None:
        self._service = service
        self._loading = asyncio.Lock()
        self._app: Any = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if self._app is None:
            async with self._loading:
                self._app = self._app or await asyncio.to_thread(self._load)
        await self._app(scope, receive, send)

    def _load(self) -> Any:
        from serve.api.app import build

        return build(self._service)
