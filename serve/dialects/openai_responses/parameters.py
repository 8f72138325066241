"""A Responses request's parameters under a chat completion's names, and those that have none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from serve.dialects.wire import NULL, Raw, Request, typed
from serve.errors import BadRequest

_encode = msgspec.json.encode
# Fields without a counterpart in a chat completion. Those not in `_REFUSED` do not change the answer: the response
# object echoes them, or they concern built-in tools, which are refused themselves.
_OWN = frozenset({
    "input", "instructions", "max_output_tokens", "text", "reasoning", "tools", "tool_choice", "include", "store",
    "metadata", "truncation", "max_tool_calls", "stream_options", "previous_response_id", "conversation", "background",
    "prompt", "context_management", "moderation", "top_logprobs",
})  # fmt: skip
# Fields that only an engine with this API can serve, each with the values that request nothing.
_REFUSED: Mapping[str, tuple[Any, ...]] = {
    "previous_response_id": (), "conversation": (), "background": (False,), "store": (False,), "prompt": (),
    "context_management": ([],), "moderation": (), "n": (1,),
}  # fmt: skip
_LOGPROBS = "message.output_text.logprobs"


def as_chat(request: Request) -> Request:
    """The request's parameters under a chat completion's names.

    Fields without such a name are left out; `refuse_untranslatable` rejects them if the request must be translated.
    """
    fields = {name: raw for name, raw in request.fields.items() if name not in _OWN and raw != NULL}
    for name, read in _READERS.items():
        if request.fields.get(name, NULL) != NULL:
            fields |= {key: Raw(_encode(value)) for key, value in read(request.value(name)).items()}
    if _LOGPROBS in _list(request.value("include")):
        top = request.value("top_logprobs", 0)
        fields |= {"logprobs": Raw(b"true")} | ({"top_logprobs": Raw(_encode(top))} if top else {})
    return Request(fields, request.model, request.stream, request.options, b"", touched=True)


def refuse_untranslatable(request: Request) -> None:
    """Reject fields that only an engine with this API can serve.

    Raises:
        BadRequest: naming the field, or saying of which type it must be.
    """
    for name, harmless in _REFUSED.items():
        if request.value(name) not in (None, *harmless):
            raise _refused(name, f"{name} requires an engine with its own /v1/responses; this engine has none")
    for name, expected in (("text", dict), ("reasoning", dict), ("max_output_tokens", int)):
        typed(request.fields, name, expected, None)
    for i, tool in enumerate(_list(request.value("tools"))):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if kind != "function":
            raise _refused(f"tools[{i}]", f"tools[{i}] is of type {kind!r}: this engine accepts function tools only")
    choice = request.value("tool_choice")
    if isinstance(choice, dict) and choice.get("type") != "function":
        raise _refused(
            "tool_choice", f"tool_choice of type {choice.get('type')!r} requires an engine with its own /v1/responses"
        )


def _refused(param: str, message: str) -> BadRequest:
    return BadRequest(message, code="not_translatable", param=param)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(text: Any) -> dict[str, Any]:
    """`text.format` becomes `response_format`, which nests the schema one level deeper."""
    text = text if isinstance(text, dict) else {}
    verbosity = {"verbosity": text["verbosity"]} if text.get("verbosity") else {}
    form = text.get("format")
    if not isinstance(form, dict) or form.get("type", "text") == "text":
        return verbosity
    if form["type"] == "json_schema":
        form = {"type": "json_schema", "json_schema": {k: v for k, v in form.items() if k != "type" and v is not None}}
    return {"response_format": form, **verbosity}


def _reasoning(reasoning: Any) -> dict[str, Any]:
    effort = reasoning.get("effort") if isinstance(reasoning, dict) else None
    return {"reasoning_effort": effort} if effort else {}


def _tools(tools: Any) -> dict[str, Any]:
    rows = [_tool(tool) for tool in tools] if isinstance(tools, list) else tools
    return {"tools": rows} if rows else {}


def _tool(tool: Any) -> Any:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        return tool
    names = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": {name: tool[name] for name in names if tool.get(name) is not None}}


def _tool_choice(choice: Any) -> dict[str, Any]:
    if isinstance(choice, dict) and choice.get("type") == "function":
        choice = {"type": "function", "function": {"name": choice.get("name")}}
    return {"tool_choice": choice}


_READERS: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "max_output_tokens": lambda value: {"max_tokens": value},
    "text": _text,
    "reasoning": _reasoning,
    "tools": _tools,
    "tool_choice": _tool_choice,
}
