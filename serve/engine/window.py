"""What only an engine's own API says: how many tokens llama-server and Ollama take, and which version a vLLM is.

Ollama cuts a longer prompt without a word, so its limit matters more than any other. It runs a model with `num_ctx`,
which is smaller than what the model was made for unless somebody raised it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from serve.dialects.wire import NOT_JSON
from serve.engine.live import LiveEngine
from serve.engine.relay import Relay
from serve.engine.upstream import UpstreamError

OLLAMA_DEFAULT = 4096  # tokens of a model without num_ctx, since 0.6
_LIMIT = 2**26  # bytes: Ollama's answer may hold a vocabulary


async def learn_window(engine: LiveEngine, relay: Relay, within_s: float) -> None:
    """Ask for the context of an engine whose kind says it there, unless the configuration or a list has told it.

    Raises:
        UpstreamError: it does not answer.
    """
    if engine.context is not None or not engine.url:
        return
    if engine.kind == "llama.cpp":
        told = await _ask(engine, relay, "GET", "/props", None, within_s)
        settings = told.get("default_generation_settings")
        engine.context = _whole(settings.get("n_ctx")) if isinstance(settings, dict) else None
    elif engine.kind == "ollama" and (name := engine.model or next(iter(engine.names), "")):
        body = msgspec.json.encode({"model": name})
        engine.context = _of_ollama(await _ask(engine, relay, "POST", "/api/show", body, within_s))


async def learn_version(engine: LiveEngine, relay: Relay, within_s: float) -> None:
    """Ask a single vLLM for its version, by which its fields differ; a pool may be of several.

    Raises:
        UpstreamError: it does not answer.
    """
    if engine.kind == "vllm" and engine.url and engine.pool is None:
        engine.learn_version(str((await _ask(engine, relay, "GET", "/version", None, within_s)).get("version", "")))


def _of_ollama(told: Mapping[str, Any]) -> int | None:
    """What /api/show says: the model file's num_ctx, else Ollama's default, and never more than the model has."""
    info = told.get("model_info")
    if not isinstance(info, dict):
        return None
    made_for = _whole(info.get(f"{info.get('general.architecture')}.context_length"))
    set_to = re.search(r"^num_ctx\s+(\d+)", str(told.get("parameters", "")), re.MULTILINE)
    used = int(set_to[1]) if set_to else OLLAMA_DEFAULT
    return min(used, made_for) if made_for else used


async def _ask(
    engine: LiveEngine, relay: Relay, method: str, path: str, body: bytes | None, within_s: float
) -> dict[str, Any]:
    """What one of the engine's own paths says; {} where it has no such path."""
    headers = engine.headers() | ({"content-type": "application/json"} if body else {})
    url = engine.addressing.at(engine.url, path)
    try:
        async with asyncio.timeout(within_s):
            upstream = await relay.send(method, url, headers, body, ca_file=engine.addressing.ca_file)
            upstream.decode()
            with upstream:
                answer = await upstream.read(_LIMIT)
        told = msgspec.json.decode(answer) if upstream.status == 200 else {}
    except (TimeoutError, *NOT_JSON) as error:
        raise UpstreamError(error, f"What it answers at {path} cannot be read.") from error
    return told if isinstance(told, dict) else {}


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
