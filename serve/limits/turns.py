"""Large bodies take turns, so that one key's flood of them is that key's problem.

Work on a body of megabytes, from its parsing until an engine gets it, costs many times its size in memory and holds the
event loop for moments. A worker therefore works on no more than `capacity` bytes of large bodies at a time. Whoever
comes then waits, and the next turn goes to the key that holds least. Small bodies, which nearly all chats are, never
wait, and nobody waits for an upload or an answer of others.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from serve import metrics
from serve.errors import Unavailable

_PATIENCE_S = 60.0


@dataclass(slots=True, eq=False)
class _Waiter:
    key: str
    size: int
    turn: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Turns:
    """The large bodies of one worker."""

    def __init__(self, capacity: int, patience_s: float = _PATIENCE_S) -> None:
        """A body larger than `capacity` goes alone."""
        self._capacity, self._patience = capacity, patience_s
        self._held: Counter[str] = Counter()  # bytes by key
        self._waiting: list[_Waiter] = []  # in the order in which they came

    async def take(self, key: str, size: int) -> None:
        """Hold `size` bytes on a key's account, once there is room; `give` gives them back.

        Raises:
            Unavailable: there was none for a minute.
        """
        if not self._waiting and self._fits(size):
            self._held[key] += size
            return
        waiter = _Waiter(key, size)
        self._waiting.append(waiter)
        metrics.queue_depth.inc()
        try:
            async with asyncio.timeout(self._patience):
                await waiter.turn
        except BaseException as error:
            if waiter.turn.done() and not waiter.turn.cancelled():
                self.give(key, size)  # it came in the moment in which we left
            else:
                self._waiting.remove(waiter)
                self._next()  # whoever stood behind may fit
            if isinstance(error, TimeoutError):
                busy = "too many large requests at once; try again later"
                raise Unavailable(busy, code="overloaded") from None
            raise
        finally:
            metrics.queue_depth.dec()

    def give(self, key: str, size: int) -> None:
        """What was taken is free for the next."""
        self._held[key] -= size
        if not self._held[key]:
            del self._held[key]
        self._next()

    def turn(self, key: str) -> Turn:
        """The turn of a body that is large, or may become so."""
        return Turn(self, key)

    def _next(self) -> None:
        """Give turns while there is room: to the key that holds least, and of its requests to the first."""
        while self._waiting:
            waiter = min(self._waiting, key=lambda w: self._held[w.key])
            if not self._fits(waiter.size):
                return
            self._waiting.remove(waiter)
            self._held[waiter.key] += waiter.size
            waiter.turn.set_result(None)

    def _fits(self, size: int) -> bool:
        held = self._held.total()
        return held == 0 or held + size <= self._capacity


class Turn:
    """One large body's turn, from `take` to `end`."""

    def __init__(self, turns: Turns, key: str) -> None:
        self._turns, self._key, self._size = turns, key, 0

    async def take(self, size: int) -> None:
        """Wait for room for so many bytes; or, in the midst of a turn, keep no more than so many of its bytes.

        Raises:
            Unavailable: there was none for a minute.
        """
        if self._size:
            self._turns.give(self._key, self._size - size)
        else:
            await self._turns.take(self._key, size)
        self._size = size

    def end(self) -> None:
        """Give back what is held, if anything is."""
        if self._size:
            self._turns.give(self._key, self._size)
            self._size = 0
