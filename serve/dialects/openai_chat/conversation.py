"""A chat completion's body: its messages, and what of its parameters we read ourselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from prompt_opt.core import Chat, Message, Prompt
from serve.config import Server
from serve.dialects.crowd import refuse_values
from serve.dialects.spelling import refuse_misspelled, refuse_misspelled_role
from serve.dialects.wire import NULL, Raw, Request, encode, raw_body, refuse_beside, typed
from serve.errors import BadRequest

_KEYS = frozenset({
    "role", "content", "name", "tool_calls", "tool_call_id", "function_call", "refusal", "type", "text",
    "reasoning_content", "reasoning", "thinking",
})  # fmt: skip
_NO_PARAMS = frozenset({"model", "messages", "stream"})
_TOOLS = frozenset({"tool", "function"})
_rows = msgspec.json.Decoder(list[Raw])


class _Head(msgspec.Struct):
    """The part of a message that stages look at. Whether it is well-formed is the engine's to say."""

    role: str = ""
    content: Any = None
    tool_calls: Any = None
    function_call: Any = None


class _Bare(msgspec.Struct, forbid_unknown_fields=True):
    """A message of a role and a text and nothing else, as most are."""

    role: str
    content: str


_head = msgspec.json.Decoder(_Head)
_bare = msgspec.json.Decoder(list[_Bare])


def chat(request: Request, limits: Server) -> Chat:
    """The chat of a request, its messages' own bytes beside what stages read of them.

    Raises:
        BadRequest: `messages` is missing, is empty, or holds too much or what cannot be read, or a key of a message
            differs from a known one in case only.
    """
    if request.fields.get("messages", NULL) == NULL:
        raise BadRequest("messages is missing", param="messages")
    refuse_beside(request, "prompt", "input")
    refuse_values(request.fields["messages"], "messages")
    try:
        rows = _rows.decode(request.fields["messages"])
    except msgspec.MsgspecError as error:
        raise BadRequest(f"messages must be a list: {error}", param="messages") from None
    if not rows:
        raise BadRequest("messages is empty", param="messages")
    messages = _bare_messages(request.fields["messages"], rows) if len(rows) <= limits.max_messages else None
    if messages is None:
        refuse_misspelled(request.fields["messages"], _KEYS, "messages")
        messages = _messages(rows, limits.max_messages)
    params = {name: raw for name, raw in request.fields.items() if name not in _NO_PARAMS}
    return Chat(messages, request.model, request.stream, params)


def _bare_messages(raw: Raw, rows: Sequence[Raw]) -> tuple[Message, ...] | None:
    """The messages, where they are bare: their keys are known then, and read in one go. None where one is not."""
    try:
        heads = _bare.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    for i, head in enumerate(heads):
        refuse_misspelled_role(head.role, f"messages[{i}].role")
    pairs = zip(heads, rows, strict=True)
    return tuple([Message(it.role, it.content, it.role in _TOOLS, bytes(row), bare=True) for it, row in pairs])


def _messages(rows: Sequence[Raw], most: int) -> tuple[Message, ...]:
    """The messages; of more than `most` only the first ones and the last ones are read, the others just passed on."""
    if len(rows) <= most:
        return tuple([_message(raw, i) for i, raw in enumerate(rows)])
    middle = range(most // 2, len(rows) - most + most // 2)
    return tuple([Message("", None, raw=bytes(raw)) if i in middle else _message(raw, i) for i, raw in enumerate(rows)])


def _message(raw: Raw, i: int) -> Message:
    """What stages read of a message. What they could not read must not reach an engine that can."""
    try:
        head = _head.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRequest(f"messages[{i}]: {error}", param=f"messages[{i}]") from None
    refuse_misspelled_role(head.role, f"messages[{i}].role")
    tool = head.role in _TOOLS or bool(head.tool_calls) or bool(head.function_call)
    content = head.content
    if content is not None and not isinstance(content, str):
        content = _content(content)
    return Message(head.role, content, tool, bytes(raw))


def _content(value: Any) -> str | list[dict[str, Any]]:
    """A list of parts, each an object; anything else that engines take, as its JSON text."""
    if not isinstance(value, list):
        return msgspec.json.encode(value).decode()
    return [_part(part) for part in value]


def _part(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    return {"type": "text", "text": value if isinstance(value, str) else msgspec.json.encode(value).decode()}


def native(request: Request, prompt: Prompt | None, model: str, salt: str = "") -> bytes:
    """The body for /v1/chat/completions: the client's, with the prompt's messages in it where there is a prompt."""
    if prompt is None:
        return raw_body(request, model, salt)
    assert prompt.messages is not None
    return chat_body(request, prompt.messages, model, salt)


def chat_body(request: Request, messages: Sequence[Message], model: str, salt: str = "") -> bytes:
    """The body for /v1/chat/completions with these messages."""
    rows = Raw(b"[" + b",".join([message.json() for message in messages]) + b"]")
    return encode({**request.fields, "messages": rows}, model, salt)


def max_tokens(request: Request) -> int | None:
    """What the client allows an answer to have, by either name."""
    for name in ("max_completion_tokens", "max_tokens"):
        if name in request.fields and (value := typed(request.fields, name, int, None)) is not None:
            if value < 1:
                raise BadRequest(f"{name} must be at least 1", param=name)
            return int(value)
    return None


def loose_max_tokens(request: Request) -> int:
    """The same as far as it makes sense, else 1: where we send the client's value on as it is, the engine judges it."""
    for name in ("max_completion_tokens", "max_tokens"):
        value = request.value(name) if name in request.fields else None
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return 1


def stops(request: Request) -> tuple[str, ...]:
    """The client's stop strings.

    Raises:
        BadRequest: `stop` is neither a string nor a list of strings.
    """
    if "stop" not in request.fields:
        return ()
    stop = request.value("stop", ())
    stop = (stop,) if isinstance(stop, str) else stop
    if not isinstance(stop, (list, tuple)) or not all(isinstance(s, str) for s in stop):
        raise BadRequest("stop must be a string or a list of strings", param="stop")
    return tuple(s for s in stop if s)


def logprobs(request: Request) -> int | None:
    """How many alternatives each token is to have; None where no log-probabilities are asked for.

    Raises:
        BadRequest: not OpenAI's boolean and its number up to 20.
    """
    if "logprobs" not in request.fields and "top_logprobs" not in request.fields:
        return None
    wanted = typed(request.fields, "logprobs", bool, False)
    top = typed(request.fields, "top_logprobs", int, 0)
    if not 0 <= top <= 20:
        raise BadRequest("top_logprobs must be between 0 and 20", param="top_logprobs")
    return int(top) if wanted else None


def includes_usage(request: Request) -> bool:
    """Whether the stream is to end with a chunk that tells the usage."""
    options = typed(request.fields, "stream_options", dict, {}) if "stream_options" in request.fields else {}
    return options.get("include_usage") is True
