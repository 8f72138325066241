"""A draft tried on one chat: its prompt now and under the change, side by side. No engine is asked."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import Any

from serve.api.explain import show
from serve.approval.compare import Comparison, Side
from serve.approval.desk import Desk
from serve.approval.trial import Trial, prepare
from serve.approval.words import difference
from serve.chat.beside import beside
from serve.chat.keys import Caller
from serve.dialects import openai_chat, wire
from serve.errors import BadRequest


async def tried(desk: Desk, who: Caller, ident: str, body: bytes, header: str | None) -> dict[str, Any]:
    """The prompts of a chat under a policy that the change touches.

    Raises:
        BadRequest: the chat or the policy is none, or an index cannot be copied. NotFound: there is no such change.
    """
    limits = desk.config.server
    request = await beside(len(body), wire.parse, body, limits)
    chat = openai_chat.chat(request, limits)
    change = await asyncio.to_thread(desk.find, who, ident)
    try:
        trial = await asyncio.to_thread(prepare, desk, change)
    except ValueError as error:
        raise BadRequest(str(error), code="cannot_be_tried") from None
    with closing(trial):
        name = _policy(desk, trial, request.options.get("policy") or header or "")
        options = {key: value for key, value in request.options.items() if key not in ("policy", "explain")}
        found = await Comparison(desk, trial).compare(chat, name, options, who.tenant)
    before, after = _shown(found.before), _shown(found.after)
    texts = [_text(side) for side in (found.before, found.after)]
    return {
        "object": "trial", "change": change.id, "policy": name, "policies": list(trial.touched), **found.row(),
        "before": before, "after": after,
        "diff": await asyncio.to_thread(difference, *texts),
    }  # fmt: skip


def _policy(desk: Desk, trial: Trial, asked: str) -> str:
    """The policy to try: the one that was asked for, else the first that the change touches, else the server's."""
    name = asked or next(iter(trial.touched), desk.config.server.policy)
    if name not in trial.config.policies and name not in desk.config.policies:
        valid = ", ".join(sorted({*trial.config.policies, *desk.config.policies}))
        raise BadRequest(f"no policy {name!r}; valid are {valid}", param="trimtab.policy")
    return name


def _shown(side: Side | None) -> dict[str, Any] | None:
    return None if side is None else {"digest": side.digest, **show(side.prompt, side.policy, side.outcomes)}


def _text(side: Side | None) -> str:
    """A prompt as one text, to be compared."""
    if side is None:
        return ""
    messages = side.prompt.messages
    if messages is None:
        return side.prompt.text or ""
    return "\n\n".join(f"[{message.role}]\n{message.text}" for message in messages)
