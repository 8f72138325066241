"""What a request's body asks for. What this engine cannot do is refused by name; nothing is dropped in silence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serve.engine.local.sampling import Sampling

_CHAT_TOKENS = 1024  # of an answer, where a chat names no limit
# Fields that change nothing about an answer here, so that ignoring them is right.
_ABOUT = frozenset({"user", "metadata", "store", "safety_identifier", "prompt_cache_key", "service_tier"})
_COMMON = frozenset({
    "model", "stream", "stream_options", "n", "temperature", "top_p", "top_k", "min_p", "presence_penalty",
    "frequency_penalty", "repetition_penalty", "logit_bias", "seed", "max_tokens", "stop", "logprobs", "ignore_eos",
})  # fmt: skip
_CHAT = _COMMON | _ABOUT | {"messages", "max_completion_tokens", "top_logprobs"}
_COMPLETION = _COMMON | _ABOUT | {"prompt", "echo", "best_of"}
# Fields that are known but do nothing when they have these values, which clients send all the time.
_OFF: Mapping[str, tuple[Any, ...]] = {
    "response_format": ({"type": "text"},), "tools": ([],), "tool_choice": ("none", "auto"), "modalities": (["text"],),
    "suffix": ("",), "parallel_tool_calls": (True, False),
}  # fmt: skip
# The numbers: the type, the least and the most.
_RANGES: Mapping[str, tuple[type, float, float]] = {
    "temperature": (float, 0, 10), "top_p": (float, 0, 1), "top_k": (int, -1, 10**6), "min_p": (float, 0, 1),
    "presence_penalty": (float, -2, 2), "frequency_penalty": (float, -2, 2), "repetition_penalty": (float, 0.01, 100),
}  # fmt: skip


class Refused(ValueError):
    """A 400; `param` is the field."""

    def __init__(self, message: str, param: str = "", code: str = "invalid_value") -> None:
        super().__init__(message)
        self.param, self.code = param, code


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, understood."""

    sampling: Sampling
    n: int
    stream: bool
    usage: bool  # a stream ends with the token counts
    echo: bool = False
    messages: tuple[Mapping[str, Any], ...] = ()
    prompts: tuple[str | tuple[int, ...], ...] = ()


def chat(body: Mapping[str, Any]) -> Asked:
    """The body of /v1/chat/completions. Raises Refused."""
    _known(body, _CHAT)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refused("messages must be a list of at least one message", "messages")
    told = bool(_value(body, "logprobs", bool, False))
    top = int(_whole(body, "top_logprobs", 0, 20, 0))
    if top and not told:
        raise Refused("top_logprobs needs logprobs: true", "top_logprobs")
    most = _whole(body, "max_completion_tokens", 1, 10**6, 0) or _whole(body, "max_tokens", 1, 10**6, _CHAT_TOKENS)
    return _asked(body, _sampling(body, most, top if told else None), messages=tuple(map(_message, messages)))


def completion(body: Mapping[str, Any]) -> Asked:
    """The body of /v1/completions. Raises Refused."""
    _known(body, _COMPLETION)
    echo = bool(_value(body, "echo", bool, False))
    logprobs = None if body.get("logprobs") is None else _whole(body, "logprobs", 0, 20, 0)
    sampling = _sampling(body, _whole(body, "max_tokens", 0 if echo else 1, 10**6, 16), logprobs)
    asked = _asked(body, sampling, echo=echo, prompts=_prompts(body.get("prompt")))
    if body.get("best_of") not in (None, asked.n):
        raise Refused("best_of is not supported", "best_of", "unsupported")
    if asked.stream and (len(asked.prompts) > 1 or echo):
        raise Refused("a stream takes one prompt, without echo", "stream", "unsupported")
    return asked


def _asked(body: Mapping[str, Any], sampling: Sampling, **more: Any) -> Asked:
    options = _value(body, "stream_options", dict, {}) or {}
    stream = bool(_value(body, "stream", bool, False))
    return Asked(sampling, _whole(body, "n", 1, 16, 1), stream, bool(options.get("include_usage")), **more)


def _sampling(body: Mapping[str, Any], most: int, logprobs: int | None) -> Sampling:
    numbers: dict[str, Any] = {
        name: _number(body, name, *_RANGES[name]) for name in _RANGES if body.get(name) is not None
    }
    if numbers.get("top_k") == -1:
        numbers["top_k"] = 0
    bias = _value(body, "logit_bias", dict, {}) or {}
    try:
        biases = {int(token): float(value) for token, value in bias.items()}
    except (TypeError, ValueError):
        raise Refused("logit_bias must map token ids to numbers", "logit_bias") from None
    stop = body.get("stop") or []
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(it, str) for it in stops):
        raise Refused("stop must be a string or a list of strings", "stop")
    return Sampling(
        **numbers,
        logit_bias=biases,
        seed=None if body.get("seed") is None else _whole(body, "seed", -(2**63), 2**64, 0) % 2**63,
        max_tokens=most,
        stop=tuple(it for it in stops if it),
        logprobs=logprobs,
        ignore_eos=bool(_value(body, "ignore_eos", bool, False)),
    )


def _known(body: Mapping[str, Any], names: frozenset[str]) -> None:
    for name, value in body.items():
        if name not in names and value is not None and value not in _OFF.get(name, ()):
            raise Refused(f"{name} is not supported by this engine", name, "unsupported")


def _message(message: Any) -> Mapping[str, Any]:
    """A message with its text as a string: parts are joined."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise Refused("each message needs a role and content", "messages")
    content = message.get("content")
    if isinstance(content, list):
        if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            raise Refused("messages hold text only", "messages", "unsupported")
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise Refused("a message's content must be text", "messages")
    return {**message, "content": content}


def _prompts(prompt: Any) -> tuple[str | tuple[int, ...], ...]:
    """One prompt or several, as text or as tokens."""
    if isinstance(prompt, str) or (isinstance(prompt, list) and prompt and isinstance(prompt[0], int)):
        prompt = [prompt]
    if not isinstance(prompt, list) or not prompt:
        raise Refused("prompt must be a text or a list of texts", "prompt")
    out: list[str | tuple[int, ...]] = []
    for it in prompt:
        if isinstance(it, list) and it and all(isinstance(token, int) and token >= 0 for token in it):
            out.append(tuple(it))
        elif isinstance(it, str) and it:
            out.append(it)
        else:
            raise Refused("a prompt must be a text or a list of token ids, and not empty", "prompt")
    return tuple(out)


def _value(body: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = body.get(name)
    if value is not None and not isinstance(value, kind):
        raise Refused(f"{name} must be a {kind.__name__}", name)
    return default if value is None else value


def _number(body: Mapping[str, Any], name: str, kind: type, least: float, most: float) -> float:
    value = body[name]
    fits = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
    if not fits or not least <= value <= most:
        raise Refused(f"{name} must be between {least:g} and {most:g}", name)
    return kind(value)  # type: ignore[no-any-return]


def _whole(body: Mapping[str, Any], name: str, least: int, most: int, default: int) -> int:
    if body.get(name) is None:
        return default
    return int(_number(body, name, int, least, most))
