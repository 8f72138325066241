"""Large uploads are read in turns: a piece of one of them in each turn of the event loop, between the others' work.

Otherwise one key's uploads would have a piece each in every turn, and everybody else's small requests, which take a few
turns, would wait for all of them each time.
"""

from __future__ import annotations

import asyncio
from collections import deque

LARGE = 2**18  # bytes of a body that come as fast as they can


class Pace:
    """The uploads of one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def turn(self) -> None:
        """Wait until this upload's next piece may be read: nobody's is, but in one turn of the loop each."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiting.append(future)
        if len(self._waiting) == 1:
            loop.call_soon(self._next)
        await future

    def _next(self) -> None:
        """Let the first one read; those behind have the turns of the loop that follow."""
        future = self._waiting.popleft()
        if not future.done():
            future.set_result(None)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._next)
