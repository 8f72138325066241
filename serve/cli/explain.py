"""`trimtab explain`: print the prompt that one chat becomes, without sending it."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from prompt_opt import profile
from prompt_opt.core import Advice, Chat, Outcome, Policy, Supplies
from prompt_opt.gate.diff import hinted, marked, word_diff
from prompt_opt.layout.order import NoPlace, lay_out
from prompt_opt.pipeline import StageFailed, build
from prompt_opt.pipeline import indexes as indexes_of
from serve.api.explain import advised, show
from serve.chat.indexes import Indexes
from serve.chat.keys import ANYBODY
from serve.chat.rewriters import Rewriters
from serve.config import Config, ConfigError, Flags, Server
from serve.configure.flags import CONFIG_HELP, found
from serve.configure.reader import load
from serve.dialects import openai_chat, wire
from serve.engine.live import LiveEngine
from serve.engine.relay import Relay
from serve.errors import ApiError


def main(argv: list[str]) -> int:
    """`trimtab explain`."""
    parser = argparse.ArgumentParser(
        "trimtab explain", description="Print the prompt that a chat becomes, before an engine's context is considered."
    )
    parser.add_argument(
        "--chat", required=True, metavar="FILE", help="a JSON list of messages, or a whole request; - reads stdin"
    )
    parser.add_argument("--config", metavar="FILE", help=CONFIG_HELP)
    parser.add_argument(
        "--policy", metavar="NAME", help="a policy of the configuration (default: the server's, else urial)"
    )
    parser.add_argument(
        "--profile",
        metavar="FILE",
        help="a profile instead of the policy's: TOML, a URIAL prompt file, or " + ", ".join(profile.shipped()),
    )
    parser.add_argument("--render", choices=("base", "chat"), help="instead of the policy's")
    parser.add_argument("--bpo", action="store_true", help="ask the policy's rewriter too, at its engine's URL")
    parser.add_argument("--json", action="store_true", help="one JSON object: text or messages, stop, decoding, spans")
    args = parser.parse_args(argv)
    try:
        config = load(Flags(config=found(args.config)))
        policy = _policy(config, args)
        request = wire.parse(_body(args.chat), Server())
        chat = openai_chat.chat(request, Server())
        options = {**request.options, "skip": [*request.options.get("skip", ()), *(() if args.bpo else ("bpo",))]}
        advice, outcomes = asyncio.run(_alone(config, policy, chat, options))
        prompt = lay_out(chat, advice, policy)
    except (ConfigError, profile.ProfileError, StageFailed, NoPlace, ApiError) as error:
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
    for outcome in outcomes:
        texts = outcome.detail.get("content", {})
        if "after" in texts:
            diff = hinted if outcome.detail["mode"] == "complement" else word_diff
            print(f"{outcome}: {marked(diff(texts['before'], texts['after']))}", file=sys.stderr)
        elif outcome.reason != "request":
            print(outcome, file=sys.stderr)
    for note in prompt.notes:
        print(f"note: {note}", file=sys.stderr)
    return 0


async def _alone(
    config: Config, policy: Policy, chat: Chat, options: Mapping[str, Any]
) -> tuple[Advice, tuple[Outcome, ...]]:
    """The advice of a policy's stages without a server: indexes are opened here, rewriters asked from here."""
    indexes = Indexes(config.indexes)
    relay = Relay(connect_s=config.server.connect_s, timeout_s=config.server.timeout_s)
    try:
        for name in indexes_of(policy):
            indexes.open(name)
        engines = {name: LiveEngine(engine) for name, engine in config.engines.items()}
        supplies = Supplies(indexes, Rewriters(config.rewriters, engines, relay).get)
        return await advised(chat, policy, build(policy, supplies), ANYBODY, options)
    finally:
        indexes.close()
        await relay.close()


def _policy(config: Config, args: argparse.Namespace) -> Policy:
    name = args.policy or (config.server.policy if args.config else "urial")
    if name not in config.policies:
        raise ConfigError(f"no policy {name!r}; valid are {', '.join(sorted(config.policies))}")
    policy = config.policies[name]
    if args.profile:
        policy = replace(policy, profile=profile.load(args.profile))
    return replace(policy, render=args.render) if args.render else policy


def _body(file: str) -> bytes:
    """A request: the file's, or one made of its list of messages."""
    try:
        body = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise ConfigError(f"--chat {file}: {error.strerror}") from None
    try:
        rows = msgspec.json.decode(body, type=list[msgspec.Raw] | dict[str, msgspec.Raw])
    except RecursionError:
        raise ConfigError(f"--chat {file}: nested too deeply") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(f"--chat {file}: neither a JSON list of messages nor a request: {error}") from None
    return body if isinstance(rows, dict) else b'{"messages":' + body + b"}"
