"""Few requests begin in one turn of the event loop, so that the first of a burst is answered before the last is read.

Laying out and sending a request is most of the work on a stream's first chunk. If all of a burst were sent before the
loop looks at its sockets again, every client would wait for all the others' layouts. Nor is the last held back by what
the first have to be sent meanwhile: who has waited for long begins at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

_AT_ONCE = 8  # requests; fewer would cost more looks at the sockets, each of which brings chunks of running streams
_PATIENCE_S = 0.01  # half of what a burst of 64 takes


class Turns:
    """Of one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[float, Callable[[], None]]] = deque()  # with the time from which it has waited
        self._left = _AT_ONCE

    def soon(self, begin: Callable[[], None]) -> None:
        """Call this now, or in the turn in which those who came before it leave room."""
        if self._left == _AT_ONCE:
            asyncio.get_running_loop().call_soon(self._next)
        if self._left:
            self._left -= 1
            begin()
        else:
            self._waiting.append((asyncio.get_running_loop().time(), begin))

    def _next(self) -> None:
        """Begin those who have waited longest."""
        self._left = _AT_ONCE
        if not self._waiting:
            return
        loop = asyncio.get_running_loop()
        loop.call_soon(self._next)
        late = loop.time() - _PATIENCE_S
        while self._waiting and (self._left or self._waiting[0][0] < late):
            self._left = max(self._left - 1, 0)
            self._waiting.popleft()[1]()
