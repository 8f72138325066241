"""The routes that FastAPI carries, and the OpenAPI page: all but those of `serve.api.routes`."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import Depends, FastAPI, Request, Response
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from prompt_opt.pipeline import StageFailed
from retrieval.lock import is_disk_full
from serve import metrics
from serve.api import catalog, inbox, openapi, page, principles, recent, reference, roster, timeline, verdicts
from serve.api.replies import json_reply
from serve.api.routes import PATHS, lines
from serve.chat.beside import beside
from serve.chat.keys import Caller, identify
from serve.chat.service import Service
from serve.config import RAW, RIGHTS
from serve.dialects import openai, wire
from serve.errors import ApiError, DiskFull, NotFound, UpstreamFailed
from serve.http.body import read_json

if TYPE_CHECKING:
    from serve.approval.desk import Desk


async def _hot(request: Request) -> Response:
    raise AssertionError("a hot path is answered before the application is asked")


def build(service: Callable[[], Service], desk: Callable[[], Desk] | None = None) -> FastAPI:
    """The application. `service` gives the current one, so that a reload reaches the next request, and `desk` that of
    changes; without one there are none."""

    async def identified(request: Request) -> AsyncIterator[None]:
        """Before any handler, and so before a byte of the body: whoever has no key, or no room within its limits, gets
        no work done."""
        request.state.caller = who = identify(service().config.keys, request.headers.get("authorization"))
        if request.url.path.startswith("/v1/"):
            async with _limited(service(), who, request):
                yield
        else:  # of the server itself, which is watched when it is busy above all
            yield

    app = FastAPI(
        title="Trimtab",
        description=openapi.ABOUT,
        version=openapi.VERSION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(identified)],
    )
    for method, path in lines(service):  # for whoever comes with another method
        app.router.routes.append(Route(path, _hot, methods=[method]))
    page.add_routes(app)
    plain = openapi.document(app)
    app.openapi = lambda: plain(PATHS)  # type: ignore[method-assign]

    reference.add_routes(app, app.openapi)

    def caller(request: Request) -> Caller:
        known: Caller = request.state.caller
        return known

    _add_errors(app)

    @app.get("/metrics", tags=["server"], summary="Prometheus metrics")
    async def exposition(request: Request) -> Response:
        caller(request).require("metrics")
        text = await asyncio.to_thread(metrics.exposition)
        return Response(text, media_type="text/plain; version=0.0.4")

    @app.get("/v1/models", tags=["openai"], summary="Aliases, and the engines' own models")
    async def models(request: Request) -> Response:
        who = caller(request)
        rows = await catalog.shown(service(), who, request.scope["headers"])
        default = who.key.policy if who.key and who.key.policy else service().config.server.policy
        return json_reply({"object": "list", "data": rows}, headers={"x-trimtab-policy": default})

    @app.get("/v1/models/{name:path}", tags=["openai"], summary="One model")
    async def model(request: Request, name: str) -> Response:
        rows = await catalog.shown(service(), caller(request), request.scope["headers"])
        for row in rows:
            if row["id"] == name:
                return json_reply(row)
        raise NotFound(
            f"no model {name!r}; valid are {', '.join(row['id'] for row in rows) or 'none'}", code="model_not_found"
        )

    @app.get("/v1/key", tags=["trimtab"], summary="Whose key this is, and what it may do")
    async def key(request: Request) -> Response:
        who = caller(request)
        rights = [right for right in RIGHTS if (who.may_use(right) if right == RAW else who.may(right))]
        body = {"object": "key", "id": who.name, "tenant": who.tenant, "needed": who.key is not None, "rights": rights}
        return json_reply(body)

    roster.add_routes(app, service, caller)
    principles.add_routes(app, service, caller)
    recent.add_routes(app, service, caller)
    verdicts.add_routes(app, service, caller)
    inbox.add_routes(app, desk, caller)
    timeline.add_routes(app, service, caller)

    @app.post("/v1/explain", tags=["trimtab"], summary="The prompt that a chat would become, without sending it")
    async def explain(request: Request) -> Response:
        who = caller(request)
        who.require("explain")
        return json_reply(await _explain(service(), who, request))

    return app


@asynccontextmanager
async def _limited(service: Service, who: Caller, http: Request) -> AsyncIterator[None]:
    """Within the limits of the caller: requests, and the bytes of their bodies; they cost no tokens.

    Raises:
        TooMany: one is reached. Unavailable: they cannot be looked up.
    """
    if service.limiter is None:
        yield
        return
    length = http.headers.get("content-length", "" if "transfer-encoding" in http.headers else "0")
    size = int(length) if length.isdecimal() else None
    admission = await service.limiter.enter(who.name, who.tenant, size)
    try:
        yield
    finally:
        if admission is not None:
            admission.leave(None, served=False)


def _add_errors(app: FastAPI) -> None:
    """Every error in OpenAI's shape."""

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        headers = {name.decode(): value.decode() for name, value in error.headers}
        return Response(openai.error(error), error.status, headers, media_type="application/json")

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it

    @app.exception_handler(404)
    async def not_found(request: Request, error: Exception) -> Response:
        return await api_error(request, NotFound(f"no {request.method} {request.url.path} here", code="path_not_found"))

    @app.exception_handler(405)
    async def not_allowed(request: Request, error: Exception) -> Response:
        wrong = ApiError(f"{request.url.path} does not take {request.method}", code="method_not_allowed")
        wrong.status, wrong.type = 405, "invalid_request_error"
        wrong.headers = tuple((n.encode(), v.encode()) for n, v in (getattr(error, "headers", None) or {}).items())
        return await api_error(request, wrong)

    @app.exception_handler(StageFailed)
    async def stage_failed(request: Request, error: Exception) -> Response:
        return await api_error(request, UpstreamFailed(f"{error}, and the policy requires it", code="stage_failed"))

    @app.exception_handler(OSError)
    @app.exception_handler(sqlite3.Error)
    async def store_failed(request: Request, error: Exception) -> Response:
        if not is_disk_full(error):
            raise error
        return await api_error(request, DiskFull())

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        return await api_error(request, ApiError("an internal error; the server's log has it", code="internal_error"))


async def _explain(service: Service, who: Caller, http: Request) -> dict[str, Any]:
    from serve.api.explain import explained

    limits = service.config.server
    body = await read_json(http, int(limits.max_body_mb * 2**20))
    request = await beside(len(body), wire.parse, body, limits)
    return await explained(service, who, request, http.headers.get("x-trimtab-policy"))
