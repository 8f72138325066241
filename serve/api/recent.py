"""The API of traces: recent ones, and one."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import FastAPI, Request, Response

from serve.api.replies import json_reply
from serve.chat.keys import Caller
from serve.chat.service import Service
from serve.errors import BadRequest, NotFound
from serve.store.traces import OUTCOMES, Wanted

_MOST = 200  # traces on one page
_DAYS = 90  # of one question for usage


def add_routes(app: FastAPI, service: Callable[[], Service], caller: Callable[[Request], Caller]) -> None:
    """Put the routes on the application."""

    @app.get("/v1/traces", tags=["trimtab"], summary="Recent requests of the key's tenant, newest first")
    async def page(
        request: Request,
        policy: str = "",
        outcome: str = "",
        key: str = "",
        model: str = "",
        text: str = "",
        since: str = "",
        until: str = "",
        slower_ms: float = 0.0,
        after: str = "",
        limit: int = 50,
    ) -> Response:
        who = caller(request)
        who.require("traces")
        if outcome and outcome not in OUTCOMES:
            raise BadRequest(f"no outcome {outcome!r}; valid are {', '.join(OUTCOMES)}", param="outcome")
        wanted = Wanted(policy, outcome, key, model, text, _day("since", since), _day("until", until, 1), slower_ms)
        try:
            rows, following = await service().traces.recent(
                who.tenant, wanted, after=after, limit=max(1, min(limit, _MOST))
            )
        except ValueError:
            raise BadRequest("after is not a value that a page returned as next", param="after") from None
        return json_reply({"object": "list", "data": rows, "next": following or None})

    @app.get("/v1/usage", tags=["trimtab"], summary="Requests, outcomes, times and tokens by day and policy")
    async def usage(request: Request, days: int = 7) -> Response:
        who = caller(request)
        who.require("traces")
        if not 1 <= days <= _DAYS:
            raise BadRequest(f"days must be between 1 and {_DAYS}", param="days")
        midnight = time.time() // 86400 * 86400
        rows = await service().traces.usage(who.tenant, midnight - (days - 1) * 86400)
        kept = service().config.server.trace_ttl_s
        return json_reply({"object": "list", "days": days, "kept_s": kept, "data": rows})

    @app.get("/v1/traces/{ident}", tags=["trimtab"], summary="What was done to one request")
    async def one(request: Request, ident: str) -> Response:
        who = caller(request)
        who.require("traces")
        return json_reply(await found(service(), who, ident))


def _day(name: str, text: str, more: int = 0) -> float:
    """The midnight (UTC) that begins a day, or the one `more` days later, in Unix seconds; 0 for no text."""
    if not text:
        return 0.0
    try:
        day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
        return (day + timedelta(days=more)).timestamp()
    except (ValueError, OverflowError):
        raise BadRequest(f"{name} must be a date like 2026-01-31", param=name) from None


async def found(service: Service, who: Caller, ident: str) -> dict[str, Any]:
    """A trace of the caller's tenant.

    Raises:
        NotFound: there is none, or there is none any more.
    """
    trace = await service.traces.find(ident, who.tenant)
    if trace is None:
        raise NotFound(f"no trace {ident!r}: unknown, expired or another tenant's", code="trace_not_found")
    return trace
