"""Whether the judge is the model that an arm is made of, whatever either is called: models prefer their own answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from trainers.ask.host import EngineError

# Other weights of the same model: how they were rounded or packed.
_PACKED = re.compile(r"[-_.](awq|gptq|gguf|fp8|fp16|bf16|int[48]|[48]bit|q\d(_\w+)*|bnb|mlx|onnx)\b.*$")


@dataclass(frozen=True, slots=True)
class Served:
    """A model behind a URL, by all the `names` that it goes by there."""

    url: str
    names: frozenset[str]


def served(url: str, model: str, headers: Mapping[str, str] | None = None, timeout_s: float = 60.0) -> Served:
    """What answers there: asked by /v1/models (`id`, and vLLM's `root` and `parent`), and by a chat of one token.

    The answer's `model` looks through an alias or a policy of Trimtab, which relays it from the engine; so does what
    its /v1/policies says of the policy that `headers` or the alias name.
    Raises EngineError where the server cannot be reached; one that lists or says nothing goes by the name it was given.
    """
    base = url.rstrip("/").removesuffix("/v1")
    body = {"messages": [{"role": "user", "content": "Say yes."}], "max_tokens": 1, "temperature": 0}
    try:
        with httpx.Client(timeout=timeout_s, headers=dict(headers or {})) as client:
            listed = client.get(base + "/v1/models")
            policies = client.get(base + "/v1/policies")
            told = client.post(base + "/v1/chat/completions", json=body | ({"model": model} if model else {}))
    except httpx.TransportError as error:
        raise EngineError(f"{url} cannot be reached: {error} (is it running?)") from None
    answered = str(_json(told).get("model") or "")
    rows, there = _rows(listed), _rows(policies)
    if not model and not answered and len(rows) == 1 and not there:
        answered = str(rows[0].get("id"))
    names = {model, answered}
    policy = {name.lower(): value for name, value in (headers or {}).items()}.get("x-trimtab-policy", "")
    for row in rows:
        if row.get("id") in names:
            names |= {str(row[key]) for key in ("root", "parent") if row.get(key)}
            policy = policy or str(row.get("policy") or "")  # an alias of Trimtab
    for row in there:
        if row.get("id") == policy or (not policy and row.get("default")):
            names.add(str(row.get("model") or ""))
    return Served(base, frozenset(names - {""}))


def _rows(reply: httpx.Response) -> list[dict[str, Any]]:
    rows = _json(reply).get("data")
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _json(reply: httpx.Response) -> dict[str, Any]:
    try:
        body = reply.json() if reply.status_code == 200 else None
    except ValueError:
        body = None
    return body if isinstance(body, dict) else {}


def judge_is_arm(judge: Served, arms: Mapping[str, Served]) -> str:
    """Why the judge may not judge: it is the model of an arm. "" where no name says so."""
    own = {_plain(name): name for name in judge.names}
    for arm, there in arms.items():
        for name in sorted(there.names):
            if _plain(name) in own:
                called = "" if name == own[_plain(name)] else f" (there called {name})"
                return (
                    f"the judge {own[_plain(name)]} is the model of arm {arm!r}{called}; "
                    "models prefer what they have written themselves"
                )
    return ""


def _plain(name: str) -> str:
    """A model's name without its owner, folder, tag, case and packing."""
    last = name.rstrip("/").rsplit("/", 1)[-1].casefold().removesuffix(":latest")
    return _PACKED.sub("", last).replace("_", "-")
