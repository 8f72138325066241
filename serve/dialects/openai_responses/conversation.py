"""A Responses request's conversation: `instructions` and `input` as a chat, and back into the client's own body.

Each input item becomes one message that keeps the client's bytes. An engine with this API receives unedited items byte
for byte, and the policy's text in `instructions` or before the client's first system item.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from prompt_opt.core import ADDED, SYSTEM_ROLES, Chat, Message, Prompt
from serve.config import Server
from serve.dialects.crowd import refuse_values
from serve.dialects.openai_responses.parameters import as_chat
from serve.dialects.spelling import refuse_misspelled, refuse_misspelled_role
from serve.dialects.wire import NULL, Raw, Request, encode, raw_body, refuse_beside, typed
from serve.errors import BadRequest

_KEYS = frozenset({
    "type", "role", "content", "text", "output", "summary", "refusal", "call_id", "name", "arguments", "image_url",
})  # fmt: skip
_rows = msgspec.json.Decoder(list[Raw])
_encode = msgspec.json.encode
STATE = ("previous_response_id", "conversation")  # with one of these set, the engine holds the earlier turns


class _Head(msgspec.Struct):
    """The part of an item that stages look at."""

    type: str | None = None
    role: str | None = None
    content: str | list[dict[str, Any]] | None = None
    output: Any = None


_head = msgspec.json.Decoder(_Head)


def chat(request: Request, limits: Server) -> Chat:
    """The chat of a request: `instructions` as a leading system message, then one message an item.

    Raises:
        BadRequest: `input` is missing, too long, or holds something that is no item; the message says which.
    """
    refuse_beside(request, "messages")
    if not bytes(request.fields.get("prompt", NULL)).startswith(b"{"):  # else a stored one, which this API has
        refuse_beside(request, "prompt")
    instructions = typed(request.fields, "instructions", str, "")
    leading = [Message("system", instructions)] if instructions else []
    said = _input(request)
    if isinstance(said, str):
        messages = [Message("user", said)]
    else:
        if len(said) > limits.max_messages:
            raise BadRequest(f"input holds more than {limits.max_messages} items", param="input")
        messages = [_message(raw, i) for i, raw in enumerate(said)]
    continued = any(request.value(name) for name in STATE)
    return Chat((*leading, *messages), request.model, request.stream, as_chat(request).fields, continued)


def _input(request: Request) -> str | list[Raw]:
    raw = request.fields.get("input", NULL)
    if raw == NULL:
        if any(request.value(name) for name in (*STATE, "prompt")):
            return []  # these alone are enough for the engine to answer
        raise BadRequest("input is missing", param="input")
    refuse_values(raw, "input")
    try:
        if bytes(raw).startswith(b'"'):
            return msgspec.json.decode(raw, type=str)
        rows = _rows.decode(raw)
    except msgspec.MsgspecError as error:
        raise BadRequest(f"input must be a string or a list of items: {error}", param="input") from None
    refuse_misspelled(raw, _KEYS, "input")
    if not rows:
        raise BadRequest("input is empty", param="input")
    return rows


def _message(raw: Raw, i: int) -> Message:
    try:
        head = _head.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRequest(f"input[{i}]: {error}", param=f"input[{i}]") from None
    kind = head.type or "message"
    if kind == "message":
        if head.role is None:
            raise BadRequest(f"input[{i}]: a message needs a role", param=f"input[{i}]")
        refuse_misspelled_role(head.role, f"input[{i}].role")
        return Message(head.role, head.content, raw=bytes(raw))
    if kind == "reasoning":
        return Message("assistant", None, raw=bytes(raw))
    if kind.endswith("_output"):
        output = head.output if isinstance(head.output, str) else None
        return Message("tool", output, tool=True, raw=bytes(raw))
    return Message("assistant", None, tool=True, raw=bytes(raw))


def native(request: Request, prompt: Prompt | None, model: str, salt: str = "") -> bytes:
    """The body for /v1/responses: the client's, with the prompt's messages in place of its own if there is a prompt."""
    if prompt is None:
        return raw_body(request, model, salt)
    assert prompt.messages is not None
    said = _input(request)
    own = set() if isinstance(said, str) else {bytes(raw) for raw in said}
    fields = dict(request.fields)
    if any(span.origin in ADDED for span in prompt.spans):
        fields.pop("truncation", None)  # "auto" would cut off what the policy put in front
    messages = list(prompt.messages)
    if _instructed(request, said, messages):
        fields["instructions"] = Raw(_encode(messages.pop(0).text))
    elif request.value("instructions"):
        del fields["instructions"]  # the layout moved its text into a turn
    if isinstance(said, str) and len(messages) == 1 and isinstance(messages[0].content, str):
        fields["input"] = Raw(_encode(messages[0].content)) if messages[0].content != said else fields["input"]
    elif messages:
        fields["input"] = Raw(b"[" + b",".join([_item(message, own) for message in messages]) + b"]")
    return encode(fields, model, salt)


def _instructed(request: Request, said: str | list[Raw], messages: Sequence[Message]) -> bool:
    """Whether the first message belongs in `instructions`: the client's own, or the policy's system text alone."""
    if not messages or messages[0].role not in SYSTEM_ROLES:
        return False
    if request.value("instructions"):
        return True
    return isinstance(said, str) or not said or _head.decode(said[0]).role not in SYSTEM_ROLES


def _item(message: Message, own: set[bytes]) -> bytes:
    """A message as an item. The parts that the layout added are converted to this API's part type."""
    raw = message.json()
    if raw in own or not isinstance(message.content, list):
        return raw
    fields = msgspec.json.decode(raw, type=dict[str, Raw])
    parts = zip(message.content, _rows.decode(fields["content"]), strict=True)
    kept = [{"type": "input_text", "text": part["text"]} if _ours(part) else text for part, text in parts]
    return _encode({**fields, "content": kept})


def _ours(part: dict[str, Any]) -> bool:
    return part.keys() == {"type", "text"} and part["type"] == "text"
