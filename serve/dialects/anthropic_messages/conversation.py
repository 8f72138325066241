"""A Messages request's conversation: `system` and `messages` as a chat, and back into the client's own body.

Each message keeps the client's bytes: thinking blocks, their signatures and every `cache_control` stay as they came.
"""

from __future__ import annotations

from typing import Any

import msgspec

from prompt_opt.core import SYSTEM_ROLES, Chat, Message, Prompt
from serve.config import Server
from serve.dialects.anthropic_messages.parameters import as_chat
from serve.dialects.anthropic_messages.turns import ROLES
from serve.dialects.crowd import refuse_values
from serve.dialects.spelling import refuse_misspelled, refuse_misspelled_role
from serve.dialects.wire import NULL, Raw, Request, encode, raw_body, refuse_beside
from serve.errors import BadRequest

_encode = msgspec.json.encode
_rows = msgspec.json.Decoder(list[Raw])
_KEYS = frozenset({
    "role", "content", "type", "text", "thinking", "signature", "data", "name", "input", "tool_use_id", "source",
    "cache_control", "citations", "is_error",
})  # fmt: skip
_SILENT = ("thinking", "redacted_thinking")  # of earlier turns; stages and base models do not read them


class _Head(msgspec.Struct):
    """The part of a message that stages look at."""

    role: str
    content: str | list[dict[str, Any]]


_head = msgspec.json.Decoder(_Head)
_names = msgspec.json.Decoder(dict[str, Raw])


def chat(request: Request, limits: Server) -> Chat:
    """The chat of a request: `system` as a leading system message, then the messages.

    Raises:
        BadRequest: `messages` is missing, too long, or holds something that is no message; the message says which.
    """
    refuse_beside(request, "prompt", "input")
    rows = _messages(request)
    if not rows:
        raise BadRequest("messages is empty", param="messages")
    if len(rows) > limits.max_messages:
        raise BadRequest(f"messages holds more than {limits.max_messages}", param="messages")
    messages = (*_system(request), *(_message(raw, i) for i, raw in enumerate(rows)))
    return Chat(messages, request.model, request.stream, as_chat(request).fields)


def _messages(request: Request) -> list[Raw]:
    raw = request.fields.get("messages", NULL)
    if raw == NULL:
        raise BadRequest("messages is missing", param="messages")
    refuse_values(raw, "messages")
    try:
        rows = _rows.decode(raw)
    except msgspec.MsgspecError as error:
        raise BadRequest(f"messages must be a list: {error}", param="messages") from None
    refuse_misspelled(raw, _KEYS, "messages")
    return rows


def _system(request: Request) -> list[Message]:
    raw = request.fields.get("system", NULL)
    if raw == NULL:
        return []
    refuse_values(raw, "system")
    whole = b'{"role":"system","content":%s}' % bytes(raw)
    try:
        content = _head.decode(whole).content
    except msgspec.MsgspecError:
        raise BadRequest("system must be a string or a list of text blocks", param="system") from None
    if isinstance(content, list):
        refuse_misspelled(raw, _KEYS, "system")
    return [Message("system", content, raw=whole)] if content else []


def _message(raw: Raw, i: int) -> Message:
    try:
        head = _head.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRequest(f"messages[{i}]: {error}", param=f"messages[{i}]") from None
    refuse_misspelled_role(head.role, f"messages[{i}].role")
    role = ROLES.get(head.role, head.role)
    if isinstance(head.content, str):
        return Message(role, head.content, raw=bytes(raw))
    kinds = {part.get("type") for part in head.content}
    tool = bool(kinds & {"tool_use", "tool_result", "server_tool_use"})
    if role == "assistant":
        said = [part for part in head.content if part.get("type") not in _SILENT]
        return Message(role, said or None, tool, bytes(raw))
    # A message of tool results only is not a user turn.
    role = "tool" if "tool_result" in kinds and "text" not in kinds else role
    return Message(role, head.content, tool, bytes(raw))


def native(request: Request, prompt: Prompt | None, model: str, salt: str = "") -> bytes:
    """The body for /v1/messages: the client's, with the prompt's messages in place of its own if there is a prompt."""
    if prompt is None:
        return raw_body(request, model, salt)
    assert prompt.messages is not None
    own = {bytes(raw) for raw in _messages(request)}
    fields = dict(request.fields)
    messages = list(prompt.messages)
    if messages and messages[0].role in SYSTEM_ROLES and messages[0].raw not in own:
        fields["system"] = _names.decode(messages.pop(0).json())["content"]
    elif _system(request):
        del fields["system"]  # the layout moved its text into a turn
    rows = [message.json() if message.raw in own else _edited(message) for message in messages]
    fields["messages"] = Raw(b"[" + b",".join(rows) + b"]")
    return encode(fields, model, salt)


def _edited(message: Message) -> bytes:
    """An edited message. Anthropic requires tool results to come first, so added text moves behind them."""
    if not isinstance(message.content, list):
        return message.json()
    fields = _names.decode(message.json())
    parts = list(zip(message.content, _rows.decode(fields["content"]), strict=True))
    parts.sort(key=lambda pair: pair[0].get("type") != "tool_result")
    return _encode({**fields, "content": [raw for _, raw in parts]})
