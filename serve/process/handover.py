"""Connections with a large body on their way from the workers to the process that answers these requests.

Whatever is done with a body of megabytes, copying it included, holds the interpreter's lock and the event loop for
moments in which a worker's other requests wait. So a worker that has read the head of such a request hands over the
socket, with what it has read of it, before it authenticates the caller (host and origin have been checked). The
other process is a worker like itself, but it listens on no port, gives way to the others where the processor is
short, and closes a connection after its answer.

The socket pair stays open in the parent, so what is handed over to a process that dies waits for the next one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Iterator

from serve.http.protocol import Protocol
from serve.http.site import Site

log = logging.getLogger("trimtab.handover")

NICE = 5  # of the process for large bodies: a third of a worker's share, where both want the same processor
_SIZE = 1  # bytes of a message; what it says is its descriptors


def pair() -> tuple[socket.socket, socket.socket] | None:
    """The ends that send and receive; None where the operating system lacks what it takes."""
    return socket.socketpair(type=socket.SOCK_SEQPACKET) if hasattr(os, "memfd_create") else None


class Sender:
    """A worker's end.

    `ready` says that there is a process to take them; until then `ask` is called for one, once.
    """

    ready = False

    def __init__(self, channel: socket.socket, ask: Callable[[], None]) -> None:
        self._channel, self._ask, self._asked = channel, ask, False
        channel.setblocking(False)

    def __call__(self, connection: int, data: bytes) -> bool:
        """Whether a connection, of whose request `data` has been read, is handed over."""
        if not self.ready:
            if not self._asked:
                self._asked = True
                self._ask()
            return False
        try:
            copy = os.memfd_create("request")
            try:
                os.write(copy, data)
                socket.send_fds(self._channel, [bytes(_SIZE)], [connection, copy])
            finally:
                os.close(copy)
        except OSError:  # its queue is full, or no descriptor is left: then we answer ourselves
            return False
        return True


class Receiver:
    """The other end: begins to answer, on `site`, what is handed over."""

    def __init__(self, channel: socket.socket, site: Site) -> None:
        self._channel, self._site, self._loop = channel, site, asyncio.get_running_loop()
        channel.setblocking(False)

    def start(self) -> None:
        """Take what comes from now on."""
        self._loop.add_reader(self._channel, self.receive)

    def receive(self) -> None:
        """Take what waits."""
        for connection, data in _received(self._channel):
            task = self._loop.create_task(self._answer(connection, data))
            self._site.tasks.add(task)  # which a server waits for before it ends
            task.add_done_callback(self._site.tasks.discard)

    async def _answer(self, connection: socket.socket, data: bytes) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: _Resumed(self._site, data), connection)
        except OSError:
            connection.close()  # its client has left meanwhile


def _received(channel: socket.socket) -> Iterator[tuple[socket.socket, bytes]]:
    while True:
        try:
            said, fds, _, _ = socket.recv_fds(channel, _SIZE, 2)
        except BlockingIOError:
            return
        if not said:
            return
        if len(fds) < 2:  # the kernel drops descriptors for which there is no room
            for fd in fds:
                os.close(fd)
            log.error("out of file descriptors: a connection was dropped")
            continue
        with open(fds[1], "rb") as copy:
            copy.seek(0)
            yield socket.socket(fileno=fds[0]), copy.read()


class _Resumed(Protocol):
    """A connection of whose request `data` has been read already."""

    def __init__(self, site: Site, data: bytes) -> None:
        super().__init__(site)
        self._read = data

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Go on with what has been read, though nothing more may come before the client is answered."""
        super().connection_made(transport)
        self._loop.call_soon(self.data_received, b"")

    def data_received(self, data: bytes) -> None:
        """What has been read comes before what comes."""
        data, self._read = self._read + data, b""
        if data:
            super().data_received(data)
