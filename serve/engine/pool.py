"""Several engines behind one name: which of them gets a request, and who gets it when that one is gone.

    unknown ── a check that succeeds ──> up ── no connection, or a check that fails ──> ejected ──> up again, when one
                                                                                        succeeds

Every member serves the same models. Each worker process has a view of its own: what it has pending where, and who
answers it. What a router of the engines' makers does better (the real state of their caches, say) is not done here.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

from serve import metrics
from serve.engine.relay import Relay
from serve.engine.upstream import Refused, TimedOut, Upstream, UpstreamError, unreached

log = logging.getLogger("trimtab.pool")

CHECK_S = 2.0  # between the checks of a member
_PATIENCE_S = 5.0  # for a check's answer
_HEALTH = ("/health", "/v1/models")  # each is asked only where the engine doesn't know the one before
_UNSERVED = (502, 503)  # the engine, or the gateway before it, says that it did not serve the request
_LOOKED_PAST = 1  # of these answers; more would make a storm of requests of an overload
# No connection for reasons of our own, which no other member changes.
_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL})


class Down(Refused):
    """No member of a pool takes requests."""

    message = "None of its URLs can be reached."


class Member:
    """One URL of a pool."""

    def __init__(self, engine: str, url: str) -> None:
        self.url, self.pending = url, 0
        self.state: Literal["unknown", "up", "ejected"] = "unknown"
        self.reason = ""
        self.checking: asyncio.Task[None] | None = None
        self.gauge = metrics.pending.labels(engine, url)

    def take(self) -> None:
        self.pending += 1
        self.gauge.inc()

    def release(self) -> None:
        self.pending -= 1
        self.gauge.dec()


class Pool:
    """The members of one engine."""

    def __init__(
        self, name: str, urls: Sequence[str], affinity: int, tell: Callable[[Mapping[str, Any]], None]
    ) -> None:
        """`tell` hears what becomes of the engine as a whole: its state, its reason, a URL that answers.

        `affinity`: by how many pending requests a member may exceed the least loaded and still get its prefixes.
        """
        self.name, self._affinity, self._tell = name, affinity, tell
        self.members = tuple(Member(name, url) for url in urls)
        self._order = lru_cache(1024)(self._ranked)
        self._turn = 0

    @property
    def up(self) -> bool:
        """Whether a member has been found well."""
        return any(member.state == "up" for member in self.members)

    # -- choosing

    def choose(self, prefix: str, tried: Collection[Member] = ()) -> Member | None:
        """The member for a request whose constant prefix is named by `prefix` ("": it has none); None if none is left.

        Requests with the same prefix meet on the same member, whose cache has it, unless that is too busy; others go
        to the least loaded, in turn where several are.
        """
        left = [m for m in self.members if m.state != "ejected" and m not in tried]
        if not left:
            return None
        least = min(m.pending for m in left)
        if prefix:
            return next(m for m in self._order(prefix) if m in left and m.pending <= least + self._affinity)
        idle = [m for m in left if m.pending == least]
        self._turn += 1
        return idle[self._turn % len(idle)]

    def _ranked(self, prefix: str) -> tuple[Member, ...]:
        """Rendezvous hashing: all processes agree, and the loss of a member moves no other's prefixes."""

        def weight(member: Member) -> bytes:
            return hashlib.blake2b(f"{prefix}\n{member.url}".encode(), digest_size=8).digest()

        return tuple(sorted(self.members, key=weight, reverse=True))

    # -- sending

    async def post(self, relay: Relay, path: str, headers: Mapping[str, str], body: bytes, prefix: str) -> Upstream:
        """Send to one member; to the next where that one cannot have received it, or says that it did not serve it.

        A request that may have been worked on is never sent again unless an answer says that it was not (502, 503): a
        connection that breaks is the client's to hear of. No member gets a request twice. (The relay knows a pooled
        connection that had been closed by then; where its engine then refuses a new one, it is gone, and the request
        with it: that counts as not arrived.)

        Raises:
            Down: no member is left. Any other UpstreamError: what became of the request where it was sent.
        """
        tried: list[Member] = []
        looked_past = 0
        last: UpstreamError | None = None
        while (member := self.choose(prefix, tried)) is not None:
            if tried:
                metrics.retries.labels(self.name, member.url).inc()
            tried.append(member)
            try:
                upstream = await self._send(relay, member, path, headers, body)
            except UpstreamError as error:
                if not unreached(error) or getattr(error.cause, "errno", None) in _OURS:
                    self._suspect(relay, member)
                    raise
                self._eject(member, str(error))
                last = error
                continue
            if upstream.status not in _UNSERVED:
                return upstream
            self._suspect(relay, member)
            if looked_past == _LOOKED_PAST or self.choose(prefix, tried) is None:
                return upstream
            looked_past += 1
            upstream.abort()
        raise Down(last and last.cause)

    async def _send(self, relay: Relay, member: Member, path: str, headers: Mapping[str, str], body: bytes) -> Upstream:
        """The member has the request pending until its answer has been read to its end or given up."""

        def over(broke: bool) -> None:
            member.release()
            if broke:
                self._suspect(relay, member)

        member.take()
        try:
            upstream = await relay.send("POST", member.url + path, headers, body)
        except BaseException:
            member.release()
            raise
        upstream.on_over = over
        return upstream

    # -- health

    def check(self, relay: Relay) -> None:
        """Ask every member how it is, in the background, unless that is being done."""
        for member in self.members:
            self._check(relay, member)

    def _suspect(self, relay: Relay, member: Member) -> None:
        """A broken connection may have been the request's fault: ask at once, but eject nobody for it alone."""
        if member.state != "ejected":
            self._check(relay, member)

    def _check(self, relay: Relay, member: Member) -> None:
        if member.checking is None or member.checking.done():
            member.checking = asyncio.create_task(self._judge(relay, member))

    async def _judge(self, relay: Relay, member: Member) -> None:
        try:
            reason = await _health(relay, member.url)
        except (TimeoutError, TimedOut):
            # Slow is better than nobody: the last one stays, as an engine with a single URL would.
            if not any(m is not member and m.state != "ejected" for m in self.members):
                return
            reason = f"it does not answer within {_PATIENCE_S:g} s"
        except UpstreamError as error:
            reason = str(error)
        if reason:
            self._eject(member, reason)
        elif member.state != "up":
            if member.state == "ejected":
                log.info("engine %s: %s is back", self.name, member.url)
            member.state, member.reason = "up", ""
            self._report()

    def _eject(self, member: Member, reason: str) -> None:
        if member.state != "ejected":
            metrics.ejections.labels(self.name, member.url).inc()
            log.warning("engine %s: %s gets no requests until it is well again: %s", self.name, member.url, reason)
            member.state = "ejected"
        member.reason = reason
        self._report()

    def _report(self) -> None:
        up = [m for m in self.members if m.state == "up"]
        left = up or [m for m in self.members if m.state == "unknown"]
        if left:
            self._tell({"state": "ready" if up else "unknown", "url": left[0].url})
        else:
            self._tell({"state": "down", "reason": f"none of its {len(self.members)} URLs answers"})

    def told(self, *, urls: bool) -> list[dict[str, Any]]:
        """Each member's state, for /readyz; with its URL only where everybody may know it."""
        return [
            ({"url": m.url} if urls else {}) | {"state": m.state, "reason": m.reason, "pending": m.pending}
            for m in self.members
        ]


async def _health(relay: Relay, url: str) -> str:
    """ "" where an engine answers that it is well, else what is wrong. Raises an UpstreamError, or TimeoutError."""
    reason = ""
    for path in _HEALTH:
        async with asyncio.timeout(_PATIENCE_S):
            answer = await relay.send("GET", url + path, {}, None)
            await answer.done()
        if 200 <= answer.status < 300 or answer.status in (401, 403):  # it is up; keys are the requests' business
            return ""
        reason = f"{path} answers {answer.status}"
        if answer.status not in (404, 405, 501):
            break
    return reason


async def watch(pools: Callable[[], Iterable[Pool]], relay: Callable[[], Relay]) -> None:
    """Check all pools, for ever. Both are asked for at each turn, since a reload replaces them."""
    try:
        while True:
            for pool in pools():
                pool.check(relay())
            await asyncio.sleep(CHECK_S)
    finally:
        for checking in (member.checking for pool in pools() for member in pool.members):
            if checking is not None:
                checking.cancel()
