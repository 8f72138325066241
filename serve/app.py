"""The routes that FastAPI carries, and the OpenAPI page: all but those of `serve.lines`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from serve import feedback, metrics, openapi, page, principles, recent, wire
from serve.body import read_json
from serve.config import RAW, RIGHTS
from serve.engines import LiveEngine
from serve.errors import ApiError, NotFound
from serve.headers import request_headers
from serve.keys import Caller, identify
from serve.lines import HEALTH, RELAYED, lines
from serve.service import Service, failed
from serve.upstream import TimedOut, UpstreamError

_LIST_S, _LIST_LIMIT = 10.0, 8 * 2**20  # what an engine gets to list its models


class _Page(msgspec.Struct):
    data: list[dict[str, Any]]


async def _hot(request: Request) -> Response:
    raise AssertionError("a hot path is answered before the application is asked")


def build(service: Callable[[], Service]) -> FastAPI:
    """The application. `service` gives the current one, so that a reload reaches the next request."""
    app = FastAPI(
        title="Trimtab",
        description=openapi.ABOUT,
        version=openapi.VERSION,
        docs_url="/docs",
        redoc_url=None,
        redirect_slashes=False,
    )
    for method, path in lines(service):  # for whoever comes with another method
        app.router.routes.append(Route(path, _hot, methods=[method]))
    page.add_routes(app)
    plain = openapi.document(app)
    app.openapi = lambda: plain(RELAYED, HEALTH)  # type: ignore[method-assign]

    def caller(request: Request) -> Caller:
        return identify(service().config.keys, request.headers.get("authorization"))

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        headers = {name.decode(): value.decode() for name, value in error.headers}
        return Response(error.json(), error.status, headers, media_type="application/json")

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

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        return await api_error(request, ApiError("an internal error; the server's log has it", code="internal_error"))

    @app.get("/metrics", tags=["server"], summary="Prometheus metrics")
    async def exposition(request: Request) -> Response:
        caller(request).require("metrics")
        text = await asyncio.to_thread(metrics.exposition)
        return Response(text, media_type="text/plain; version=0.0.4")

    @app.get("/v1/models", tags=["openai"], summary="Aliases, and the engines' own models")
    async def models(request: Request) -> Response:
        return _json({"object": "list", "data": await _models(service(), caller(request), request)})

    @app.get("/v1/models/{name:path}", tags=["openai"], summary="One model")
    async def model(request: Request, name: str) -> Response:
        rows = await _models(service(), caller(request), request)
        for row in rows:
            if row["id"] == name:
                return _json(row)
        raise NotFound(
            f"no model {name!r}; valid are {', '.join(row['id'] for row in rows) or 'none'}", code="model_not_found"
        )

    @app.get("/v1/policies", tags=["trimtab"], summary="The policies that the key may use")
    async def policies(request: Request) -> Response:
        who, config = caller(request), service().config
        default = who.key.policy if who.key and who.key.policy else config.server.policy
        rows = [
            {
                "id": p.name, "object": "policy", "digest": p.digest, "engine": p.engine, "stages": list(p.stages),
                "render": p.render, "profile": p.profile.name if p.stages else None, "budget_ms": p.budget_ms,
                "on_error": p.on_error, "default": p.name == default,
                "model": config.engines[p.engine].public_name or None,
            }
            for p in config.policies.values() if who.may_use(p.name)
        ]  # fmt: skip
        return _json({"object": "list", "data": rows})

    @app.get("/v1/key", tags=["trimtab"], summary="Whose key this is, and what it may do")
    async def key(request: Request) -> Response:
        who = caller(request)
        rights = [right for right in RIGHTS if (who.may_use(right) if right == RAW else who.may(right))]
        body = {"object": "key", "id": who.name, "tenant": who.tenant, "needed": who.key is not None, "rights": rights}
        return _json(body)

    principles.add_routes(app, service, caller)
    recent.add_routes(app, service, caller)
    feedback.add_routes(app, service, caller)

    @app.post("/v1/explain", tags=["trimtab"], summary="The prompt that a chat would become, without sending it")
    async def explain(request: Request) -> Response:
        who = caller(request)
        who.require("explain")
        return _json(await _explain(service(), who, request))

    return app


def _json(body: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")


async def _models(service: Service, who: Caller, request: Request) -> list[dict[str, Any]]:
    """The aliases, then the models of the engines, as far as the caller may use them.

    Raises:
        ApiError: an engine could not be asked, and there is nothing else to list.
    """
    config = service.config
    mine = [policy for policy in config.policies.values() if who.may_use(policy.name)]
    names = {policy.name for policy in mine}
    rows = [
        {"id": a.name, "object": "model", "created": 0, "owned_by": "trimtab", "policy": a.policy}
        for a in config.aliases.values() if a.policy in names
    ]  # fmt: skip
    engines = [service.engines[name] for name in dict.fromkeys(policy.engine for policy in mine)]
    told = await asyncio.gather(*(_own(service, engine, request) for engine in engines))
    seen = {row["id"] for row in rows}
    for row in (row for own, _ in told for row in own):
        if row["id"] not in seen:
            seen.add(row["id"])
            rows.append(row)
    errors = [error for _, error in told if error is not None]
    if errors and not rows:
        raise errors[0]
    return rows


async def _own(service: Service, engine: LiveEngine, request: Request) -> tuple[list[dict[str, Any]], ApiError | None]:
    """The models of an engine, and what went wrong (which has been logged and counted)."""
    spec = engine.spec
    ours = [name for name in (spec.public_name, *spec.adapters) if name]
    named = [{"id": name, "object": "model", "created": 0, "owned_by": spec.name} for name in ours]
    if spec.launched:
        return named, None
    try:
        return await _listed(service, engine, request) or named, None
    except ApiError as error:
        return named, error


async def _listed(service: Service, engine: LiveEngine, request: Request) -> list[dict[str, Any]]:
    """What an engine by URL says of its models; [] where it has no such list."""
    anonymous = not service.config.keys and engine.key is None
    headers = request_headers(request.scope["headers"], engine.key, authorization=anonymous)
    try:
        async with asyncio.timeout(_LIST_S):
            upstream = await service.relay.send("GET", engine.url + "/v1/models", headers, None)
            with upstream:
                body = await upstream.read(_LIST_LIMIT)
    except TimeoutError:
        raise failed(engine, TimedOut()) from None
    except UpstreamError as error:
        raise failed(engine, error) from error
    if upstream.status in (404, 405, 501):
        return []
    if upstream.status != 200:
        raise failed(engine, UpstreamError(message=f"It answered {upstream.status} to /v1/models."))
    try:
        page = msgspec.json.decode(body, type=_Page)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise failed(engine, UpstreamError(error, "What it says at /v1/models is no list of models.")) from error
    return [row for row in page.data if isinstance(row.get("id"), str)]


async def _explain(service: Service, who: Caller, http: Request) -> dict[str, Any]:
    from serve.explain import explained

    limits = service.config.server
    request = wire.parse(await read_json(http, int(limits.max_body_mb * 2**20)), limits)
    return await explained(service, who, request, http.headers.get("x-trimtab-policy"))
