"""The models there are: the aliases, and what the engines say of theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from serve.chat.keys import Caller
from serve.chat.service import Service, failed
from serve.dialects.wire import NOT_JSON
from serve.engine.live import LiveEngine
from serve.engine.relay import Relay
from serve.engine.upstream import TimedOut, UpstreamError
from serve.errors import ApiError

Headers = Sequence[tuple[bytes, bytes]]
_LIMIT = 8 * 2**20  # bytes of an engine's list


class _Page(msgspec.Struct):
    data: list[dict[str, Any]]


async def shown(service: Service, who: Caller, headers: Headers) -> list[dict[str, Any]]:
    """The aliases, then the models of the engines, as far as the caller, whose headers these are, may use them.

    Raises:
        ApiError: an engine could not be asked, and there is nothing else to list.
    """
    config = service.config
    mine = [policy for policy in config.policies.values() if who.may_use(policy.name)]
    names = {policy.name for policy in mine}
    rows = [
        {"id": a.name, "object": "model", "created": 0, "owned_by": "trimtab", "policy": a.policy,
         **({"change": change} if (change := config.policies[a.policy].change) else {})}
        for a in config.aliases.values() if a.policy in names
    ]  # fmt: skip
    engines = [service.engines[name] for name in dict.fromkeys(policy.engine for policy in mine)]
    told = await asyncio.gather(*(_own(service, engine, headers) for engine in engines))
    seen = {row["id"] for row in rows}
    for row in (row for own, _ in told for row in own):
        if row["id"] not in seen:
            seen.add(row["id"])
            rows.append(row)
    errors = [error for _, error in told if error is not None]
    if errors and not rows:
        raise errors[0]
    return rows


async def _own(service: Service, engine: LiveEngine, headers: Headers) -> tuple[list[dict[str, Any]], ApiError | None]:
    """The models of an engine, and what went wrong (which has been logged and counted)."""
    spec = engine.spec
    ours = [name for name in (spec.public_name, *spec.adapters) if name]
    named = [{"id": name, "object": "model", "created": 0, "owned_by": spec.name} for name in ours]
    if spec.launched:
        return named, None
    sent = engine.headers(headers, anonymous=not service.config.keys)
    try:
        return await listed(service.relay, engine, sent) or named, None
    except UpstreamError as error:
        return named, failed(engine, error)


async def listed(
    relay: Relay, engine: LiveEngine, headers: Mapping[str, str], within_s: float = 10.0
) -> list[dict[str, Any]]:
    """What an engine says of its models; [] where it has no such list.

    Raises:
        UpstreamError: it does not answer, or with something else.
    """
    try:
        async with asyncio.timeout(within_s):
            upstream = await engine.get(relay, "/v1/models", headers)
            upstream.decode()
            with upstream:
                body = await upstream.read(_LIMIT)
    except TimeoutError:
        raise TimedOut from None
    if upstream.status in (404, 405, 501):
        return []
    if upstream.status != 200:
        raise UpstreamError(message=f"It answered {upstream.status} to /v1/models.")
    try:
        page = msgspec.json.decode(body, type=_Page)
    except NOT_JSON as error:
        raise UpstreamError(error, "What it says at /v1/models is no list of models.") from error
    return [row for row in page.data if isinstance(row.get("id"), str)]
