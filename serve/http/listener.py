"""Listens, and stops in an orderly way."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Coroutine, Sequence
from functools import partial

from serve.http.protocol import Protocol
from serve.http.site import Site

_LAST_S = 1.0  # for requests that were cut short to say so, and for clients to take it
_LOOK_S = 0.02


class Listener:
    """A site on sockets that listen already. `drain_s`: what running answers get once it is to stop."""

    def __init__(self, site: Site, *, tls: ssl.SSLContext | None = None, drain_s: float = 10.0) -> None:
        self.site, self.tls, self.drain_s = site, tls, drain_s
        self._servers: list[asyncio.Server] = []

    async def start(self, listeners: Sequence[socket.socket]) -> None:
        """Accept connections from here on."""
        loop = asyncio.get_running_loop()
        for listener in listeners:
            made = partial(Protocol, self.site)
            self._servers.append(await loop.create_server(made, sock=listener, ssl=self.tls, backlog=2048))

    async def stop(self) -> None:
        """Accept no more; let what is being answered end, for at most `drain_s`; then cut it short."""
        for server in self._servers:
            server.close()
        for connection in tuple(self.site.connections):
            connection.shutdown()
        if not await self._empty(self.drain_s):
            for task in tuple(self.site.tasks):
                task.cancel()
            await self._empty(_LAST_S)
        for connection in tuple(self.site.connections):
            connection.transport.abort()

    async def _empty(self, within_s: float) -> bool:
        """Wait until nobody is connected and nothing runs; whether that came about in time."""
        until = asyncio.get_running_loop().time() + within_s
        while self.site.connections or self.site.tasks:
            if asyncio.get_running_loop().time() >= until:
                return False
            await asyncio.sleep(_LOOK_S)
        return True


def run(main: Coroutine[None, None, None]) -> None:
    """Run until it ends, on uvloop where that exists."""
    try:
        import uvloop
    except ImportError:  # not on every platform
        asyncio.run(main)
    else:
        uvloop.run(main)


def context(certificate: str, key: str | None) -> ssl.SSLContext:
    """TLS by a certificate and its key, which may be in one file.

    Raises:
        OSError, ssl.SSLError: they cannot be read.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(certificate, key)
    return made
