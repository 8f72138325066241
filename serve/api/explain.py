"""Lay out one chat and show the prompt, without sending it: POST /v1/explain, and what `trimtab explain` shares."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from prompt_opt.core import Advice, Chat, Context, Outcome, Policy, Prompt, Stage
from prompt_opt.pipeline import advise, digest
from serve.chat.align import laid_out
from serve.chat.beside import beside
from serve.chat.choose import choose
from serve.chat.keys import Caller
from serve.chat.record import states_of
from serve.chat.salt import of_tenant, on_behalf
from serve.chat.service import Service
from serve.dialects import openai_chat, wire


async def explained(service: Service, who: Caller, request: wire.Request, header: str | None) -> dict[str, Any]:
    """The prompt that this request would become, laid out as for its engine.

    Raises:
        BadRequest: the chat has no place in a base model's prompt.
    """
    policy, _ = choose(service.config, who, request.model, header, request.options)
    size = len(request.body)
    chat = await beside(size, openai_chat.chat, request, service.config.server)
    on_behalf.set(of_tenant(service.config, policy, who.tenant))
    advice, outcomes = await advised(chat, policy, service.stages[policy.name], who, request.options)
    engine = service.engines[policy.engine]
    prompt, outcomes = await laid_out(engine, request, chat, advice, outcomes, policy)
    whole = digest(policy, states_of(outcomes))
    return {"policy": policy.name, "digest": whole, **await beside(size, show, prompt, policy, outcomes)}


async def advised(
    chat: Chat, policy: Policy, stages: Sequence[Stage], who: Caller, options: Mapping[str, Any]
) -> tuple[Advice, tuple[Outcome, ...]]:
    """What the stages advise on a chat of `who`, within the policy's budget.

    Raises:
        StageFailed: a stage failed or was late, and the policy says "fail".
    """
    deadline = time.monotonic() + policy.budget_ms / 1000
    return await advise(chat, Context(policy, who.tenant, who.options(options), deadline, key=who.name), stages)


def show(prompt: Prompt, policy: Policy, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """A prompt as JSON: `text` or `messages`, `stop`, `decoding`, and where each piece comes from."""
    out: dict[str, Any] = {"render": policy.render}
    if prompt.messages is None:
        out |= {"text": prompt.text, "stop": list(prompt.stops), "decoding": dict(policy.profile.decoding)}
    else:
        out |= {"messages": [msgspec.json.decode(m.json()) for m in prompt.messages], "stop": [], "decoding": {}}
    out["stages"] = [str(outcome) for outcome in outcomes]
    out["notes"] = list(prompt.notes)
    if details := {outcome.stage: dict(outcome.detail) for outcome in outcomes if outcome.detail}:
        out["details"] = details
    out["spans"] = [{"origin": s.origin, "text": s.text, "message": s.message} for s in prompt.spans]
    return out
