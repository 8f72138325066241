"""What all connections of a server have in common: what is answered, and how, and which of them are open."""

from __future__ import annotations

import asyncio
import urllib.parse
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

import httptools

from serve.http.burst import Turns
from serve.http.call import Call
from serve.http.gate import Gate
from serve.http.pace import Pace
from serve.http.shape import PLAIN, Shape

if TYPE_CHECKING:
    from serve.http.protocol import Protocol
    from serve.http.request import Known

_HEADS = 16  # a program that opens a connection for each request sends the same head over all of them
Line = Callable[[Call], Awaitable[None]]
Lines = Mapping[tuple[str, str], Line]
Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


async def nothing(scope: Message, receive: object, send: Callable[[Message], Awaitable[None]]) -> None:
    """An ASGI application without paths: 404."""
    await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


class Site:
    """The lines by method and path, the ASGI application of all other paths, and who is connected.

    The `gate` of now sees every request's head first, whatever its path, and says what browsers are told. `shape` is
    that of an error where no line says it. `keep_alive_s`: how long a connection may be idle between requests; `once`
    that it closes after the first. `pace`: one that others of this event loop share, if any do. `hand_over`, where it
    is set, hands the socket of a request with a large body, and what has been read of it, to another process, or
    returns False.
    """

    hand_over: Callable[[int, bytes], bool] | None = None

    def __init__(
        self,
        lines: Lines,
        app: App = nothing,
        *,
        shape: Shape = PLAIN,
        gate: Callable[[], Gate] | None = None,
        keep_alive_s: float = 75.0,
        once: bool = False,
        pace: Pace | None = None,
    ) -> None:
        self.lines, self.app, self.shape, self.gate, self.keep_alive_s = lines, app, shape, gate, keep_alive_s
        self.once = once
        self.pace = pace or Pace()
        self.connections: set[Protocol] = set()
        self.tasks: set[asyncio.Task[None]] = set()  # of connections; one may outlive its connection by what it ends
        self.turns = Turns()
        self.heads: deque[Known] = deque(maxlen=_HEADS)  # of late, for connections that have had none
        self._exact = {(method.encode(), path.encode()): (line, path) for (method, path), line in lines.items()}

    def remember(self, known: Known) -> None:
        """Keep a head for new connections, in the place of the same one."""
        same = next((head for head in self.heads if head.same(known)), None)
        if same is not None:
            self.heads.remove(same)
        self.heads.appendleft(known)

    def find(self, method: bytes, target: bytes) -> tuple[Line | None, str, bytes]:
        """The line of a request, or None, and its path and query.

        Raises:
            httptools.HttpParserInvalidURLError: the target is no URL.
        """
        known = self._exact.get((method, target))
        if known is not None:
            return *known, b""
        parsed = httptools.parse_url(target)
        raw = (parsed.path or b"").decode("ascii")
        path, named = urllib.parse.unquote(raw) if "%" in raw else raw, method.decode("ascii")
        line = self.lines.get((named, path))
        if line is None and path.startswith("/v1/"):  # a path below /v1/NAME/ has the line of "/v1/NAME/*"
            line = self.lines.get((named, path[: path.find("/", 4) + 1] + "*"))
        return line, path, parsed.query or b""
