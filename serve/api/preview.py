"""POST /v1/explain: the prompt that a chat would become."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI, Request, Response

from serve.api.bodies import read_json
from serve.api.explain import explained
from serve.api.replies import json_reply
from serve.chat.beside import beside
from serve.chat.keys import Caller
from serve.chat.service import Service
from serve.dialects import wire


def add_routes(app: FastAPI, service: Callable[[], Service], caller: Callable[[Request], Caller]) -> None:
    """Put the path on the application."""

    @app.post("/v1/explain", tags=["trimtab"], summary="The prompt that a chat would become, without sending it")
    async def explain(request: Request) -> Response:
        who, now = caller(request), service()
        who.require("explain")
        limits = now.config.server
        body = await read_json(request, int(limits.max_body_mb * 2**20))
        parsed = await beside(len(body), wire.parse, body, limits)
        found = await explained(now, who, parsed, request.headers.get("x-trimtab-policy"))
        return await beside(len(body), json_reply, found)
