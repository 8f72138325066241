"""The API of the account: what it says, and whether it is whole. There is no way to write to it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response

from serve.api.replies import json_reply
from serve.chat.keys import Caller
from serve.chat.service import Service
from serve.errors import BadRequest, NotFound, Unavailable
from serve.store.account.reading import backwards, changes, of_request
from serve.store.account.story import story
from serve.store.account.verdict import Verdict

KINDS = ("open", "close", "change", "checkpoint", "start", "stop", "begin", "segment", "cut", "torn", "gap", "erased")
_MOST = 200  # entries on one page
_LOOK = 20_000  # entries that one page looks at
_FRESH_S = 10.0  # a verification is not repeated before
_PATIENCE_S = 600.0


def add_routes(app: FastAPI, service: Callable[[], Service], caller: Callable[[Request], Caller]) -> None:
    """Put the routes on the application."""
    verification = _Verification()

    @app.get("/v1/account", tags=["trimtab"], summary="What the account says, newest first")
    async def page(request: Request, kind: str = "", before: int = 0, limit: int = 50) -> Response:
        folder, who = _folder(service(), caller(request)), caller(request)
        if kind and kind not in KINDS:
            raise BadRequest(f"no kind {kind!r}; valid are {', '.join(KINDS)}", param="kind")
        return json_reply(await asyncio.to_thread(_page, folder, who, kind, before, max(1, min(limit, _MOST))))

    @app.get("/v1/account/verification", tags=["trimtab"], summary="Whether the account is whole")
    async def verified(request: Request) -> Response:
        return json_reply(await verification.of(_folder(service(), caller(request))))

    @app.get("/v1/account/requests/{ident}", tags=["trimtab"], summary="What a request was given, and who approved it")
    async def one(request: Request, ident: str) -> Response:
        folder, who = _folder(service(), caller(request)), caller(request)
        entries, decided = await asyncio.to_thread(lambda: (of_request(folder, ident), changes(folder)))
        if not entries or not who.sees(entries[0].get("tenant", "")):
            raise NotFound(f"the account has no request {ident!r}, or it is another tenant's", code="request_not_found")
        told = story(entries, [it for it in decided if who.sees(it.get("tenant", ""))])
        return json_reply({"object": "account.request", "id": ident, "entries": entries, "story": told})


def _folder(service: Service, who: Caller) -> Path:
    """The account's folder.

    Raises:
        Forbidden: the caller lacks the right. NotFound: there is no account yet.
    """
    who.require("account")
    folder = service.config.state_dir / "account"
    if not folder.is_dir():
        raise NotFound("there is no account yet: no change was made, and requests are not recorded", code="no_account")
    return folder


def _page(folder: Path, who: Caller, kind: str, before: int, limit: int) -> dict[str, Any]:
    """Entries that the caller may see, and what to give as `before` for the next page."""
    rows: list[Mapping[str, Any]] = []
    last = 0
    for entry in islice(backwards(folder, before), _LOOK):
        last = entry["n"]
        if who.sees(entry.get("tenant", "")) and (not kind or entry["kind"] == kind):
            rows.append(_shown(entry, who))
            if len(rows) == limit:
                break
    return {"object": "list", "data": rows, "next": last if last > 1 else None}


def _shown(entry: dict[str, Any], who: Caller) -> dict[str, Any]:
    """An entry without what concerns other tenants."""
    if entry["kind"] == "start":
        return entry | {"policies": {name: it for name, it in entry["policies"].items() if who.may_use(name)}}
    if entry["kind"] == "cut":
        return entry | {"carried": [it for it in entry["carried"] if who.sees(it.get("tenant", ""))]}
    return entry


class _Verification:
    """Verifies in a process of its own, one at a time: it keeps a processor busy for seconds."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._last: tuple[float, Path, dict[str, Any]] | None = None

    async def of(self, folder: Path) -> dict[str, Any]:
        """The verdict on an account, a few seconds old at most.

        Raises:
            Unavailable: it cannot be verified now.
        """
        async with self._lock:
            if self._last is None or self._last[1] != folder or time.monotonic() - self._last[0] > _FRESH_S:
                self._last = time.monotonic(), folder, await _verified(folder)
            return self._last[2]


async def _verified(folder: Path) -> dict[str, Any]:
    command = (sys.executable, "-m", "serve.store.account.verification", str(folder))
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        out, wrong = await asyncio.wait_for(process.communicate(), _PATIENCE_S)
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if process.returncode != 0:
        last = (wrong.decode("utf-8", "replace").strip().splitlines() or ["no word of why"])[-1]
        raise Unavailable(f"the account cannot be verified: {last}", code="account_unavailable")
    verdict = msgspec.json.decode(out, type=Verdict)
    shown: dict[str, Any] = msgspec.to_builtins(verdict)
    shown["unclosed"] = len(verdict.unclosed)
    return {"object": "account.verification", "whole": verdict.whole, **shown, "words": verdict.words()}
