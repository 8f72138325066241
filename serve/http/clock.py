"""A connection's one clock: it closes the connection when what is waited for does not come.

It is set once for many requests: moving the time at which it should close costs nothing, and when it goes off too early
it is set for the rest.
"""

from __future__ import annotations

import asyncio


class Clock:
    """Waits for a head, for the next request, or for a client to take what it was sent; or for nothing."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.timer: asyncio.TimerHandle | None = None
        self._rings = 0.0  # when the timer does
        self._until: float | None = None  # when the connection is to be closed, unless something comes
        self._transport: asyncio.Transport | None = None
        self._left = 0  # bytes unsent when the connection was to be closed
        self._patience_s = 0.0  # for these to become fewer
        self.heads = False  # it waits for the rest of a head

    def wait(self, seconds: float, transport: asyncio.Transport, *, heads: bool = False) -> None:
        """Close the transport in so many seconds, unless it is told something else by then."""
        self._transport, self.heads = transport, heads
        self._until = until = self._loop.time() + seconds
        self._patience_s = seconds
        if self.timer is None or self._rings > until:
            self._set(until)

    def pause(self) -> None:
        """Wait for nothing: a request is being answered."""
        self._until, self.heads = None, False

    def stop(self) -> None:
        """The connection is lost."""
        self._until = self._transport = None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def close(self, transport: asyncio.Transport, patience_s: float) -> None:
        """Close once all is written. A client that takes nothing of it for so long has left, or holds it for ever."""
        before, self._left = self._left, transport.get_write_buffer_size()
        if self._left and self._left == before:
            return transport.abort()
        transport.close()
        if self._left:
            self.wait(patience_s, transport)

    @property
    def running(self) -> bool:
        """Whether the connection will be closed if nothing comes."""
        return self._until is not None

    def _set(self, until: float) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self._rings = until
        self.timer = self._loop.call_at(until, self._ring)

    def _ring(self) -> None:
        self.timer = None
        if self._until is None or self._transport is None:
            return
        if self._until > self._loop.time():
            self._set(self._until)
        else:
            self._until = None
            self.close(self._transport, self._patience_s)
