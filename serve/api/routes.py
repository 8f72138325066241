"""The paths that are answered straight from the protocol: chats, what is relayed, and whether we are well.

The rest waits in `serve.api.app`, which is loaded when it is first asked for: a plain proxy starts without it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from serve.api.readiness import asker, readiness
from serve.chat.count import counts
from serve.chat.elsewhere import relaying
from serve.chat.handle import run, speaking
from serve.chat.lines import Line
from serve.chat.service import Service
from serve.chat.state import ASKED, BELOW, kept
from serve.dialects import anthropic_messages, openai, openai_chat, openai_completions, openai_responses
from serve.dialects.dialect import Dialect
from serve.http.call import Call
from serve.http.shape import Shape
from serve.http.site import Lines


class Paths(NamedTuple):
    """The paths that go past FastAPI."""

    dialects: Sequence[Dialect]
    counters: Mapping[str, Dialect]  # by the path that counts the tokens of its requests
    kept: Mapping[tuple[str, str], str]  # (method, path) of what an engine keeps, and what it does
    relayed: Sequence[str]
    health: Mapping[str, str]


# The wire APIs that requests for an answer may come in, each at its own path.
DIALECTS: tuple[Dialect, ...] = (openai_chat, openai_completions, openai_responses, anthropic_messages)
# What an engine may be asked through us beside chat: generation and utilities, nothing that administers it.
RELAYED = (
    "/v1/embeddings", "/v1/moderations", "/v1/rerank", "/v1/score",
    "/v1/audio/speech", "/v1/audio/transcriptions", "/v1/audio/translations",
    "/v1/images/generations", "/v1/images/edits", "/v1/images/variations",
)  # fmt: skip
# Where a request's tokens are counted without an answer, and what writes their number.
COUNTERS: tuple[tuple[Dialect, str, Callable[[int], bytes]], ...] = (
    (openai_responses, "/v1/responses/input_tokens", openai_responses.counted),
    (anthropic_messages, "/v1/messages/count_tokens", anthropic_messages.counted),
)
KEPT = {
    ("GET", "/v1/responses/{ident}"): "A response that the engine keeps",
    ("DELETE", "/v1/responses/{ident}"): "Delete a response that the engine keeps",
    ("GET", "/v1/responses/{ident}/input_items"): "The input items of a response that the engine keeps",
    ("POST", "/v1/responses/{ident}/cancel"): "Cancel a response that the engine makes in the background",
}
HEALTH = {"/healthz": "The process is alive", "/readyz": "Every engine answers, every index is open; 503 until then"}
PATHS = Paths(DIALECTS, {path: it for it, path, _ in COUNTERS}, KEPT, RELAYED, HEALTH)


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
    posts |= {path: travel(counts(dialect, path, write, dialects), dialect) for dialect, path, write in COUNTERS}
    state = {(method, BELOW): travel(kept(method), openai) for method in ASKED}
    return (
        state
        | {("POST", path): line for path, line in posts.items()}
        | {
            ("GET", "/healthz"): alive,
            ("GET", "/readyz"): ready,
            ("HEAD", "/healthz"): head(alive),
            ("HEAD", "/readyz"): head(ready),
        }
    )
