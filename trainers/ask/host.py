"""A host that is asked many things: how many at a time, how fast, and when it wants rest."""

from __future__ import annotations

import asyncio
import email.utils
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx

T = TypeVar("T")
_BUSY = (429, 503)  # too much at once: the host is tired, not the question
_AGAIN = (408, 409, 425)  # and every 5xx
_LONGEST_WAIT = 600.0  # seconds; a host that asks for more rest than this is for another day


class EngineError(Exception):
    """The engine cannot be asked; the message says what to do. What it has answered so far is on disk."""


class GivenUp(EngineError):
    """One question got no answer in as many attempts as there are."""


class Again(Exception):
    """An attempt came to nothing, and another may not. `wait_s` is the rest that the host asked for."""

    def __init__(self, why: str, *, busy: bool = False, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.why, self.busy, self.wait_s = why, busy, wait_s


class Host:
    """`most` requests at a time while it keeps up; half as many each time it says that it does not, then slowly more.

    `backoff_s` is the wait before the first retry; it doubles.
    """

    def __init__(
        self, name: str, most: int = 8, requests_per_minute: float = 0.0, retries: int = 5, backoff_s: float = 1.0
    ) -> None:
        self.name, self.most, self.retries, self.backoff_s = name, max(1, most), retries, backoff_s
        self.pace_s = 60 / requests_per_minute if requests_per_minute else 0.0
        self.limit = float(self.most)
        self.answered = self.turned_away = self.pending = 0
        self._free = asyncio.Condition()
        self._next_at = self._rest_until = self._cut_at = 0.0  # `time.monotonic()`

    async def ask(self, once: Callable[[], Awaitable[T]], progress: Callable[[], int] | None = None) -> T:
        """What `once` returns, after as many attempts as it takes and the host is worth.

        An attempt that it was too busy for does not count while it answers others: it is at work, not broken.
        `progress` counts these; by default whatever the host answers.

        Raises:
            GivenUp: no attempt came to anything. EngineError: the host cannot be reached, or asks for too much rest;
            whatever else `once` raises.
        """
        progress = progress or (lambda: self.answered)
        attempts, counted, answered = 0, 0, progress()
        while True:
            async with self._turn() as started:
                try:
                    result = await once()
                except Again as error:
                    again = error
                except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                    raise EngineError(f"{self.name}: {error}") from None
                except httpx.TransportError as error:
                    if isinstance(error, httpx.ConnectError) and not self.answered:
                        raise EngineError(f"{self.name} cannot be reached: {error} (is it running?)") from None
                    again = Again(f"{type(error).__name__} {error}".strip())
                else:
                    self.answered += 1
                    self.limit = min(self.most, self.limit + 1 / self.limit)
                    return result
            attempts += 1
            if not again.busy or progress() == answered:
                counted += 1
            answered = progress()
            self._heed(again, started, counted)
            if counted > self.retries:
                raise GivenUp(f"{self.name}: {again.why} ({attempts} attempts)")
            if again.wait_s is None and not again.busy:
                await asyncio.sleep(self._backoff(counted))

    def _backoff(self, counted: int) -> float:
        return min(self.backoff_s * 2.0 ** max(0, counted - 1), _LONGEST_WAIT)

    def _heed(self, again: Again, started: float, counted: int) -> None:
        """Rest as long as the host asks for, all of us; and where it is busy, fewer at a time from now on."""
        wait = again.wait_s
        if wait is not None and wait > _LONGEST_WAIT:
            raise EngineError(f"{self.name} {again.why}, and asks for {wait:.0f} s without requests")
        if again.busy:
            self.turned_away += 1
            wait = self._backoff(counted) if wait is None else wait
            if started >= self._cut_at:  # those that were under way together are told so together, and cut it once
                self.limit, self._cut_at = max(1.0, self.limit / 2), time.monotonic()
        if wait is not None:
            self._rest_until = max(self._rest_until, time.monotonic() + wait)

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[float]:
        """A place among those that may ask, when its time has come; when that was."""
        async with self._free:
            await self._free.wait_for(lambda: self.pending < int(self.limit))
            self.pending += 1
        try:
            now = time.monotonic()
            at = max(self._next_at, now)
            self._next_at = at + self.pace_s
            await asyncio.sleep(at - now)
            while (wait := self._rest_until - time.monotonic()) > 0:  # noqa: ASYNC110 (the rest may grow meanwhile)
                await asyncio.sleep(wait)
            yield time.monotonic()
        finally:
            self.pending -= 1
            async with self._free:
                self._free.notify_all()


def run_all(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that holds groups of tasks; of several errors the first is raised, by itself."""
    try:
        return asyncio.run(work)
    except ExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


# ---------------------------------------------------------------- what an answer that is none says


def refusal(reply: httpx.Response, who: str, endpoint: str, model: str, key_env: str) -> str:
    """Why the engine turned this question down for good. `reply` is read, and its status is none of the 200s.

    Raises:
        Again: it may answer yet. EngineError: it would say the same to every other question.
    """
    status, why = reply.status_code, f"{reply.status_code}: {said(reply)}"
    if status >= 500 or status in (*_BUSY, *_AGAIN):
        raise Again(f"answered {why}", busy=status in _BUSY, wait_s=retry_after(reply))
    if status in (401, 402, 403):
        key = f"the key in {key_env}" if key_env else "a request without a key"
        raise EngineError(f"{who} refuses {key}: {why}")
    if status in (404, 405):
        raise EngineError(f"{who} has no {endpoint}, or no model {model!r}: {why}")
    return why


def said(reply: httpx.Response) -> str:
    """What an engine says of an error, in a line."""
    try:
        error = reply.json()["error"]
        text = error["message"] if isinstance(error, dict) else error
    except (ValueError, KeyError, TypeError):
        text = reply.text
    plain = "".join(c if c.isprintable() else " " for c in str(text))  # it is shown on a terminal
    return " ".join(plain.split())[:200] or "no reason given"


def retry_after(reply: httpx.Response) -> float | None:
    """Seconds, from either form of the header (RFC 9110, 10.2.3)."""
    value = reply.headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
