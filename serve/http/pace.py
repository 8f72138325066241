"""Large bodies come and go in turns: a piece of one of them, then a rest in which the event loop is everybody else's.

Otherwise one key's uploads would have a piece each in every turn of the loop, and small requests, which take several
turns, would wait for all of them each time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

PIECE = 2**18  # bytes; a body of no more comes and goes as fast as it can
_REST_S = 0.001  # after a piece, which takes a third of that: 200 MB/s stay


class Pace:
    """The large bodies of one event loop, those of its clients and those on their way to its engines."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], object]] = deque()
        self._busy = False  # a piece is due, or its rest lasts

    def soon(self, work: Callable[[], object]) -> None:
        """Do this when it has its turn, after what waits already."""
        self._waiting.append(work)
        if not self._busy:
            self._busy = True
            asyncio.get_running_loop().call_soon(self._next)

    async def turn(self) -> None:
        """Wait for a turn."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.soon(partial(_wake, future))
        await future

    def _next(self) -> None:
        """Do the first; those behind follow after a rest each."""
        self._busy = bool(self._waiting)
        if self._busy:
            asyncio.get_running_loop().call_later(_REST_S, self._next)
            self._waiting.popleft()()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
