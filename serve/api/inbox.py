"""The API of changes: draft, look, submit, approve, roll back. Each step is on disk before it is acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response

from serve.api.bodies import json_object, read_json
from serve.api.replies import json_reply
from serve.chat.keys import Caller
from serve.errors import BadRequest, Unavailable
from serve.store.changes import STATES, Change

if TYPE_CHECKING:
    from serve.approval.desk import Desk

_BODY = 8 * 2**20  # bytes
_CHAT = 2**20  # bytes of one that is tried under a change
_CONTAINERS = 100_000  # objects and lists of a body: a hundred for each item
_MOST = 200  # changes on one page
Step = Callable[["Desk", Caller, str, Mapping[str, Any]], Change]


def add_routes(app: FastAPI, desk: Callable[[], Desk] | None, caller: Callable[[Request], Caller]) -> None:
    """Put the routes on the application. All need the right `author` or `approver`."""

    def opened(who: Caller) -> Desk:
        if not who.may("approver"):
            who.require("author")
        if desk is None:
            raise Unavailable("this server keeps no changes", code="no_changes")
        return desk()

    @app.get("/v1/changes", tags=["trimtab"], summary="Changes of rules and policies, newest first")
    async def page(request: Request, state: str = "", after: str = "", limit: int = 50) -> Response:
        who = caller(request)
        at, states = opened(who), [name for name in state.split(",") if name]
        if unknown := [name for name in states if name not in STATES]:
            raise BadRequest(f"no state {unknown[0]!r}; valid are {', '.join(STATES)}", param="state")
        return json_reply(await asyncio.to_thread(_page, at, who, states, after, max(1, min(limit, _MOST))))

    @app.get("/v1/changes/{ident}", tags=["trimtab"], summary="A change, its diff and its history")
    async def one(request: Request, ident: str) -> Response:
        who = caller(request)
        at = opened(who)
        return await _reply(await asyncio.to_thread(at.find, who, ident))

    @app.post("/v1/changes", tags=["trimtab"], summary="Draft a change")
    async def draft(request: Request) -> Response:
        from serve.approval import drafts

        who = caller(request)
        at = opened(who)
        body = await _body(request)
        return await _reply(await asyncio.to_thread(drafts.draft, at, who, body))

    @app.patch("/v1/changes/{ident}", tags=["trimtab"], summary="Store other fields of a draft")
    async def revise(request: Request, ident: str) -> Response:
        from serve.approval import drafts

        who = caller(request)
        at = opened(who)
        body = await _body(request)
        return await _reply(await asyncio.to_thread(drafts.revise, at, who, ident, body))

    @app.post("/v1/changes/{ident}/explain", tags=["trimtab"], summary="A chat's prompt now, and under a change")
    async def explain(request: Request, ident: str) -> Response:
        from serve.api.tried import tried

        who = caller(request)
        at = opened(who)
        body = await read_json(request, _CHAT)
        return json_reply(await tried(at, who, ident, body, request.headers.get("x-trimtab-policy")))

    def add(step: str, summary: str) -> None:
        async def take(request: Request, ident: str) -> Response:
            who = caller(request)
            at = opened(who)
            body = await _body(request)
            return await _reply(await asyncio.to_thread(_step(step), at, who, ident, body))

        app.post(f"/v1/changes/{{ident}}/{step}", tags=["trimtab"], summary=summary, name=step)(take)

    for step, (_, summary) in STEPS.items():
        add(step, summary)


# What can be done to a change: its function as "module:function" (loaded when it is asked for), and what it does.
STEPS: Mapping[str, tuple[str, str]] = {
    "submit": ("decisions:submit", "Ask for a change's approval"),
    "approve": ("decisions:approve", "Approve a change: it is in force, or will be on its date"),
    "reject": ("decisions:reject", "Send a submitted or approved change back"),
    "withdraw": ("decisions:withdraw", "Take a change back before it is in force"),
    "rollback": ("decisions:roll_back", "Restore what a change replaced, by a new change in force at once"),
    "rebase": ("drafts:rebase", "Hold a draft against what stands there now"),
    "comment": ("drafts:comment", "Add a comment to a change"),
    "check": ("drafts:attach", "Keep a passed release check with a change"),
}


def _step(name: str) -> Step:
    module, _, function = STEPS[name][0].partition(":")
    found: Step = getattr(import_module(f"serve.approval.{module}"), function)
    return found


async def _reply(change: Change) -> Response:
    from serve.approval.words import shown

    return json_reply(await asyncio.to_thread(shown, change))


async def _body(request: Request) -> dict[str, Any]:
    return await json_object(request, _BODY, _CONTAINERS)


def _page(desk: Desk, who: Caller, states: list[str], after: str, limit: int) -> dict[str, Any]:
    """Changes that the caller may see, and what to give as `after` for the next page. Blocks."""
    from serve.approval.words import listed

    found = desk.changes.page(states, after, limit)
    rows = [listed(change) for change in found if desk.shows(who, change)]
    return {"object": "list", "data": rows, "next": found[-1].id if len(found) == limit else None}
