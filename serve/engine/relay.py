"""The one seam to an engine's HTTP: send a request, stream what comes back, abort.

Nothing is buffered, decompressed, redirected or remembered (no cookies). Engines on other machines are reached through
the proxy that the environment names for them, if it does. Whoever gives up on a response, by `abort` or by cancelling
the task that waits for it, closes the engine's connection at once, since that is what makes an engine stop generating.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Mapping
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from serve.engine.connection import Connection
from serve.engine.proxy import Proxies, ProxyRefused, address, authorization, environment, proxy, tunnel
from serve.engine.request_head import Written, written
from serve.engine.upstream import FAILURES, Refused, Unconnected, Upstream, upstream_error
from serve.http.pace import Pace

_LONG_URL = 512
STALE_S = 1.0  # a pooled connection that the engine had closed shows it within a round trip
_NEXT_ADDRESS_S = 0.25  # the wait before another address of a name is tried beside the first (RFC 8305)


class _Origin(NamedTuple):
    """What connections of one kind have in common."""

    scheme: str
    host: str
    port: int
    ca_file: str
    proxy: str  # its URL, "" for none
    tunnelled: bool  # through it; else the proxy is asked for the URL (http only)


class _Target(NamedTuple):
    """Where a URL leads: the key of its connections, and the request's line and first headers."""

    origin: _Origin
    line: bytes


def _target(proxies: Proxies, method: str, url: str, ca_file: str) -> _Target:
    """Raises ValueError for what is no URL of HTTP, and for a proxy that we do not speak to."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not an HTTP URL")
    host = parts.hostname if ":" in parts.hostname else parts.hostname.encode("idna").decode()
    port = parts.port or (443 if parts.scheme == "https" else 80)
    named = f"[{host}]" if ":" in host else host
    named += f":{parts.port}" if parts.port else ""
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not path.isascii() or any(c <= " " or c == "\x7f" for c in path):
        raise ValueError("the URL contains whitespace or non-ASCII characters")
    via = proxy(proxies, parts.scheme, host, port)
    asked = parts.scheme == "http" and urlsplit(via).scheme == "http"
    line = f"{method} {f'http://{named}' if asked else ''}{path} HTTP/1.1\r\nhost: {named}\r\n".encode("ascii")
    line += b"accept-encoding: identity\r\n" + (authorization(via) if asked else b"")
    return _Target(_Origin(parts.scheme, host, port, ca_file, via, bool(via) and not asked), line)


@cache
def _tls(ca_file: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_file:
        context.load_verify_locations(ca_file)
    return context


class Relay:
    """The client of one worker process: a pool of connections. Make it inside the running loop."""

    def __init__(
        self, *, connect_s: float, timeout_s: float, proxies: Proxies | None = None, pace: Pace | None = None
    ) -> None:
        """`proxies`: the environment's, unless others are given. `pace`: one that others of this event loop share."""
        self._connect_s, self._timeout_s, self._pace = connect_s, timeout_s, pace or Pace()
        self._target = partial(_target, environment() if proxies is None else proxies)
        self._known = lru_cache(1024)(self._target)
        self._idle: dict[_Origin, list[Connection]] = {}
        self._open: set[Connection] = set()
        self._closed = False

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        ca_file: str = "",
        waiting: set[Upstream] | None = None,
    ) -> Upstream:
        """Send a request and return when the response's headers are in. Raises an UpstreamError.

        Until then it is one of `waiting`, whose owner may abort it there. A request that met a pooled connection which
        the engine had closed is sent once more, over a new one; one that the engine took before it closed is not.
        """
        if self._closed:
            raise Refused(ConnectionAbortedError("the relay is closed"))
        try:
            # A client's query may be long, and no two the same: that is nothing to remember.
            target = (self._known if len(url) < _LONG_URL else self._target)(method, url, ca_file)
        except ValueError as error:  # UnicodeError too, for a name that is none
            raise Refused(error) from error
        head = _head(target.line, headers, body)
        try:
            if (connection := self._spare(target.origin)) is not None:
                began = asyncio.get_running_loop().time()
                upstream = Upstream(connection)
                connection.ask(head, body, upstream)
                try:
                    if waiting is None:
                        await upstream.headed()
                    else:
                        await _headed(upstream, waiting)
                    return upstream
                except ConnectionError:
                    late = asyncio.get_running_loop().time() - began >= STALE_S
                    if not connection.silent or connection.taken or late:
                        raise
            connection = await self._connect(target.origin)
            upstream = Upstream(connection)
            connection.ask(head, body, upstream)
            if waiting is None:
                await upstream.headed()
            else:
                await _headed(upstream, waiting)
            return upstream
        except FAILURES as error:
            raise upstream_error(error) from error

    def _spare(self, origin: _Origin) -> Connection | None:
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if not connection.closed:
                return connection
        return None

    async def _connect(self, origin: _Origin) -> Connection:
        """A new connection. Raises Refused, or Unconnected where it takes too long."""

        def spare(connection: Connection) -> None:
            self._idle.setdefault(origin, []).append(connection)

        def lost(connection: Connection) -> None:
            self._open.discard(connection)
            with contextlib.suppress(ValueError):
                self._idle.get(origin, []).remove(connection)

        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_s):
                where = await _reached(origin)
                if origin.scheme == "https":
                    where |= {"ssl": _tls(origin.ca_file), "server_hostname": origin.host}
                made = partial(Connection, self._timeout_s, spare, lost, self._pace)
                connection: Connection = (await loop.create_connection(made, **where))[1]
        except TimeoutError as error:
            raise Unconnected from error
        except ProxyRefused as error:
            raise Refused(error, f"The proxy does not connect to the engine: {error}.") from error
        except OSError as error:  # ssl.SSLError among them
            raise Refused(error) from error
        self._open.add(connection)
        if self._closed:  # meanwhile
            connection.abort()
        return connection

    async def close(self) -> None:
        """Abort what is under way. Nothing can be sent afterwards."""
        self._closed = True
        for connection in list(self._open):
            connection.abort()
        while self._open:  # noqa: ASYNC110  the event loop closes the sockets in its next turns
            await asyncio.sleep(0)
        self._idle.clear()


async def _headed(upstream: Upstream, waiting: set[Upstream]) -> None:
    waiting.add(upstream)
    try:
        await upstream.headed()
    finally:
        waiting.discard(upstream)


async def _reached(origin: _Origin) -> dict[str, Any]:
    """A socket, or an address, for `create_connection`."""
    if origin.tunnelled:
        return {"sock": await tunnel(origin.proxy, origin.host, origin.port)}
    host, port = origin.host, origin.port
    if origin.proxy:
        host, port = address(origin.proxy)
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return {"host": found[0][4][0], "port": port} if len(found) == 1 else {"sock": await _race(found)}


async def _race(found: list[Any]) -> socket.socket:
    """A socket connected to one of several addresses: a dead one must not cost the others their turn."""
    import aiohappyeyeballs

    return await aiohappyeyeballs.start_connection(found, happy_eyeballs_delay=_NEXT_ADDRESS_S, interleave=1)


def _head(line: bytes, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """The request's head. Raises Refused for a header that would end it."""
    try:
        lines = headers.lines if isinstance(headers, Written) else written(headers)
    except ValueError as error:
        raise Refused(error) from error
    length = b"" if body is None else b"content-length: %d\r\n" % len(body)
    return b"%s%s%s\r\n" % (line, lines, length)
