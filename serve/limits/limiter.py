"""What a request passes before its body is read, and gives back when it has ended.

at_once, else enter: one question to the ledger ── 429 ──▶ client
  └─ Admission ── count tokens as they come ── leave: what the engine counted takes the estimates' place
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from serve import metrics
from serve.config import Key, Limits
from serve.errors import TooMany, Unavailable
from serve.limits.ledger import BOUNDS, Bound, Ledger, LedgerFailed, Refusal, Standing, Subject, subject

Headers = Sequence[tuple[bytes, bytes]]
_BYTES = 4  # of a body that make a token, until the engine has counted
_MOST = 16384  # tokens that a body is taken for; most of a longer one may be an image
_BATCH = 32  # tokens of a stream that are charged together
_UNITS: Mapping[Bound, str] = {
    "requests_per_minute": "requests per minute",
    "tokens_per_minute": "tokens per minute",
    "tokens_per_day": "tokens per day",
    "concurrent": "requests at once",
    "body_mb": "MB of request bodies at once",
}

_REQUESTS, _TOKENS = (
    b"x-ratelimit-limit-%s: %%d\r\nx-ratelimit-remaining-%s: %%d\r\nx-ratelimit-reset-%s: %%s\r\n" % (name, name, name)
    for name in (b"requests", b"tokens")
)


class _Group(NamedTuple):
    """The subjects of a request, and whether its tokens and its body's bytes are limited at all."""

    subjects: tuple[Subject, ...]
    tokens: bool
    bodies: bool

    def size(self, length: int | None) -> tuple[int, int]:
        """The tokens that a body of this length is taken for, and its bytes, as far as they count."""
        return min(_MOST, (length or _BYTES) // _BYTES) or 1, (length or 0) if self.bodies else 0


_UNLIMITED = _Group((), False, False)


class Limiter:
    """The limits of one configuration."""

    def __init__(self, limits: Limits, keys: Sequence[Key], ledger: Ledger) -> None:
        self._ledger = ledger
        pairs = [(key.id, key.tenant) for key in keys] or [("", "")]
        self._groups = {pair: _group(limits, *pair) for pair in pairs}

    @property
    def subjects(self) -> frozenset[Subject]:
        """All that are limited."""
        return frozenset(subject for group in self._groups.values() for subject in group.subjects)

    def at_once(self, key: str, tenant: str, length: int | None) -> Admission | None:
        """Let a request of a key in, if that needs no question; else `enter` has to ask one."""
        group = self._groups.get((key, tenant), _UNLIMITED)
        if not group.subjects:
            return None
        tokens, body = group.size(length)
        standing = self._ledger.at_once(group.subjects, tokens, body)
        return None if standing is None else Admission(self._ledger, group, standing, tokens, body)

    async def enter(self, key: str, tenant: str, length: int | None) -> Admission | None:
        """Let a request of a key in; None where nothing limits it. `length` is its body's, None where it says none.

        Raises:
            TooMany: a limit is reached. Unavailable: the limits cannot be looked up.
        """
        group = self._groups.get((key, tenant), _UNLIMITED)
        if not group.subjects:
            return None
        tokens, body = group.size(length)
        try:
            standing = await self._ledger.admit(group.subjects, tokens, body)
        except LedgerFailed:
            raise Unavailable("the limits of this key cannot be looked up", code="limits_unavailable") from None
        if standing.refusal is not None:
            raise refused(standing.refusal, standing)
        return Admission(self._ledger, group, standing, tokens, body)


class Admission:
    """A request that was let in."""

    __slots__ = ("_charged", "_counted", "_group", "_held", "_ledger", "_standing")

    def __init__(self, ledger: Ledger, group: _Group, standing: Standing, tokens: int, body: int) -> None:
        self._ledger, self._group, self._standing = ledger, group, standing
        self._charged, self._counted, self._held = tokens, tokens, body

    def lines(self) -> bytes:
        """OpenAI's rate headers, as they go over the wire."""
        return _lines(self._standing)

    def headers(self) -> Headers:
        """The same as pairs."""
        return _headers(self._standing)

    def grow(self, size: int) -> None:
        """The body has `size` bytes now, or will have. Raises TooMany where that is more than there is room for."""
        if size == self._held or not self._group.bodies:
            return
        if (refusal := self._ledger.hold(self._group.subjects, self._held, size)) is not None:
            raise refused(refusal, self._standing)
        self._held = size

    def count(self, tokens: int) -> None:
        """Tokens of an answer that is on its way."""
        self._counted += tokens
        if self._counted - self._charged >= _BATCH and self._group.tokens:
            self._ledger.charge(self._group.subjects, self._counted - self._charged)
            self._charged = self._counted

    def leave(self, usage: Mapping[str, Any] | None, *, served: bool) -> None:
        """The request has ended. `usage` is the engine's; where it says nothing our estimate stays.

        One that was not `served` costs no tokens.
        """
        group, more = self._group, 0
        if group.tokens:
            more = ((_total(usage) or self._counted) if served else 0) - self._charged
        self._ledger.release(group.subjects, more, self._held)


def _group(limits: Limits, key: str, tenant: str) -> _Group:
    both = (
        subject("key", key, limits.keys.get(key, limits.key)),
        subject("tenant", tenant, limits.tenants.get(tenant, limits.tenant)),
    )
    limited = tuple(it for it in both if any(it.bounds))
    tokens = any(it.bounds[1] or it.bounds[2] for it in limited)
    return _Group(limited, tokens, any(it.bounds[4] for it in limited))


def _total(usage: Mapping[str, Any] | None) -> int:
    """The tokens of a request as the engine counted them, whatever it may say there; 0 where it says nothing."""
    total = 0
    if usage:
        for count in (usage.get("prompt_tokens"), usage.get("completion_tokens")):
            if isinstance(count, int) and 0 < count < 2**31:
                total += count
    return total


def refused(refusal: Refusal, standing: Standing) -> TooMany:
    """The 429 for a refusal, with when to come again."""
    who, bound, wait = refusal
    metrics.limited.labels(bound, who.kind).inc()
    limit = who.bounds[BOUNDS.index(bound)] / (2**20 if bound == "body_mb" else 1)
    name = f" {who.name!r}" if who.name else ""
    message = f"the {who.kind}{name} has reached its limit of {limit:g} {_UNITS[bound]}; try again in {_span(wait)}"
    error = TooMany(message, code="insufficient_quota" if bound == "tokens_per_day" else "rate_limit_exceeded")
    error.type = "tokens" if "tokens" in bound else "requests"
    error.sentence, error.words = "limit", {"seconds": str(max(1, math.ceil(wait)))}
    error.headers = (
        (b"retry-after", b"%d" % max(1, math.ceil(wait))),
        (b"retry-after-ms", b"%d" % max(1, math.ceil(wait * 1000))),
        *_headers(standing),
    )
    return error


def _headers(standing: Standing) -> Headers:
    pairs = [line.partition(b": ") for line in _lines(standing).splitlines()]
    return [(name, value) for name, _, value in pairs]


def _lines(standing: Standing) -> bytes:
    text, requests, tokens = b"", standing.requests, standing.tokens
    if requests is not None:
        text = _REQUESTS % (requests.limit, requests.remaining, _reset(math.ceil(requests.reset_s * 1000)))
    if tokens is not None:
        text += _TOKENS % (tokens.limit, tokens.remaining, _reset(math.ceil(tokens.reset_s * 1000)))
    return text


@lru_cache(8192)
def _reset(milliseconds: int) -> bytes:
    return _span(milliseconds / 1000).encode()


def _span(seconds: float) -> str:
    """A time as OpenAI writes it: 6m0s, 1.5s, 120ms."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    if hours:
        return f"{hours:.0f}h{minutes:.0f}m{rest:.0f}s"
    return f"{minutes:.0f}m{rest:.0f}s" if minutes else f"{math.ceil(rest * 1000) / 1000:g}s"
