"""What a key may ask for: /v1/models and /v1/key."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI, Request, Response

from serve.api import catalog
from serve.api.replies import json_reply
from serve.chat.keys import Caller
from serve.chat.service import Service
from serve.config import RAW, RIGHTS
from serve.errors import NotFound


def add_routes(app: FastAPI, service: Callable[[], Service], caller: Callable[[Request], Caller]) -> None:
    """Put the paths on the application."""
    _add_models(app, service, caller)
    _add_key(app, caller)


def _add_models(app: FastAPI, service: Callable[[], Service], caller: Callable[[Request], Caller]) -> None:
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


def _add_key(app: FastAPI, caller: Callable[[Request], Caller]) -> None:
    @app.get("/v1/key", tags=["trimtab"], summary="Whose key this is, and what it may do")
    async def key(request: Request) -> Response:
        who = caller(request)
        rights = [right for right in RIGHTS if (who.may_use(right) if right == RAW else who.may(right))]
        body = {"object": "key", "id": who.name, "tenant": who.tenant, "needed": who.key is not None, "rights": rights}
        return json_reply(body)
