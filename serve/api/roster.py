"""The API of policies: those that a key may use, and one with all its settings."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from typing import Any

from fastapi import FastAPI, Request, Response

from prompt_opt.core import Policy, State
from prompt_opt.pipeline import digest, indexes
from serve.api.replies import json_reply
from serve.chat.keys import Caller
from serve.chat.service import Service
from serve.config import RAW
from serve.errors import NotFound

log = logging.getLogger("trimtab.policies")
_OWN = ("name", "digest", "change", "options", "profile")  # fields of a policy that are no settings as they are
_BUILT_IN = (RAW, "urial", "urial-helpful", "urial-plain")


def add_routes(app: FastAPI, service: Callable[[], Service], caller: Callable[[Request], Caller]) -> None:
    """Put the routes on the application."""

    @app.get("/v1/policies", tags=["trimtab"], summary="The policies that the key may use")
    async def policies(request: Request) -> Response:
        who, config = caller(request), service().config
        default = who.key.policy if who.key and who.key.policy else config.server.policy
        mine = [policy for policy in config.policies.values() if who.may_use(policy.name)]
        digests = await asyncio.to_thread(_digests, service(), mine)
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
        digests = await asyncio.to_thread(_digests, service(), [found])
        return json_reply(_settings(found, digests[name]))


def _digests(service: Service, policies: Sequence[Policy]) -> dict[str, str]:
    """By name, the digest of each policy with the rules that its indexes hold now. Blocks.

    An index that cannot be read is not in its policies' digest: their requests fail, or go without it.
    """
    states: dict[str, State] = {}
    for name in frozenset().union(*(indexes(policy) for policy in policies)):
        index = service.indexes.opened(name)
        try:
            if index is not None:
                states[name] = index.state()
        except (OSError, RuntimeError, ValueError, sqlite3.Error) as error:
            log.warning("index %s: its state cannot be read: %s", name, error)
    return {
        policy.name: digest(policy, {name: states[name] for name in indexes(policy) if name in states})
        for policy in policies
    }


def _settings(policy: Policy, digest: str) -> dict[str, Any]:
    """A policy with every setting: as they resolve, and in `file` those that differ from the default, as a file has
    them."""
    values = {f.name: getattr(policy, f.name) for f in fields(policy) if f.name not in _OWN}
    options = {stage: asdict(it) for stage, it in policy.options.items() if stage in policy.stages}
    defaults = {f.name: f.default for f in fields(Policy)}
    file: dict[str, Any] = {n: v for n, v in values.items() if v != defaults.get(n)} | {"stages": policy.stages}
    file["profile"] = policy.profile.name
    for stage, it in policy.options.items():
        if stage in policy.stages:
            changed = {f.name: value for f in fields(it) if (value := getattr(it, f.name)) != f.default}
            file |= {stage: changed} if changed else {}
    return {
        "object": "policy", "id": policy.name, "digest": digest, "change": policy.change or None,
        "builtin": policy.name in _BUILT_IN, "profile": policy.profile.name, **values, "options": options, "file": file,
    }  # fmt: skip
