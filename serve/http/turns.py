"""Few requests begin in one turn of the event loop, so that the first of a burst is answered before the last is read.

Laying out and sending a request is most of the work on a stream's first chunk. If all of a burst were sent before the
loop looks at its sockets again, every client would wait for all the others' layouts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

_AT_ONCE = 8  # requests; more would save a look at the sockets, which costs a tenth of a request


class Turns:
    """Of one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._left = _AT_ONCE

    def soon(self, begin: Callable[[], None]) -> None:
        """Call this now, or in the turn in which those who came before it leave room."""
        if self._left == _AT_ONCE:
            asyncio.get_running_loop().call_soon(self._next)
        if self._left:
            self._left -= 1
            begin()
        else:
            self._waiting.append(begin)

    def _next(self) -> None:
        """Begin those who have waited longest."""
        self._left = _AT_ONCE
        for _ in range(min(_AT_ONCE, len(self._waiting))):
            self.soon(self._waiting.popleft())
