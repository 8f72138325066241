"""A Messages request's parameters under a chat completion's names, and those that have none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from serve.dialects.wire import NULL, Raw, Request, typed
from serve.errors import BadRequest

_encode = msgspec.json.encode
# Fields without a counterpart in a chat completion. Those not in `_REFUSED` are safe to drop: they concern caching,
# accounting or context trimming, or permit the model to think, which the engine decides by itself.
_OWN = frozenset({
    "system", "messages", "stop_sequences", "tools", "tool_choice", "metadata", "thinking", "output_config",
    "output_format", "cache_control", "container", "mcp_servers", "context_management", "service_tier", "speed",
    "inference_geo", "diagnostics", "user_profile_id", "workspace_id",
})  # fmt: skip
_REFUSED: Mapping[str, tuple[Any, ...]] = {"container": (), "mcp_servers": ([],), "n": (1,)}
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def as_chat(request: Request) -> Request:
    """The request's parameters under a chat completion's names.

    Fields without such a name are left out; `refuse_untranslatable` rejects them if the request must be translated.
    """
    fields = {name: raw for name, raw in request.fields.items() if name not in _OWN and raw != NULL}
    for name, read in _READERS.items():
        if request.fields.get(name, NULL) != NULL:
            fields |= {key: Raw(_encode(value)) for key, value in read(request.value(name)).items()}
    return Request(fields, request.model, request.stream, request.options, b"", touched=True)


def refuse_untranslatable(request: Request) -> None:
    """Reject fields that only an engine with this API can serve.

    Raises:
        BadRequest: naming the field, or saying of which type it must be.
    """
    for name in ("tool_choice", "metadata", "output_config"):
        typed(request.fields, name, dict, {})
    stops = request.value("stop_sequences", [])
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise BadRequest("stop_sequences must be a list of strings", param="stop_sequences")
    for name, harmless in _REFUSED.items():
        if request.value(name) not in (None, *harmless):
            raise _refused(name, f"{name} requires an engine with its own /v1/messages; this engine has none")
    tools = request.value("tools", [])
    for i, tool in enumerate(tools if isinstance(tools, list) else [tools]):
        kind = tool.get("type", "custom") if isinstance(tool, dict) else None
        if kind not in ("custom", None) or not isinstance(tool, dict):
            raise _refused(f"tools[{i}]", f"tools[{i}] is of type {kind!r}: this engine accepts client tools only")
    choice = request.value("tool_choice", {}).get("type", "auto")
    if choice not in (*_CHOICES, "tool"):
        raise _refused("tool_choice", f"tool_choice of type {choice!r} is unknown")


def _refused(param: str, message: str) -> BadRequest:
    return BadRequest(message, code="not_translatable", param=param)


def _tools(tools: Any) -> dict[str, Any]:
    rows = [_tool(tool) for tool in tools] if isinstance(tools, list) else tools
    return {"tools": rows} if rows else {}


def _tool(tool: Any) -> Any:
    if not isinstance(tool, dict):
        return tool
    function = {
        "name": tool.get("name"),
        "description": tool.get("description"),
        "parameters": tool.get("input_schema"),
    }
    function["strict"] = tool.get("strict")
    return {"type": "function", "function": {name: value for name, value in function.items() if value is not None}}


def _tool_choice(choice: Any) -> dict[str, Any]:
    if not isinstance(choice, dict):
        return {}
    parallel = {"parallel_tool_calls": False} if choice.get("disable_parallel_tool_use") is True else {}
    if choice.get("type") == "tool":
        return {"tool_choice": {"type": "function", "function": {"name": choice.get("name")}}, **parallel}
    return {"tool_choice": _CHOICES.get(str(choice.get("type")), "auto"), **parallel}


def _output_config(config: Any) -> dict[str, Any]:
    config = config if isinstance(config, dict) else {}
    effort = {"reasoning_effort": config["effort"]} if config.get("effort") else {}
    return {**_output_format(config.get("format")), **effort}


def _output_format(form: Any) -> dict[str, Any]:
    if not isinstance(form, dict) or form.get("type") != "json_schema":
        return {}
    schema = {"name": "answer", "schema": form.get("schema"), "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _metadata(metadata: Any) -> dict[str, Any]:
    user = metadata.get("user_id") if isinstance(metadata, dict) else None
    return {"user": user} if user else {}


_READERS: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "stop_sequences": lambda value: {"stop": value} if value else {},
    "tools": _tools,
    "tool_choice": _tool_choice,
    "metadata": _metadata,
    "output_config": _output_config,
    "output_format": _output_format,
}
