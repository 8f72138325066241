"""The response object and its output items, as JSON values."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from serve.dialects.dialect import ToolCall
from serve.dialects.wire import NULL, Request

# Request fields that the response echoes, with the values it reports if the request omits them.
_ECHOED: Mapping[str, Any] = {
    "instructions": None, "max_output_tokens": None, "max_tool_calls": None, "metadata": {},
    "parallel_tool_calls": True, "previous_response_id": None, "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None}, "safety_identifier": None, "service_tier": "default",
    "temperature": 1.0, "text": {"format": {"type": "text"}}, "tool_choice": "auto", "tools": [], "top_logprobs": 0,
    "top_p": 1.0, "truncation": "disabled", "user": None, "presence_penalty": 0.0, "frequency_penalty": 0.0,
}  # fmt: skip
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
STATUS = {"length": "incomplete", "content_filter": "incomplete"}  # by finish reason; any other end is "completed"


def response(
    request: Request, ident: str, model: str, created: int, status: str, output: Sequence[Any], **more: Any
) -> dict[str, Any]:
    """A response object; `more` overrides its defaults."""
    said = {name: raw for name in _ECHOED if (raw := request.fields.get(name, NULL)) != NULL}
    return {
        "id": ident, "object": "response", "created_at": created, "status": status, "background": False,
        "completed_at": int(time.time()) if status == "completed" else None,
        "error": None, "incomplete_details": None, "model": model, "output": list(output), "store": False,
        "usage": None, **_ECHOED, **said, **more,
    }  # fmt: skip


def incomplete(finish: str) -> dict[str, str] | None:
    """`incomplete_details` of a response that ended for this reason."""
    return {"reason": _INCOMPLETE[finish]} if finish in _INCOMPLETE else None


def usage(counts: Mapping[str, Any]) -> dict[str, Any]:
    """A chat completion's usage under this API's names."""
    before, after = _count(counts, "prompt_tokens"), _count(counts, "completion_tokens")
    cached = _count(_table(counts, "prompt_tokens_details"), "cached_tokens")
    thought = _count(_table(counts, "completion_tokens_details"), "reasoning_tokens")
    return {
        "input_tokens": before, "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": after, "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": before + after,
    }  # fmt: skip


def chat_usage(counts: Any) -> dict[str, Any] | None:
    """This API's usage under a chat completion's names; None for what is none."""
    if not isinstance(counts, dict):
        return None
    before, after = _count(counts, "input_tokens"), _count(counts, "output_tokens")
    return {
        "prompt_tokens": before, "completion_tokens": after, "total_tokens": before + after,
        "prompt_tokens_details": _table(counts, "input_tokens_details"),
        "completion_tokens_details": _table(counts, "output_tokens_details"),
    }  # fmt: skip


def counted(tokens: int) -> bytes:
    """The answer of /v1/responses/input_tokens."""
    return msgspec.json.encode({"object": "response.input_tokens", "input_tokens": tokens})


def _count(counts: Mapping[str, Any], name: str) -> int:
    value = counts.get(name)
    return value if isinstance(value, int) else 0


def _table(counts: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = counts.get(name)
    return value if isinstance(value, dict) else {}


def output_text(text: str, logprobs: Sequence[Any] = ()) -> dict[str, Any]:
    """A text part."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def message(ident: str, status: str, content: Sequence[Any]) -> dict[str, Any]:
    """A message item."""
    return {"type": "message", "id": ident, "status": status, "role": "assistant", "content": list(content)}


def reasoning(ident: str, status: str, content: Sequence[Any]) -> dict[str, Any]:
    """A reasoning item; its text is plain, so that the client can send it back."""
    return {"type": "reasoning", "id": ident, "status": status, "summary": [], "content": list(content)}


def function_call(ident: str, status: str, call: ToolCall) -> dict[str, Any]:
    """A function call item."""
    return {
        "type": "function_call", "id": ident, "status": status, "call_id": call.id, "name": call.name,
        "arguments": call.arguments,
    }  # fmt: skip
