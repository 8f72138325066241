"""A chat request as a text completion: what of it has a place there, and the fields that go to the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prompt_opt.core import Policy, Prompt
from serve.dialects.openai_chat.conversation import logprobs, stops
from serve.dialects.wire import NULL, Request
from serve.errors import BadRequest

# Chat fields that a text completion has no place for, or another name.
_CHAT_ONLY = frozenset({
    "messages", "max_completion_tokens", "logprobs", "top_logprobs", "tools", "tool_choice", "parallel_tool_calls",
    "functions", "function_call", "modalities", "audio", "prediction", "reasoning_effort", "store", "metadata",
    "verbosity", "web_search_options", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "chat_template", "chat_template_kwargs", "add_generation_prompt", "continue_final_message", "documents",
    "service_tier",
})  # fmt: skip
# Of those, what changes an answer so much that leaving it out must not happen in silence; and completion fields that
# would put the policy's prompt into the answer, or another prompt in its place.
_REFUSED: Mapping[str, Sequence[Any]] = {
    "modalities": (["text"],), "audio": (), "function_call": ("none", "auto"), "web_search_options": (), "documents": ()
}  # fmt: skip
_NOT_CHATS = ("prompt", "suffix", "echo", "prompt_logprobs", "prompt_embeds")
_UNHEARD = (
    "prediction", "reasoning_effort", "store", "metadata", "verbosity", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "chat_template", "chat_template_kwargs", "add_generation_prompt",
    "continue_final_message", "service_tier",
)  # fmt: skip
_UNPLACED = frozenset([*_REFUSED, *_NOT_CHATS, *_UNHEARD])


def refuse_unplaced(request: Request) -> tuple[str, ...]:
    """What a text completion has no place for: notes on what can be left out, an error for what can't.

    Raises:
        BadRequest: naming the field.
    """
    if _UNPLACED.isdisjoint(request.fields):
        return ()
    for name, harmless in _REFUSED.items():
        if request.value(name) not in (None, *harmless):
            raise BadRequest(
                f"{name} can't be given to a base model: a text completion has no place for it",
                code="no_place_in_base_render",
                param=name,
            )
    for name in _NOT_CHATS:
        if request.value(name) not in (None, False):
            raise BadRequest(f"{name} is no field of a chat completion", code="no_place_in_base_render", param=name)
    return tuple(
        f"{name} not sent: a base model has no use for it"
        for name in _UNHEARD
        if request.fields.get(name, NULL) != NULL
    )


def fields(request: Request, prompt: Prompt, policy: Policy, model: str, tokens: int, max_stop: int) -> dict[str, Any]:
    """The fields for /v1/completions: the client's, the profile's decoding where the client says nothing, the prompt.

    Stops: the layout's first, then the client's, as many as the engine takes; `Ending` enforces all of them.
    """
    out: dict[str, Any] = dict(policy.profile.decoding)
    for name, raw in request.fields.items():
        if name not in _CHAT_ONLY and raw != NULL:
            out[name] = raw
    if model:
        out["model"] = model
    out["prompt"] = prompt.text
    out["max_tokens"] = tokens
    wanted = list(dict.fromkeys((*prompt.stops, *stops(request))))[:max_stop]
    out.pop("stop", None)
    if wanted:
        out["stop"] = wanted
    if (top := logprobs(request)) is not None:
        out["logprobs"] = max(1, top)
    if "response_format" in out and request.value("response_format", {}) in ({}, {"type": "text"}):
        out.pop("response_format", None)
    return out
