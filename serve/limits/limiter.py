"""What a request passes before its body is read, and gives back when it has ended.

at_once, else enter: one question to the ledger ── 429 ──▶ client
  └─ Admission ── count tokens as they come ── leave: what the engine counted takes the estimates' place
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import ceil
from time import time
from typing import Any

import msgspec

from serve import metrics
from serve.config import Key, Limits
from serve.errors import TooMany, Unavailable
from serve.limits.lease import Lease
from serve.limits.ledger import Ledger, LedgerFailed
from serve.limits.rate import MINUTE
from serve.limits.subject import BOUNDS, Bound, Refusal, Standing, Subject, subject

Headers = Sequence[tuple[bytes, bytes]]
_MINUTE_MS = MINUTE * 1000
_BYTES = 4  # of a body that make a token, until the engine has counted
_MOST = 16384  # tokens that a body is taken for; most of a longer one may be an image
_ABSURD = 2**31  # tokens that no request has used
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
_BOTH = _REQUESTS + _TOKENS


class Limiter:
    """The limits of one configuration."""

    def __init__(self, limits: Limits, keys: Sequence[Key], ledger: Ledger) -> None:
        """Raises OSError where the ledger has no room."""
        self._ledger = ledger
        groups = {pair: _limited(limits, *pair) for pair in [(key.id, key.tenant) for key in keys] or [("", "")]}
        groups = {pair: group for pair, group in groups.items() if group}
        self._leases = dict(zip(groups, ledger.know(list(groups.values())), strict=True))

    def at_once(self, key: str, tenant: str, length: int | None) -> Admission | None:
        """Let a request of a key in, if that needs no question; else `enter` has to ask one."""
        lease = self._leases.get((key, tenant))
        if lease is None:
            return None
        tokens = length // _BYTES if length and 2 * _BYTES <= length <= _MOST * _BYTES else _tokens(length)
        body = length if length and lease.bodies else 0
        if not lease.take(time(), tokens, body):
            return None
        return Admission(self._ledger, lease, lease.life, tokens, tokens, body)

    async def enter(self, key: str, tenant: str, length: int | None) -> Admission | None:
        """Let a request of a key in; None where nothing limits it. `length` is its body's, None where it says none.

        Raises:
            TooMany: a limit is reached. Unavailable: the limits cannot be looked up.
        """
        lease = self._leases.get((key, tenant))
        if lease is None:
            return None
        tokens, body = _tokens(length), (length or 0) if lease.bodies else 0
        try:
            standing = await self._ledger.admit(lease, tokens, body)
        except LedgerFailed:
            raise _unknown() from None
        if standing.refusal is not None:
            raise refused(standing.refusal, standing)
        return Admission(self._ledger, lease, lease.life, tokens, tokens, body, standing)


class Admission(msgspec.Struct, gc=False):
    """A request that was let in. Where no question was asked, the lease says how its subjects stand."""

    ledger: Ledger
    lease: Lease
    life: int  # of the lease, in which it was let in
    charged: int  # tokens
    counted: int  # tokens, of which some may not be charged yet
    held: int  # bytes of its body
    standing: Standing | None = None

    def lines(self) -> bytes:
        """OpenAI's rate headers, as they go over the wire."""
        if self.standing is not None:
            return _lines(self.standing)
        lease = self.lease
        rpm, tpm = lease.rpm, lease.tpm
        if not rpm or not tpm:
            return _lines(lease.standing())
        requests, tokens = lease.other_requests + lease.requests, lease.other_tokens + lease.tokens
        return _BOTH % (
            rpm, max(0, requests), _reset(ceil((rpm - requests) * _MINUTE_MS / rpm)),
            tpm, max(0, tokens), _reset(ceil((tpm - tokens) * _MINUTE_MS / tpm)),
        )  # fmt: skip

    def grow(self, size: int) -> None:
        """The body has `size` bytes now, or will have.

        Raises:
            TooMany: that is more than there is room for. Unavailable: the limits cannot be looked up.
        """
        if size == self.held or not self.lease.bodies:
            return
        try:
            refusal = self.ledger.hold(self.lease, self.held, size, self.life)
        except LedgerFailed:
            raise _unknown() from None
        if refusal is not None:
            raise refused(refusal, self.standing or self.lease.standing())
        self.held = size

    def count(self, tokens: int) -> None:
        """Tokens of an answer that is on its way."""
        self.counted += tokens
        if self.counted - self.charged >= _BATCH and self.lease.counted:
            self.ledger.charge(self.lease, self.counted - self.charged)
            self.charged = self.counted

    def leave(self, usage: Mapping[str, Any] | None, *, served: bool) -> None:
        """The request has ended. `usage` is the engine's; where it says nothing our estimate stays.

        One that was not `served` costs no tokens.
        """
        more = 0
        if self.lease.counted:
            total = 0
            if served:
                if usage:
                    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
                    if type(prompt) is int and 0 < prompt < _ABSURD:  # whatever an engine may say there
                        total = prompt
                    if type(completion) is int and 0 < completion < _ABSURD:
                        total += completion
                total = total or self.counted
            more = total - self.charged
        self.ledger.release(self.lease, more, self.held, self.life)


def _limited(limits: Limits, key: str, tenant: str) -> tuple[Subject, ...]:
    both = (
        subject("key", key, limits.keys.get(key, limits.key)),
        subject("tenant", tenant, limits.tenants.get(tenant, limits.tenant)),
    )
    return tuple(it for it in both if any(it.bounds))


def _unknown() -> Unavailable:
    return Unavailable("the limits of this key cannot be looked up", code="limits_unavailable")


def _tokens(length: int | None) -> int:
    """What a body of this length is taken for."""
    if length is None or length < 2 * _BYTES:
        return 1
    return length // _BYTES if length < _MOST * _BYTES else _MOST


def refused(refusal: Refusal, standing: Standing) -> TooMany:
    """The 429 for a refusal, with when to come again."""
    who, bound, wait = refusal
    metrics.limited.labels(bound, who.kind).inc()
    limit = who.bounds[BOUNDS.index(bound)] / (2**20 if bound == "body_mb" else 1)
    name = f" {who.name!r}" if who.name else ""
    message = f"the {who.kind}{name} has reached its limit of {limit:g} {_UNITS[bound]}; try again in {_span(wait)}"
    error = TooMany(message, code="insufficient_quota" if bound == "tokens_per_day" else "rate_limit_exceeded")
    error.type = "tokens" if "tokens" in bound else "requests"
    error.sentence, error.words = "limit", {"seconds": str(max(1, ceil(wait)))}
    error.headers = (
        (b"retry-after", b"%d" % max(1, ceil(wait))),
        (b"retry-after-ms", b"%d" % max(1, ceil(wait * 1000))),
        *_headers(standing),
    )
    return error


def _headers(standing: Standing) -> Headers:
    pairs = [line.partition(b": ") for line in _lines(standing).splitlines()]
    return [(name, value) for name, _, value in pairs]


def _lines(standing: Standing) -> bytes:
    text, requests, tokens = b"", standing.requests, standing.tokens
    if requests is not None:
        text = _REQUESTS % (requests.limit, requests.remaining, _reset(ceil(requests.reset_s * 1000)))
    if tokens is not None:
        text += _TOKENS % (tokens.limit, tokens.remaining, _reset(ceil(tokens.reset_s * 1000)))
    return text


@lru_cache(8192)
def _reset(milliseconds: int) -> bytes:
    return _span(milliseconds / 1000).encode()


def _span(seconds: float) -> str:
    """A time as OpenAI writes it: 6m0s, 1.5s, 120ms."""
    if seconds < 1:
        return f"{ceil(seconds * 1000)}ms"
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    if hours:
        return f"{hours:.0f}h{minutes:.0f}m{rest:.0f}s"
    return f"{minutes:.0f}m{rest:.0f}s" if minutes else f"{ceil(rest * 1000) / 1000:g}s"
