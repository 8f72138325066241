"""The API of principles: list, search, add, withdraw. A change is durable before it is acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response

from serve.api.bodies import json_object
from serve.api.replies import json_reply
from serve.chat.keys import Caller
from serve.chat.service import Service
from serve.config import IndexSpec
from serve.errors import BadRequest, Forbidden, NotFound

if TYPE_CHECKING:
    from retrieval.passage import Passage
    from retrieval.search.index import Index

_MOST = 1000  # principles in one call
_QUERY = 10_000  # characters; an embedder reads fewer, and a megabyte would keep it from everybody else for seconds


def add_routes(app: FastAPI, service: Callable[[], Service], caller: Callable[[Request], Caller]) -> None:
    """Put the routes on the application."""

    @app.get("/v1/indexes", tags=["trimtab"], summary="The indexes that the key may read")
    async def indexes(request: Request) -> Response:
        who = caller(request)
        who.require("principles")
        specs, state = service().indexes.specs, service().indexes.state
        rows = [
            {"id": name, "object": "index", "tenant": spec.tenant, "changeable": _changes(who, spec), **state(name)}
            for name, spec in specs.items() if who.sees(spec.tenant)
        ]  # fmt: skip
        return json_reply({"object": "list", "data": rows})

    @app.get("/v1/principles", tags=["trimtab"], summary="Principles of an index, by id, a page at a time")
    async def page(request: Request, index: str = "", after: str = "", limit: int = 100) -> Response:
        name, it = await _readable(service(), caller(request), index)
        rows = await asyncio.to_thread(it.page, after, max(1, min(limit, _MOST)))
        data = [_row(passage) for passage in rows]
        return json_reply({"object": "list", "index": name, "revision": it.revision, "data": data})

    @app.get("/v1/principles/{ident:path}", tags=["trimtab"], summary="One principle")
    async def one(request: Request, ident: str, index: str = "") -> Response:
        name, it = await _readable(service(), caller(request), index)
        found = await asyncio.to_thread(it.get, ident)
        if found is None:
            raise NotFound(f"no principle {ident!r} in index {name!r}", code="principle_not_found")
        return json_reply(_row(found))

    @app.post("/v1/principles/search", tags=["trimtab"], summary="Search an index as the stage does, with scores")
    async def search(request: Request) -> Response:
        who = _reader(caller(request))
        body = await _body(request, service())
        name, it = await _readable(service(), who, body.get("index", ""))
        hits = await _search(it, body, who.tenant)
        return json_reply(
            {"object": "list", "index": name, "revision": it.revision, "data": [asdict(hit) for hit in hits]}
        )

    @app.post("/v1/principles", tags=["trimtab"], summary="Add principles, or replace them by id")
    async def add(request: Request) -> Response:
        who = _reader(caller(request))
        body = await _body(request, service())
        name, it = await _writable(service(), who, body.get("index", ""))
        passages = await asyncio.to_thread(_passages, body.get("principles"))
        if body.get("plan") is True:
            return json_reply({"object": "plan", "index": name, **await asyncio.to_thread(_plan, it, passages)})
        revision = await asyncio.to_thread(it.add, passages)
        return json_reply({"object": "change", "index": name, "revision": revision, "ids": [p.id for p in passages]})

    @app.delete("/v1/principles/{ident:path}", tags=["trimtab"], summary="Withdraw a principle")
    async def withdraw(request: Request, ident: str, index: str = "") -> Response:
        name, it = await _writable(service(), caller(request), index)
        if await asyncio.to_thread(it.get, ident) is None:
            raise NotFound(f"no principle {ident!r} in index {name!r}", code="principle_not_found")
        revision = await asyncio.to_thread(it.withdraw, [ident])
        return json_reply({"object": "change", "index": name, "revision": revision, "ids": [ident]})


def _plan(index: Index, passages: list[Passage]) -> dict[str, Any]:
    """What adding these would do, by id; of a changed one also which fields differ. Nothing is written."""
    out: dict[str, Any] = {"revision": index.revision, "added": [], "changed": [], "same": []}
    for passage in passages:
        before = index.get(passage.id)
        if before is None:
            out["added"].append(passage.id)
            continue
        names = [f.name for f in fields(passage) if getattr(before, f.name) != getattr(passage, f.name)]
        names = [name for name in names if name != "parent"]
        if names:
            out["changed"].append({"id": passage.id, "fields": names})
        else:
            out["same"].append(passage.id)
    return out


def _row(passage: Passage) -> dict[str, Any]:
    return {"object": "principle", **asdict(passage)}


def _reader(who: Caller) -> Caller:
    """Before the body is read: the caller, if it may do anything here at all."""
    who.require("principles")
    return who


async def _body(request: Request, service: Service) -> dict[str, Any]:
    return await json_object(request, int(service.config.server.max_body_mb * 2**20), 4 * _MOST)


async def _readable(service: Service, who: Caller, name: Any) -> tuple[str, Index]:
    who.require("principles")
    specs = {n: spec for n, spec in service.indexes.specs.items() if who.sees(spec.tenant)}
    if not name and len(specs) == 1:
        name = next(iter(specs))
    if not isinstance(name, str) or name not in specs:
        raise NotFound(f"no index {name!r}; valid are {', '.join(sorted(specs)) or 'none'}", code="index_not_found")
    return name, await asyncio.to_thread(service.indexes.open, name)


async def _writable(service: Service, who: Caller, name: Any) -> tuple[str, Index]:
    name, index = await _readable(service, who, name)
    if service.indexes.specs[name].managed:
        raise Forbidden(f"index {name!r} is managed: draft a change of its rules (/v1/changes)", code="managed_index")
    if not _changes(who, service.indexes.specs[name]):
        raise Forbidden(
            f"index {name!r} is shared: changing it needs the right 'shared-principles'", code="missing_right"
        )
    return name, index


def _changes(who: Caller, spec: IndexSpec) -> bool:
    return not spec.managed and (bool(spec.tenant) or who.may("shared-principles"))


def _passages(rows: Any) -> list[Passage]:
    from retrieval.passage import Passage

    if not isinstance(rows, list) or not rows:
        raise BadRequest("principles must be a non-empty list", param="principles")
    if len(rows) > _MOST:
        raise BadRequest(f"principles has more than {_MOST} items; split the request", param="principles")
    valid = {field.name for field in fields(Passage)} - {"parent"}
    out = []
    for i, row in enumerate(rows):
        spot = f"principles[{i}]"
        if not isinstance(row, dict):
            raise BadRequest(f"{spot} must be an object", param=spot)
        if unknown := sorted(row.keys() - valid):
            raise BadRequest(f"{spot}.{unknown[0]} is unknown; valid are {', '.join(sorted(valid))}", param=spot)
        if isinstance(row.get("tags"), list):
            row = {**row, "tags": tuple(row["tags"])}
        try:
            out.append(Passage(**row))
        except (TypeError, ValueError) as error:
            raise BadRequest(f"{spot}: {error}", param=spot) from None
    if len({p.id for p in out}) < len(out):
        raise BadRequest("principles contains a duplicate id", param="principles")
    return out


async def _search(index: Index, body: dict[str, Any], owner: str) -> list[Any]:
    from retrieval.passage import Filter

    query, k = body.get("query"), body.get("k", 10)
    if not isinstance(query, str) or not query.strip():
        raise BadRequest("query must be a non-empty string", param="query")
    if len(query) > _QUERY:
        raise BadRequest(f"query has {len(query)} characters, more than {_QUERY}", param="query")
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= _MOST:
        raise BadRequest(f"k must be between 1 and {_MOST}", param="k")
    known = {"index", "query", "k", "mode", "floor", "region", "language", "kind", "tags", "on", "strict"}
    if unknown := sorted(body.keys() - known):
        raise BadRequest(f"{unknown[0]} is unknown; valid are {', '.join(sorted(known))}", param=unknown[0])
    for name in ("region", "language", "kind", "on", "mode"):
        if not isinstance(body.get(name, ""), str | None):
            raise BadRequest(f"{name} must be a string", param=name)
    if not isinstance(tags := body.get("tags") or [], list) or not all(isinstance(tag, str) for tag in tags):
        raise BadRequest("tags must be a list of strings", param="tags")
    if isinstance(floor := body.get("floor"), bool) or not isinstance(floor, int | float | None):
        raise BadRequest("floor must be a number", param="floor")
    try:
        where = Filter(
            region=body.get("region"), language=body.get("language"), kind=body.get("kind"),
            tags=tuple(tags), on=body.get("on"), strict=bool(body.get("strict", False)),
        )  # fmt: skip
        mode = body.get("mode") or "hybrid"
        return await index.asearch(query, k, where=where, mode=mode, floor=floor, owner=owner)
    except ValueError as error:
        raise BadRequest(str(error)) from None
