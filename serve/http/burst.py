"""Few requests begin in one turn of the event loop, so that the first of a burst is answered before the last is read.

Laying out and sending a request is most of the work on a stream's first chunk. If all of a burst were sent before the
loop looks at its sockets again, every client would wait for all the others' layouts. Each look brings chunks of the
streams that run already, so the turns of one burst grow: the last must not wait for what the first are sent meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

_AT_ONCE = 16  # requests in the first turn; in each one after it a quarter more, until nobody waits


class Turns:
    """Of one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._room = self._left = _AT_ONCE  # of this turn: how many may begin, and how many more
        self._counting = False  # one has begun in it

    def soon(self, begin: Callable[[], None]) -> None:
        """Call this now, or in the turn in which those who came before it leave room."""
        if not self._left:
            return self._waiting.append(begin)
        self._left -= 1
        if not self._counting:
            self._counting = True
            loop = asyncio.get_running_loop()
            # In the turn after the next: that one is for what is answered to those who begin in this one.
            loop.call_soon(loop.call_soon, self._next)
        begin()

    def _next(self) -> None:
        """Begin those who have waited longest."""
        self._room = self._room * 5 // 4 if self._waiting else _AT_ONCE
        self._left, self._counting = self._room, False
        for _ in range(min(self._room, len(self._waiting))):
            self.soon(self._waiting.popleft())
