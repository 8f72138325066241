"""The API of policies: those that a key may use, and one with all its settings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastapi import FastAPI, Request, Response

from serve.api import catalog
from serve.api.replies import json_reply
from serve.chat.keys import Caller
from serve.chat.service import Service
from serve.errors import NotFound


def add_routes(app: FastAPI, service: Callable[[], Service], caller: Callable[[Request], Caller]) -> None:
    """Put the routes on the application."""

    @app.get("/v1/policies", tags=["trimtab"], summary="The policies that the key may use")
    async def policies(request: Request) -> Response:
        who, config = caller(request), service().config
        default = who.key.policy if who.key and who.key.policy else config.server.policy
        mine = [policy for policy in config.policies.values() if who.may_use(policy.name)]
        digests = await asyncio.to_thread(catalog.digests, service(), mine)
        rows = [
            {
                "id": p.name, "object": "policy", "digest": digests[p.name], "engine": p.engine,
                "stages": list(p.stages),
                "render": p.render, "profile": p.profile.name if p.stages else None, "budget_ms": p.budget_ms,
                "on_error": p.on_error, "default": p.name == default,
                "model": config.engines[p.engine].public_name or None, "kind": service().engines[p.engine].kind or None,
                "change": p.change or None,
            }
            for p in mine
        ]  # fmt: skip
        page = {"questions": list(config.server.page_questions), "note": config.server.page_note}
        return json_reply({"object": "list", "data": rows, "page": page})

    @app.get("/v1/policies/{name}", tags=["trimtab"], summary="A policy with all its settings")
    async def policy(request: Request, name: str) -> Response:
        who, config = caller(request), service().config
        found = config.policies.get(name)
        if found is None or not who.may_use(name):
            mine = ", ".join(sorted(n for n in config.policies if who.may_use(n))) or "none"
            raise NotFound(f"no policy {name!r}; valid are {mine}", code="policy_not_found")
        digests = await asyncio.to_thread(catalog.digests, service(), [found])
        return json_reply(catalog.settings(found, digests[name]))
