"""The API of traces: recent ones, and one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response

from serve.api.replies import json_reply
from serve.chat.keys import Caller
from serve.chat.service import Service
from serve.errors import BadRequest, NotFound
from serve.store.traces import OUTCOMES

_MOST = 200  # traces on one page


def add_routes(app: FastAPI, service: Callable[[], Service], caller: Callable[[Request], Caller]) -> None:
    """Put the routes on the application."""

    @app.get("/v1/traces", tags=["trimtab"], summary="Recent requests of the key's tenant, newest first")
    async def page(
        request: Request, policy: str = "", outcome: str = "", key: str = "", after: str = "", limit: int = 50
    ) -> Response:
        who = caller(request)
        who.require("traces")
        if outcome and outcome not in OUTCOMES:
            raise BadRequest(f"no outcome {outcome!r}; valid are {', '.join(OUTCOMES)}", param="outcome")
        try:
            rows, following = await service().traces.recent(
                who.tenant, policy=policy, outcome=outcome, key=key, after=after, limit=max(1, min(limit, _MOST))
            )
        except ValueError:
            raise BadRequest("after is not a value that a page returned as next", param="after") from None
        return json_reply({"object": "list", "data": rows, "next": following or None})

    @app.get("/v1/traces/{ident}", tags=["trimtab"], summary="What was done to one request")
    async def one(request: Request, ident: str) -> Response:
        who = caller(request)
        who.require("traces")
        return json_reply(await found(service(), who, ident))


async def found(service: Service, who: Caller, ident: str) -> dict[str, Any]:
    """A trace of the caller's tenant.

    Raises:
        NotFound: there is none, or there is none any more.
    """
    trace = await service.traces.find(ident, who.tenant)
    if trace is None:
        raise NotFound(f"no trace {ident!r}: unknown, expired or another tenant's", code="trace_not_found")
    return trace
