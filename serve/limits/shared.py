"""The counts of several machines, kept in one Redis: one round trip a request, which also hands in what is owed.

Tokens and ended requests are handed in with the next question, or a moment later where none comes. Every count is kept
on this machine as well, so that it can go on by itself when Redis is gone (`limits.on_error = "local"`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import time
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Literal, cast

from serve import metrics
from serve.limits.lease import Lease
from serve.limits.ledger import LedgerFailed
from serve.limits.local import LocalLedger
from serve.limits.rate import Level, level
from serve.limits.subject import Bound, Refusal, Standing, Subject

log = logging.getLogger("trimtab.limits")

_SCRIPT = files("serve.limits").joinpath("count.lua").read_text("utf-8")
_SHA = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()
_PREFIX = "trimtab:limits"
_CONNECTIONS = 32
_TTL_S = 30  # after which the requests of a worker that says nothing count no more
_HAND_IN_S = 0.25
_REST_S = 1.0  # after a failure, before Redis is asked again


class SharedLedger:
    """One worker's way to Redis."""

    def __init__(
        self, url: str, local: LocalLedger, *, timeout_s: float = 0.25, on_error: Literal["local", "fail"] = "local"
    ) -> None:
        import redis.asyncio as redis

        pool = redis.BlockingConnectionPool.from_url(
            url, max_connections=_CONNECTIONS, timeout=timeout_s, socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s, retry=None,
        )  # fmt: skip
        self._redis = redis.Redis.from_pool(pool)
        self._errors = (redis.RedisError, OSError, TimeoutError)
        self._local, self._timeout, self._on_error = local, timeout_s, on_error
        self._rest_until, self._failing = 0.0, False
        self._life = 0  # counts in flight of an earlier one are given up: nobody knows which of them Redis has
        self._name = os.urandom(6).hex()
        self._subjects: dict[str, Subject] = {}
        self._flying: Counter[str] = Counter()  # by tag: requests that Redis has as in flight
        self._elsewhere: Counter[str] = Counter()  # requests in flight that it has not
        self._ended: Counter[str] = Counter()  # to be handed in
        self._owed: Counter[str] = Counter()  # tokens, likewise
        self._spoke = 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def asks(self) -> bool:
        """Whether the next question goes to Redis, which gets a rest after a failure."""
        return time.monotonic() >= self._rest_until

    def know(self, groups: Sequence[Sequence[Subject]]) -> list[Lease]:
        """As `Ledger.know`: this machine's counts, which decide where Redis is gone."""
        return self._local.know(groups)

    async def admit(self, lease: Lease, tokens: int, body: int) -> Standing:
        """As `Ledger.admit`. Where Redis fails this machine's counts decide, or LedgerFailed is raised."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep_handing_in())
        standing, life = None, lease.life
        if body and (refusal := self._local.hold(lease, 0, body, life)) is not None:
            return Standing(refusal=refusal)
        if self.asks:
            standing = await self._ask("ask", lease.subjects, tokens)
        if standing is None:
            if self._on_error == "fail":
                self._local.hold(lease, body, 0, life)
                raise LedgerFailed
            try:
                standing = await self._local.admit(lease, tokens, 0, leased=False)
            except LedgerFailed:
                self._local.hold(lease, body, 0, life)
                raise
            if standing.refusal is None:
                self._elsewhere.update(s.tag for s in lease.subjects)
        elif standing.refusal is None:
            with contextlib.suppress(LedgerFailed):  # Redis has let it in; the log has why we could not count it
                await self._local.admit(lease, tokens, 0, ask=False, leased=False)
            self._flying.update(s.tag for s in lease.subjects)
        if standing.refusal is not None:
            self._local.hold(lease, body, 0, life)
        return standing

    def charge(self, lease: Lease, tokens: int) -> None:
        """As `Ledger.charge`; Redis learns of it a moment later."""
        self._local.charge(lease, tokens)
        self._owe(lease, tokens)

    def release(self, lease: Lease, tokens: int, body: int, life: int) -> None:
        """As `Ledger.release`; Redis learns of it a moment later."""
        if tokens:
            self._owe(lease, tokens)
        self._local.release(lease, tokens, body, life)
        for subject in lease.subjects:
            tag = subject.tag
            if self._elsewhere[tag]:
                self._elsewhere[tag] -= 1
            else:
                self._subjects[tag] = subject
                self._flying[tag] -= 1
                self._ended[tag] += 1

    def hold(self, lease: Lease, before: int, now: int, life: int) -> Refusal | None:
        """As `Ledger.hold`: memory is a machine's own, so this machine decides."""
        return self._local.hold(lease, before, now, life)

    async def close(self) -> None:
        """Hand in what is owed, and leave."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._hand_in()
        await self._redis.aclose()

    # -- to Redis

    def _owe(self, lease: Lease, tokens: int) -> None:
        for subject in lease.subjects:
            self._subjects[subject.tag] = subject
            self._owed[subject.tag] += tokens

    async def _ask(self, mode: Literal["ask", "tell"], subjects: Sequence[Subject], tokens: int) -> Standing | None:
        """One round trip; None where it failed."""
        ended = [self._ended.pop(s.tag, 0) for s in subjects]
        owed = [self._owed.pop(s.tag, 0) for s in subjects]
        keys = [f"{_PREFIX}:{{{s.tag}}}:{part}" for s in subjects for part in ("used", "flying")]
        args: list[Any] = [f"{self._name}:{self._life}", _TTL_S, mode, tokens]
        for subject, *rest in zip(subjects, ended, owed, strict=True):
            args += [*subject.bounds[:4], *rest]
        life = self._life
        try:
            async with asyncio.timeout(self._timeout):
                answer = await self._evaluate(keys, args)
        except self._errors as error:
            self._failed(error, life)
            for subject, count in zip(subjects, owed, strict=True):
                self._owed[subject.tag] += count  # tokens are owed still
            return None
        self._set_failing(False)
        return _standing(answer, subjects)

    async def _evaluate(self, keys: list[str], args: list[Any]) -> list[Any]:
        from redis.exceptions import NoScriptError

        try:
            return cast(list[Any], await self._redis.evalsha(_SHA, len(keys), *keys, *args))
        except NoScriptError:
            return cast(list[Any], await self._redis.eval(_SCRIPT, len(keys), *keys, *args))

    def _failed(self, error: Exception, life: int) -> None:
        metrics.limits_failed.inc()
        self._rest_until = time.monotonic() + _REST_S
        if not self._failing:
            then = "this machine counts alone" if self._on_error == "local" else "requests are refused"
            log.warning("limits: Redis failed (%s: %s); %s", type(error).__name__, error, then)
        self._set_failing(True)
        if life == self._life:
            self._life += 1
            self._elsewhere.update(self._flying)
            self._flying.clear()
            self._ended.clear()

    def _set_failing(self, failing: bool) -> None:
        if failing == self._failing:
            return
        self._failing = failing
        metrics.limits_local.set(int(failing))
        if not failing:
            log.warning("limits: Redis is back")

    async def _keep_handing_in(self) -> None:
        while True:
            await asyncio.sleep(_HAND_IN_S)
            await self._hand_in()

    async def _hand_in(self) -> None:
        """Tell Redis what nobody has asked with, and every few seconds of the requests in flight, lest they expire."""
        if not self.asks:
            return
        now = time.monotonic()
        tags = {*self._ended, *self._owed}
        if now - self._spoke > _TTL_S / 3:
            self._spoke = now
            tags |= {tag for tag, count in self._flying.items() if count > 0}
        for tag in sorted(tags & self._subjects.keys()):
            if await self._ask("tell", [self._subjects[tag]], 0) is None:
                return


def _standing(answer: Sequence[Any], subjects: Sequence[Subject]) -> Standing:
    now, name, who, wait = float(answer[0]), answer[1].decode(), int(answer[2]), float(answer[3])
    refusal = Refusal(subjects[who - 1], cast(Bound, name), wait) if name else None
    requests: Level | None = None
    tokens: Level | None = None
    for at, subject in enumerate(subjects):
        rpm, tpm = subject.bounds[:2]
        if rpm:
            here = level(float(answer[4 + 2 * at]), now, rpm)
            requests = here if requests is None or here.remaining < requests.remaining else requests
        if tpm:
            here = level(float(answer[5 + 2 * at]), now, tpm)
            tokens = here if tokens is None or here.remaining < tokens.remaining else tokens
    return Standing(requests, tokens, refusal)
