"""The API of feedback: a thumb for an answer, or one answer preferred to another, kept with prompt and answers."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response

from serve.api.bodies import read_json
from serve.api.recent import found
from serve.api.replies import json_reply
from serve.chat.keys import Caller
from serve.chat.service import Service
from serve.dialects.wire import NOT_JSON
from serve.errors import BadRequest, NotFound
from serve.store.feedback import KINDS, Verdicts, same_answers
from serve.store.place import open_verdicts

_MOST = 500  # verdicts on one page
_BODY = 2**16
_COMMENT = 4000
_ROLES = ("system", "developer", "user", "assistant")
_SHAPE = 'send {"trace", "rating": "up" | "down"} or {"chosen", "rejected"}, each the id of a trace'


def add_routes(app: FastAPI, service: Callable[[], Service], caller: Callable[[Request], Caller]) -> None:
    """Put the routes on the application. All need the right `feedback`, and see their tenant's only."""

    def allowed(request: Request) -> tuple[Caller, Verdicts]:
        who = caller(request)
        who.require("feedback")
        return who, open_verdicts(service().config)

    @app.post("/v1/feedback", tags=["trimtab"], summary="Rate an answer, or say which of two is better")
    async def give(request: Request) -> Response:
        who, verdicts = allowed(request)
        body = await _body(request)
        verdict = await _verdict(service(), who, body)
        subject = [verdict[side]["trace"] for side in ("rated", "chosen", "rejected") if side in verdict]
        await asyncio.to_thread(verdicts.put, who.tenant, who.name, subject, verdict)
        return json_reply(verdict)

    @app.get("/v1/feedback", tags=["trimtab"], summary="Feedback of the key's tenant, newest first")
    async def page(request: Request, kind: str = "", after: str = "", limit: int = 100) -> Response:
        who, verdicts = allowed(request)
        if kind and kind not in KINDS:
            raise BadRequest(f"no kind {kind!r}; valid are {', '.join(KINDS)}", param="kind")
        most = max(1, min(limit, _MOST))
        rows = await asyncio.to_thread(verdicts.page, who.tenant, kind, after, most)
        return json_reply({"object": "list", "data": rows, "next": rows[-1]["id"] if len(rows) == most else None})

    @app.delete("/v1/feedback/{ident}", tags=["trimtab"], summary="Withdraw feedback, prompt and answers with it")
    async def withdraw(request: Request, ident: str) -> Response:
        who, verdicts = allowed(request)
        if not await asyncio.to_thread(verdicts.withdraw, who.tenant, ident):
            raise NotFound(f"no feedback {ident!r}: unknown or another tenant's", code="feedback_not_found")
        return json_reply({"object": "feedback", "id": ident, "withdrawn": True})


async def _body(request: Request) -> dict[str, Any]:
    raw = await read_json(request, _BODY)
    try:
        body = msgspec.json.decode(raw, type=dict[str, str])
    except NOT_JSON as error:
        raise BadRequest(f"the body is not an object of texts: {error}; {_SHAPE}", code="invalid_json") from None
    asked = body.keys() - {"comment"}
    if asked not in ({"trace", "rating"}, {"chosen", "rejected"}):
        raise BadRequest(_SHAPE, code="invalid_feedback")
    if body.get("rating", "up") not in ("up", "down"):
        raise BadRequest("rating must be 'up' or 'down'", param="rating")
    if "chosen" in body and body["chosen"] == body["rejected"]:
        raise BadRequest("chosen and rejected are the same answer", param="rejected")
    if len(body.get("comment", "")) > _COMMENT:
        raise BadRequest(f"comment is longer than {_COMMENT} characters", param="comment")
    return body


async def _verdict(service: Service, who: Caller, body: dict[str, str]) -> dict[str, Any]:
    """The verdict that is kept: the question and the answers as the traces have them."""
    named = {side: body[name] for side, name in _sides(body).items()}
    traces = dict(zip(named, await asyncio.gather(*(found(service, who, i) for i in named.values())), strict=True))
    prompts = [_prompt(trace) for trace in traces.values()]
    if any(prompt != prompts[0] for prompt in prompts):
        raise BadRequest(
            "chosen and rejected answer different conversations: a preference is between two answers to the same one",
            code="different_prompts",
        )
    rating = {"rating": body["rating"]} if "rating" in body else {}
    answers = {side: _answer(trace) for side, trace in traces.items()}
    if not rating and same_answers(answers):
        raise BadRequest("chosen and rejected have the same text: there is nothing to prefer", code="same_answer")
    return {
        "object": "feedback",
        "id": uuid.uuid4().hex,
        "kind": "rating" if rating else "preference",
        "created": int(time.time()),
        "key": who.name,
        **rating,
        "comment": body.get("comment", ""),
        "prompt": prompts[0],
        **answers,
    }


def _sides(body: dict[str, str]) -> dict[str, str]:
    return {"rated": "trace"} if "trace" in body else {"chosen": "chosen", "rejected": "rejected"}


def _prompt(trace: dict[str, Any]) -> list[dict[str, str]]:
    """The conversation as the client sent it, in texts.

    Raises:
        BadRequest: the trace keeps none, or holds what is no text.
    """
    if trace.get("before") is None:
        raise BadRequest(
            f'trace {trace["id"]} has no content: send the request with "trimtab": {{"explain": true}}, or set '
            "trace_content = true in [server]",
            code="trace_without_content",
        )
    return [_turn(trace["id"], message) for message in trace["before"]]


def _turn(ident: str, message: Any) -> dict[str, str]:
    role = message.get("role") if isinstance(message, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        content = "\n".join(part["text"] for part in content)
    if role not in _ROLES or not isinstance(content, str) or message.get("tool_calls"):
        raise BadRequest(f"trace {ident} is not text only: images and tool calls cannot be rated", code="not_text")
    return {"role": role, "content": content}


def _answer(trace: dict[str, Any]) -> dict[str, Any]:
    """One side of a verdict.

    Raises:
        BadRequest: there is no whole answer to have an opinion of.
    """
    if trace["error"] or trace["status"] != 200:
        why = trace["error"] or f"status {trace['status']}"
        raise BadRequest(f"the answer of trace {trace['id']} is incomplete: {why}", code="answer_incomplete")
    if not trace.get("answer"):
        raise BadRequest(f"trace {trace['id']} has no text in its answer", code="no_answer")
    same = ("policy", "policy_digest", "model", "engine", "answer")
    return {"trace": trace["id"], **{name: trace[name] for name in same}}
