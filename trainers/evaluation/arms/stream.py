"""One chat completion, streamed and timed."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from trainers.ask.host import Again, refusal
from trainers.evaluation.arms.arm import Arm

_BLAND = re.compile(r", (?=[\w-]+=(?:applied|skipped|timed_out|failed))")
_TOP = 20  # log-probabilities of a first token, which is as many as OpenAI gives


@dataclass(slots=True)
class Reply:
    """What came back. `refused` says why the engine turned the request down for good. Times are seconds."""

    text: str = ""
    finish: str = ""
    refused: str = ""
    status: int = 200
    first_s: float | None = None
    total_s: float | None = None
    usage: Mapping[str, Any] = field(default_factory=dict)
    stages: Mapping[str, str] = field(default_factory=dict)
    trace: str = ""


async def streamed(client: httpx.AsyncClient, arm: Arm, body: Mapping[str, Any], stream: bool = True) -> Reply:
    """Send the request and read the answer as it comes; an engine that does not stream, or is not to, is read whole.

    Raises:
        Again: another attempt may help; also for a stream that ends without an end. EngineError: none would.
    """
    started = time.monotonic()
    async with client.stream("POST", arm.endpoint, json={**body, "stream": stream}, headers=arm.headers()) as response:
        if response.status_code != 200:
            return await _turned_down(response, arm)
        reply = Reply(stages=stages(response.headers), trace=response.headers.get("x-trimtab-trace", ""))
        if "json" in response.headers.get("content-type", ""):
            await response.aread()
            _whole(reply, response)
        else:
            await _events(reply, response, started)
    reply.total_s = time.monotonic() - started
    return reply


async def _turned_down(response: httpx.Response, arm: Arm) -> Reply:
    await response.aread()
    why = refusal(response, f"arm {arm.name!r}, {arm.url}", arm.endpoint, arm.model, arm.key_env)
    return Reply(refused=why, status=response.status_code)


async def _events(reply: Reply, response: httpx.Response, started: float) -> None:
    """Server-sent events, of which only `data` lines matter here."""
    parts: list[str] = []
    ended = False
    async for line in response.aiter_lines():
        if not line.startswith("data:"):
            continue
        data = line[5:].strip()
        if data == "[DONE]":
            ended = True
            break
        piece, finish, usage = _chunk(data)
        if piece:
            if reply.first_s is None:
                reply.first_s = time.monotonic() - started
            parts.append(piece)
        reply.finish = finish or reply.finish
        reply.usage = usage or reply.usage
    if not ended and not reply.finish:
        raise Again("closed the stream before the answer ended")
    reply.text = whole("".join(parts))


def _chunk(data: str) -> tuple[str, str, Mapping[str, Any]]:
    """Text, reason of the end and usage of one event, each "" or empty where it has none."""
    try:
        event = json.loads(data)
        if event.get("error"):
            raise Again(f"ended an answer with an error: {' '.join(json.dumps(event['error']).split())[:200]}")
        choice = (event.get("choices") or [{}])[0]
        text = (choice.get("delta") or {}).get("content") or ""
        return str(text), str(choice.get("finish_reason") or ""), _usage(event)
    except (ValueError, AttributeError, KeyError, IndexError, TypeError):
        raise Again(f"sent an invalid event: {data[:80]!r}") from None


def _whole(reply: Reply, response: httpx.Response) -> None:
    try:
        told = response.json()
        choice = told["choices"][0]
        reply.text = whole(str(choice["message"].get("content") or ""))
        reply.finish, reply.usage = str(choice.get("finish_reason") or "stop"), _usage(told)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise Again("answered with no chat completion") from None


def whole(text: str) -> str:
    """The text with its halves of characters put together, and those that have no other half replaced: JSON can hold
    them (a backslash, ud83d), and no file and no other request can."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _usage(told: Mapping[str, Any]) -> Mapping[str, Any]:
    """What it says of tokens; nothing where that is not as OpenAI has it."""
    usage = told.get("usage")
    return usage if isinstance(usage, Mapping) else {}


def stages(headers: Mapping[str, str]) -> dict[str, str]:
    """What X-Trimtab-Applied says of each stage: {"urial": "applied(3)"}. A reason may hold commas."""
    told = headers.get("x-trimtab-applied", "")
    pairs = [part.partition("=") for part in _BLAND.split(told) if "=" in part]
    return {stage.strip(): outcome for stage, _, outcome in pairs}


async def letters(
    client: httpx.AsyncClient, arm: Arm, body: Mapping[str, Any], among: tuple[str, ...]
) -> dict[str, float] | None:
    """Log-probabilities of the letters as the answer's first token; None where the engine has none to give.

    A letter that is not among the likeliest 20 tokens is left out. Raises as `streamed` does.
    """
    length = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
    asked = {**body, length: 1, "temperature": 0, "logprobs": True, "top_logprobs": _TOP}
    response = await client.post(arm.endpoint, json=asked, headers=arm.headers())
    if response.status_code != 200:
        await _turned_down(response, arm)  # an Again or EngineError goes on
        return None
    try:
        tops = response.json()["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        found: dict[str, float] = {}
        for top in tops:  # "A" and " A" are one letter here; the likelier counts
            if (letter := str(top["token"]).strip()) in among:
                found[letter] = max(found.get(letter, float("-inf")), float(top["logprob"]))
        return found
    except (ValueError, KeyError, IndexError, TypeError):
        return None
