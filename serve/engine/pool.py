"""Several engines behind one name: which of them gets a request, and who gets it when that one fails.

Every member serves the same models. Each worker process has a view of its own: what it has pending where, who answers
it, and how. What a router of the engines' makers does better (the real state of their caches, say) is not done here.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

from serve import metrics
from serve.engine import health
from serve.engine.address import PLAIN, Addressing
from serve.engine.budget import UNSERVED, Budget, retry_after
from serve.engine.member import Member, ranked
from serve.engine.relay import Relay
from serve.engine.upstream import Refused, TimedOut, Upstream, UpstreamError, unreached

log = logging.getLogger("trimtab.pool")

# No connection for reasons of our own, which no other member changes.
_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL})


class Down(Refused):
    """No member of a pool takes requests."""

    message = "None of its URLs can be reached."


class Pool:
    """The members of one engine."""

    def __init__(
        self,
        name: str,
        urls: Sequence[str],
        affinity: int,
        tell: Callable[[Mapping[str, Any]], None],
        *,
        retries: int = 2,
        idempotent: bool = False,
        addressing: Addressing = PLAIN,
    ) -> None:
        """`tell` hears what becomes of the engine as a whole: its state, its reason, a URL that answers.

        `affinity`: by how many pending requests a member may exceed the least loaded and still get its prefixes.
        `retries`: how many more members a request is tried on that one has answered with one of UNSERVED. `idempotent`:
        repeat a request, too, that a member may have worked on when its connection broke or fell silent.
        """
        self.name, self._affinity, self._tell = name, affinity, tell
        self._retries, self._idempotent, self._budget = retries, idempotent, Budget()
        self._addressing = addressing
        self.members = tuple(Member(name, url) for url in urls)
        self._order = lru_cache(1024)(partial(ranked, self.members))
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
        left = self._left(tried)
        if not left:
            return None
        least = min(m.pending for m in left)
        if prefix:
            return next(m for m in self._order(prefix) if m in left and m.pending <= least + self._affinity)
        idle = [m for m in left if m.pending == least]
        self._turn += 1
        return idle[self._turn % len(idle)]

    def _left(self, tried: Collection[Member]) -> list[Member]:
        """Who may get a request: a member that is to get none now only where a request would go nowhere else."""
        left = [m for m in self.members if m.state != "ejected" and m not in tried]
        left = left or [m for m in self.members if m.failing and m not in tried]
        now = time.monotonic()
        if any(m.until > now for m in left):
            awake = [m for m in left if m.until <= now]
            left = awake or ([] if tried else [min(left, key=lambda m: m.until)])
        left = [m for m in left if not m.doubtful(now)] or left
        return [m for m in left if m.pending < m.cap] or left

    # -- sending

    async def post(self, relay: Relay, path: str, headers: Mapping[str, str], body: bytes, prefix: str) -> Upstream:
        """Send to one member; to the next where that one cannot have received it, or answers that it did not serve it.

        A request that may have been worked on is sent again only where the engine is `idempotent`, and never after the
        first byte of an answer. No member gets a request twice. (The relay knows a pooled connection that had been
        closed by then; where its engine then refuses a new one, it is gone, and the request with it: that counts as
        not arrived.) A failure counts against a member only where another served the same request: a request that
        fails everywhere is itself at fault.

        Raises:
            Down: no member is left. Any other UpstreamError: what became of the request where it was sent.
        """
        self._budget.earn()
        tried: list[Member] = []
        unserved: list[tuple[Member, int]] = []
        retries = self._retries
        last: UpstreamError | None = None
        while (member := self.choose(prefix, tried)) is not None:
            if tried:
                metrics.retries.labels(self.name, member.url).inc()
            tried.append(member)
            try:
                upstream = await self._send(relay, member, path, headers, body)
            except UpstreamError as error:
                last = self._unanswered(relay, member, error, last)
                if not (unreached(error) or (self._idempotent and self._may_retry(tried))):
                    raise
                continue
            if upstream.status not in UNSERVED:
                member.served()
                for other, status in unserved:
                    self._fail(relay, other, f"it answers {status}")
                return upstream
            if seconds := retry_after(upstream.headers):
                member.rest(seconds)
            else:
                unserved.append((member, upstream.status))
            if not retries or not self._may_retry(tried):
                return upstream
            retries -= 1
            upstream.abort()
            last = UpstreamError(message=f"It answered {upstream.status}, and no other URL of it could be reached.")
        raise last if last is not None and not unreached(last) else Down(last and last.cause)

    def _unanswered(
        self, relay: Relay, member: Member, error: UpstreamError, last: UpstreamError | None
    ) -> UpstreamError:
        """Judge a member that gave no answer. Returns the error that counts; raises one that no other member mends."""
        if getattr(error.cause, "errno", None) in _OURS:
            self._suspect(relay, member)
            raise error
        if unreached(error):
            self._eject(member, str(error))
            return last or error
        self._fail(relay, member, str(error))
        return error

    def _may_retry(self, tried: Collection[Member]) -> bool:
        return bool(self._left(tried)) and self._budget.spend()

    async def _send(self, relay: Relay, member: Member, path: str, headers: Mapping[str, str], body: bytes) -> Upstream:
        """The member has the request pending until its answer has been read to its end or given up."""

        def over(broke: bool) -> None:
            member.release()
            if broke:
                self._fail(relay, member, "its answers break off")

        member.take()
        waiting = member.waiting if self._idempotent else None
        try:
            url, ca_file = self._addressing.at(member.url, path), self._addressing.ca_file
            upstream = await relay.send("POST", url, headers, body, ca_file=ca_file, waiting=waiting)
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

    def stop(self) -> None:
        """Give up the checks that are under way."""
        for member in self.members:
            if member.checking is not None:
                member.checking.cancel()

    def _suspect(self, relay: Relay, member: Member) -> None:
        """A broken connection may have been the request's fault: ask at once, but eject nobody for it alone."""
        if member.state != "ejected":
            self._check(relay, member)

    def _fail(self, relay: Relay, member: Member, reason: str) -> None:
        """Count a failure that is the member's; too many in a row eject it, unless it is the last."""
        alone = not any(m is not member and m.state != "ejected" for m in self.members)
        if member.state != "ejected" and member.failed() and not alone:
            self._eject(member, reason, failing=True)
        else:
            self._suspect(relay, member)

    def _check(self, relay: Relay, member: Member) -> None:
        if member.checking is None or member.checking.done():
            member.checking = asyncio.create_task(self._judge(relay, member))

    async def _judge(self, relay: Relay, member: Member) -> None:
        member.asked = time.monotonic()
        try:
            reason = await health.health(relay, self._addressing, member.url)
        except (TimeoutError, TimedOut):
            # Slow is better than nobody: the last one stays, as an engine with a single URL would.
            if not any(m is not member and m.state != "ejected" for m in self.members):
                return
            reason = f"it does not answer within {health.PATIENCE_S:g} s"
        except UpstreamError as error:
            reason = str(error)
        finally:
            member.asked = math.inf
        if reason:
            self._eject(member, reason)
        elif member.state != "up" and member.returns():
            if member.state == "ejected":
                log.info("engine %s: %s is back", self.name, member.url)
            member.admit()
            self._report()

    def _eject(self, member: Member, reason: str, *, failing: bool = False) -> None:
        if member.state != "ejected":
            metrics.ejections.labels(self.name, member.url).inc()
            log.warning("engine %s: %s gets no requests until it is well again: %s", self.name, member.url, reason)
            member.eject(reason, failing=failing)
        elif not failing:
            member.eject(reason, failing=False)
        if not failing:  # it is gone or hangs, and what waits there may be repeated elsewhere
            for upstream in tuple(member.waiting):
                upstream.abort()
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
