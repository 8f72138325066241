"""Large bodies come and go in turns: a piece of one of them in each turn of the event loop, between the others' work.

Otherwise one key's uploads would have a piece each in every turn, and everybody else's small requests, which take a few
turns, would wait for all of them each time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

PIECE = 2**18  # bytes; a body of no more comes and goes as fast as it can


class Pace:
    """The large bodies of one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], object]] = deque()

    def soon(self, work: Callable[[], object]) -> None:
        """Do this when it has its turn, after what waits already."""
        self._waiting.append(work)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._next)

    async def turn(self) -> None:
        """Wait for a turn."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.soon(partial(_wake, future))
        await future

    def _next(self) -> None:
        """Do the first; those behind have the turns of the loop that follow."""
        work = self._waiting.popleft()
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._next)
        work()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


PACE = Pace()  # of this process
