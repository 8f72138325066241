"""The thread that computes: it gives each open answer one step in turn, and puts what comes onto the loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Generator
from contextlib import aclosing
from typing import Any

_END = object()


class Scheduler:
    """Runs generators in one thread, a step of each in turn: an answer that has begun doesn't hold up the next."""

    def __init__(self) -> None:
        self._open: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="steps", daemon=True)
        self._thread.start()

    async def run(self, steps: Generator[Any, None, Any]) -> AsyncIterator[Any]:
        """What a generator yields, and at last what it returns, in order, without its Nones.

        Leaving the iterator (`aclosing`) closes the generator at its next turn. Raises what the generator raises.
        """
        job = _Job(steps, asyncio.get_running_loop())
        with self._changed:
            self._open.append(job)
            self._changed.notify()
        try:
            while (item := await job.out.get()) is not _END:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            job.left = True

    async def result(self, steps: Generator[Any, None, Any]) -> list[Any]:
        """All of it at once."""
        async with aclosing(self.run(steps)) as items:  # type: ignore[type-var]
            return [item async for item in items]

    def stop(self) -> None:
        """End the thread after the step that it is in."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._open and not self._stopped:
                    self._changed.wait()
                if self._stopped:
                    return
                job = self._open.popleft()
            if job.step():
                with self._changed:
                    self._open.append(job)


class _Job:
    def __init__(self, steps: Generator[Any, None, Any], loop: asyncio.AbstractEventLoop) -> None:
        self.steps, self.loop, self.left = steps, loop, False
        self.out: asyncio.Queue[Any] = asyncio.Queue()

    def step(self) -> bool:
        """One step; False where there is no more."""
        if self.left:
            self.steps.close()
            return False
        try:
            item = next(self.steps)
        except StopIteration as end:
            self._put(*([] if end.value is None else [end.value]), _END)
            return False
        except Exception as error:  # noqa: BLE001 - it is raised where the request is answered
            self._put(error)
            return False
        if item is not None:
            self._put(item)
        return True

    def _put(self, *items: Any) -> None:
        for item in items:
            self.loop.call_soon_threadsafe(self.out.put_nowait, item)
