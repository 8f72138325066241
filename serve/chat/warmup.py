"""Warm-up: the constant part of each policy's prompts is sent once, so that no client's first request pays for it.

Only vLLM gets one: its prefix cache keeps what it has read, and nobody is billed for it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import msgspec

from prompt_opt.core import Advice, Chat, Context, Message, Policy
from prompt_opt.layout.order import lay_out
from prompt_opt.pipeline import constant
from serve.chat.salt import salt
from serve.chat.service import Service
from serve.dialects import openai_chat, openai_completions
from serve.engine.live import LiveEngine
from serve.engine.upstream import UpstreamError

log = logging.getLogger("trimtab.warmup")
_GREETING = Chat((Message("user", "Hello."),))
_TENANTS = 64  # with a salt each, beyond which the rest meet a cold cache once

Done = set[tuple[str, str, str]]  # engine, policy digest, salt


async def warm(service: Service, done: Done) -> None:
    """Send what has not been sent yet to each engine that is ready; an engine that is not loses what it knew."""
    done -= {it for it in done if it[0] not in service.engines or not service.engines[it[0]].ready}
    for policy in service.config.policies.values():
        engine = service.engines[policy.engine]
        refused = policy.render == "chat" and engine.base
        if not policy.stages or refused or not engine.ready or engine.kind != "vllm" or not engine.spec.warm_up:
            continue
        salts = [own for own in _salts(service, policy, engine) if (engine.spec.name, policy.digest, own) not in done]
        advice = await constant(Context(policy), service.stages[policy.name]) if salts else None
        if advice is None:
            continue
        for own in salts:
            done.add((engine.spec.name, policy.digest, own))
            if advice != Advice():
                await _send(service, policy, advice, engine, own)


def _salts(service: Service, policy: Policy, engine: LiveEngine) -> Iterator[str]:
    """One "" where all share; else each tenant's that may use the policy."""
    if policy.cache_salt != "tenant":
        yield ""
        return
    tenants = {k.tenant: None for k in service.config.keys if not k.policies or policy.name in k.policies}
    for tenant in list(tenants or {"": None})[:_TENANTS]:
        yield salt(service.config, policy, engine, tenant)


async def _send(service: Service, policy: Policy, advice: Advice, engine: LiveEngine, own: str) -> None:
    prompt = lay_out(_GREETING, advice, policy, specials=engine.specials)
    body: dict[str, object] = {"model": engine.name_for("") or next(iter(engine.names), ""), "max_tokens": 1}
    body |= {"cache_salt": own} if own else {}
    if prompt.messages is None:
        path, body = openai_completions.path, body | {"prompt": prompt.text}
    else:
        path = openai_chat.path
        body["messages"] = [msgspec.Raw(message.json()) for message in prompt.messages]
    headers = {**engine.headers(), "content-type": "application/json"}
    try:
        upstream = await engine.post(service.relay, path, headers, msgspec.json.encode(body), policy.digest + own)
        await upstream.read(2**20)
        said = "warmed" if upstream.status == 200 else f"not warmed: the engine answered {upstream.status}"
    except UpstreamError as error:
        said = f"not warmed: {error}"
    log.info("engine %s, policy %s: %s", engine.spec.name, policy.name, said)
