"""One request on a connection and its answer, as far as the connection is concerned: its body's pieces, its end."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

from serve.http.body import BODY_S, too_slow
from serve.http.pace import Pace

if TYPE_CHECKING:
    from serve.http.request import RequestHead

HIGH_WATER = 2**16  # bytes of a body that nobody has taken yet, from which on no more are read from the socket
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Wire(Protocol):
    """The client's connection, as far as an exchange needs it."""

    transport: asyncio.Transport
    pace: Pace
    full: bool  # the client is behind: more would only wait here

    async def drain(self) -> bool:
        """Wait until the client has taken enough to be sent more. One that takes nothing is dropped: then False."""

    def resume_reading(self) -> None:
        """Read on from the socket."""

    def answered(self, exchange: Exchange) -> None:
        """The answer has been written to its end: close the connection or go on to the next request."""


class Exchange(ABC):
    """What the connection sees of a request; `run` answers it.

    `started` says whether the answer's head is out (so an error can no longer choose a status), `ended` whether all of
    it is. `body` is what has come of the request's and has not been taken.
    """

    started = ended = disconnected = False
    more_body = True
    body: bytes | bytearray = b""
    _held = b""  # the answer's head
    _waiter: asyncio.Future[None] | None = None

    def __init__(self, wire: Wire, head: RequestHead) -> None:
        self.keep_alive = head.keep
        self._wire, self._old, self._expect = wire, head.old, head.expect and not head.old

    @abstractmethod
    async def run(self) -> None:
        """Answer."""

    # -- what the connection says

    def take(self, piece: bytes) -> int:
        """A piece of the body has come. Returns how many bytes wait now."""
        if not self.body:
            self.body = piece  # nearly always all of it
        elif isinstance(self.body, bytearray):
            self.body += piece
        else:
            self.body = bytearray(self.body) + piece
        if self._waiter is not None:
            self._wake()
        return len(self.body)

    def end_body(self) -> None:
        """The body is complete."""
        self.more_body = False
        if self._waiter is not None:
            self._wake()

    def leave(self) -> None:
        """The client has left."""
        self.disconnected = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- for whoever answers

    def send_continue(self) -> None:
        """Ask a client that waits for it to send its body."""
        if self._expect and not self.started:
            self._wire.transport.write(_CONTINUE)
        self._expect = False

    async def wait_for_body(self) -> None:
        """Wait for a piece of the body, its end, or the client's leaving. Raises TooSlow where none of them comes."""
        try:
            async with asyncio.timeout(BODY_S):
                await self.wait_for_change()
        except TimeoutError:
            raise too_slow() from None

    async def wait_for_change(self) -> None:
        """The same, for however long it takes; also for the end of the answer."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _out(self, data: bytes) -> None:
        """Write to a client that is still there, behind what is held back."""
        if self._held:
            data, self._held = self._held + data, b""
        if data and not self.disconnected:
            self._wire.transport.write(data)

    def hold(self, data: bytes) -> None:
        """Write this with what follows it in the same turn of the event loop, if anything does."""
        self._held = data
        asyncio.get_running_loop().call_soon(self._out, b"")

    def finish(self, last: bytes) -> None:
        """Write the end of the answer."""
        self._out(last)
        self.ended, self.body = True, b""  # the connection may know this exchange for as long as its body comes
        if not self.disconnected:
            self._wire.answered(self)

    def break_off(self) -> None:
        """Close a connection whose answer was not written to its end, so that no client takes it for whole."""
        if not self.ended and not self.disconnected:
            self._out(b"")
            if self.started and self._old:  # to which an orderly end would be the answer's
                self._wire.transport.abort()
            else:
                self._wire.transport.close()
