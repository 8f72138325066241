"""Lay out one chat and show the prompt, without sending it: POST /v1/explain, and `trimtab explain`."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from prompt_opt import profile
from prompt_opt.core import Chat, Context, Outcome, Policy, Prompt, Stage
from prompt_opt.layout import NoPlace, lay_out
from prompt_opt.pipeline import advise, build
from serve import wire
from serve.choose import choose
from serve.config import ConfigError, Flags, Server
from serve.errors import ApiError, BadRequest
from serve.keys import Caller
from serve.reader import load
from serve.service import Service


async def explained(service: Service, who: Caller, request: wire.Request, header: str | None) -> dict[str, Any]:
    """The prompt that this request would become.

    Raises:
        BadRequest: the chat has no place in a base model's prompt.
    """
    policy, _ = choose(service.config, who, request.model, header, request.options)
    chat = wire.chat(request, service.config.server)
    prompt, outcomes = await _prompt(chat, policy, service.stages[policy.name], who.tenant, request.options)
    return {"policy": policy.name, "digest": policy.digest, **show(prompt, policy, outcomes)}


async def _prompt(
    chat: Chat, policy: Policy, stages: Sequence[Stage], tenant: str, options: Any
) -> tuple[Prompt, tuple[Outcome, ...]]:
    context = Context(policy, tenant, options, time.monotonic() + policy.budget_ms / 1000)
    advice, outcomes = await advise(chat, context, stages) if stages else (None, ())
    try:
        return lay_out(chat, advice or merge_nothing(), policy), outcomes
    except NoPlace as error:
        raise BadRequest(str(error), code="no_place_in_base_render") from None


def show(prompt: Prompt, policy: Policy, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """A prompt as JSON: `text` or `messages`, `stop`, `decoding`, and where each piece comes from."""
    out: dict[str, Any] = {"render": policy.render}
    if prompt.messages is None:
        out |= {"text": prompt.text, "stop": list(prompt.stops), "decoding": dict(policy.profile.decoding)}
    else:
        out |= {"messages": [msgspec.json.decode(m.json()) for m in prompt.messages], "stop": [], "decoding": {}}
    out["stages"] = [str(outcome) for outcome in outcomes]
    out["notes"] = list(prompt.notes)
    out["spans"] = [{"origin": s.origin, "text": s.text, "message": s.message} for s in prompt.spans]
    return out


def merge_nothing() -> Any:
    from prompt_opt.core import Advice

    return Advice()


def main(argv: list[str]) -> int:
    """`trimtab explain`."""
    parser = argparse.ArgumentParser("trimtab explain", description="Print the prompt that a chat becomes.")
    parser.add_argument(
        "--chat", required=True, metavar="FILE", help="a JSON list of messages, or a whole request; - reads stdin"
    )
    parser.add_argument("--config", metavar="FILE", help="trimtab.toml")
    parser.add_argument("--policy", metavar="NAME", help="a policy of the configuration (default: urial)")
    parser.add_argument(
        "--profile",
        metavar="FILE",
        help="a profile instead of the policy's: TOML, a URIAL prompt file, or " + ", ".join(profile.shipped()),
    )
    parser.add_argument("--render", choices=("base", "chat"), help="instead of the policy's")
    parser.add_argument("--json", action="store_true", help="one JSON object: text or messages, stop, decoding, spans")
    args = parser.parse_args(argv)
    try:
        config = load(Flags(config=args.config))
        name = args.policy or "urial"
        if name not in config.policies:
            raise ConfigError(f"no policy {name!r}; valid are {', '.join(sorted(config.policies))}")
        policy = config.policies[name]
        if args.profile:
            policy = replace(policy, profile=profile.load(args.profile))
        if args.render:
            policy = replace(policy, render=args.render)
        text = sys.stdin.read() if args.chat == "-" else Path(args.chat).read_text("utf-8")
        rows = json.loads(text)
        body = rows if isinstance(rows, dict) else {"messages": rows}
        request = wire.parse(json.dumps(body).encode(), Server())
        chat = wire.chat(request, Server())
        prompt, outcomes = asyncio.run(_prompt(chat, policy, build(policy), "", request.options))
    except (ConfigError, profile.ProfileError, OSError, ValueError, ApiError) as error:
        print(f"trimtab explain: {error}", file=sys.stderr)
        return 2
    shown = show(prompt, policy, outcomes)
    if args.json:
        print(json.dumps(shown, ensure_ascii=False, indent=2))
    elif prompt.messages is None:
        print(shown["text"], end="")
    else:
        for message in shown["messages"]:
            print(f"--- {message['role']}\n{message.get('content')}")
    for note in prompt.notes:
        print(f"note: {note}", file=sys.stderr)
    return 0
