"""OpenAI's chat completions on the wire: a body in, a body for the engine out.

The body is split into its top-level fields once, each kept as the client's own JSON bytes (`msgspec.Raw`). What no
policy names is written to the engine as those bytes; only `model`, the messages that the layout edited and our own
`trimtab` field differ.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from itertools import accumulate
from typing import Any

import msgspec

from prompt_opt.core import Chat, Message, Prompt
from serve.config import Server
from serve.errors import BadRequest

Raw = msgspec.Raw
NULL = Raw(b"null")
_fields = msgspec.json.Decoder(dict[str, Raw])
_rows = msgspec.json.Decoder(list[Raw])
# Possessive: a backtracking one keeps a mark per character, a gigabyte for a string of ten megabytes.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_MEMBER = re.compile(rb'\s*[{,]\s*("[^"\\]*+(?:\\.[^"\\]*+)*+")\s*:\s*', re.DOTALL)
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # as signed bytes: one level down, one level up
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_CONTAINERS = 1_000_000  # objects and lists in one body; each costs a hundred times its bytes once it is parsed
_OPTIONS = ("policy", "region", "language", "date", "skip", "explain")


class _Head(msgspec.Struct):
    """The part of a message that stages look at."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: Any = None
    function_call: Any = None


_head = msgspec.json.Decoder(_Head)


@dataclass(frozen=True, slots=True)
class Request:
    """A parsed body. `fields` are its top-level fields without `trimtab`; `body` the bytes as they came."""

    fields: dict[str, Raw]
    model: str
    stream: bool
    options: Mapping[str, Any]
    body: bytes
    touched: bool  # the body held a `trimtab` field, so its bytes can't be relayed as they are

    def value(self, name: str, default: Any = None) -> Any:
        """A field decoded; `default` where it is missing or null.

        Raises:
            BadRequest: a number that no computer holds.
        """
        raw = self.fields.get(name)
        value = None if raw is None else _decoded(name, raw)
        return default if value is None else value


def parse(body: bytes, limits: Server) -> Request:
    """Split a body into its fields and check what must hold before anything is built from it.

    Raises:
        BadRequest: no JSON object, too deep, a field twice or of the wrong type; the message names it.
    """
    try:
        fields = _fields.decode(body)
        if not body.isascii():
            body.decode()  # the fields are decoded when they are needed; this must be known before
    except RecursionError:
        raise BadRequest("the body is nested too deeply", code="too_deep") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is not a JSON object: {error}", code="invalid_json") from None
    if (name := _repeated(body, fields)) is not None:
        raise BadRequest(f"{name} stands twice in the body", code="duplicate_field", param=name)
    opened = body.count(b"[") + body.count(b"{")
    if opened > _CONTAINERS and _brackets(body) > 2 * _CONTAINERS:
        raise BadRequest(f"the body holds more than {_CONTAINERS} objects and lists", code="too_deep")
    if opened > min(16, limits.max_depth):  # else it cannot be deep
        for name, raw in fields.items():
            if _depth(bytes(raw)) > limits.max_depth:
                raise BadRequest(f"{name} is nested deeper than {limits.max_depth}", code="too_deep", param=name)
    options = _options(fields.pop("trimtab")) if "trimtab" in fields else None
    request = Request(
        fields,
        typed(fields, "model", str, ""),
        typed(fields, "stream", bool, False),
        options or {},
        body,
        options is not None,
    )
    for name in ("n", "best_of"):  # each is a multiplier of the work
        if not 1 <= typed(fields, name, int, 1) <= limits.max_n:
            raise BadRequest(f"{name} must be between 1 and {limits.max_n}", param=name)
    return request


def _decoded(name: str, raw: Raw) -> Any:
    try:
        return msgspec.json.decode(raw)
    except msgspec.MsgspecError as error:
        raise BadRequest(f"{name}: {error}", param=name) from None


def _repeated(body: bytes, fields: Mapping[str, Raw]) -> str | None:
    """A field that stands twice, if one does: the engine might take the first where we took the last.

    Without repetition the fields, one after the other, are the whole body.
    """
    pairs = [(name.encode(), raw) for name, raw in fields.items()]
    # As nearly all clients write it, without blanks or with Python's own; b"%s" takes the bytes as they are.
    if body == b"{%s}" % b",".join([b'"%s":%s' % pair for pair in pairs]):
        return None
    if body == b"{%s}" % b", ".join([b'"%s": %s' % pair for pair in pairs]):
        return None
    at = 0
    for name, raw in fields.items():
        member = _MEMBER.match(body, at)
        if member is None or not body.startswith(raw, member.end()) or msgspec.json.decode(member[1]) != name:
            return name
        at = member.end() + len(memoryview(raw))
    rest = _MEMBER.match(body, at)
    return str(msgspec.json.decode(rest[1])) if rest and fields else None


def _options(raw: Raw) -> dict[str, Any]:
    options = _decoded("trimtab", raw)
    if not isinstance(options, dict):
        raise BadRequest("trimtab must be an object", param="trimtab")
    if unknown := sorted(options.keys() - set(_OPTIONS)):
        raise BadRequest(f"trimtab.{unknown[0]} is unknown; valid are {', '.join(_OPTIONS)}", param="trimtab")
    skip = options.get("skip", [])
    if not isinstance(skip, list) or not all(isinstance(name, str) for name in skip):
        raise BadRequest("trimtab.skip must be a list of stage names", param="trimtab.skip")
    if not isinstance(options.get("explain", False), bool):
        raise BadRequest("trimtab.explain must be a boolean", param="trimtab.explain")
    for name in ("policy", "region", "language", "date"):
        if not isinstance(options.get(name, ""), str):
            raise BadRequest(f"trimtab.{name} must be a string", param=f"trimtab.{name}")
    if (day := options.get("date", "")) and not _is_date(day):
        raise BadRequest("trimtab.date must be a date like 2026-01-31", param="trimtab.date")
    return options


def _is_date(text: str) -> bool:
    """ISO 8601 with dashes: `fromisoformat` alone takes 20260131 as well, which does not sort."""
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return len(text) == 10 and text[4] == text[7] == "-"


def typed(fields: Mapping[str, Raw], name: str, kind: type, default: Any) -> Any:
    """A field decoded; `default` where it is missing or null.

    Raises:
        BadRequest: it is of another kind.
    """
    if name not in fields:
        return default
    value = _decoded(name, fields[name])
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        nouns = {str: "a string", bool: "a boolean", int: "an integer", dict: "an object"}
        raise BadRequest(f"{name} must be {nouns[kind]}", param=name)
    return value


def _depth(raw: bytes) -> int:
    """How deep a JSON text nests. Counting its brackets bounds that from above, which is nearly always enough."""
    opened = raw.count(b"{") + raw.count(b"[")
    if opened <= 16:
        return opened
    return max(accumulate(memoryview(_STRING.sub(b"", raw).translate(_STEPS, _NO_BRACKETS)).cast("b")), default=0)


def _brackets(raw: bytes) -> int:
    return len(_STRING.sub(b"", raw).translate(None, _NO_BRACKETS))


def chat(request: Request, limits: Server) -> Chat:
    """The chat of a request, its messages' own bytes beside what stages read of them.

    Raises:
        BadRequest: `messages` is missing, too long, or holds something that is no message; the message says which.
    """
    if request.fields.get("messages", NULL) == NULL:
        raise BadRequest("messages is missing", param="messages")
    try:
        rows = _rows.decode(request.fields["messages"])
    except msgspec.MsgspecError as error:
        raise BadRequest(f"messages must be a list: {error}", param="messages") from None
    if not rows:
        raise BadRequest("messages is empty", param="messages")
    if len(rows) > limits.max_messages:
        raise BadRequest(f"messages holds more than {limits.max_messages}", param="messages")
    params = {name: raw for name, raw in request.fields.items() if name not in ("model", "messages", "stream")}
    return Chat(tuple(_message(raw, i) for i, raw in enumerate(rows)), request.model, request.stream, params)


def _message(raw: Raw, i: int) -> Message:
    try:
        head = _head.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadRequest(f"messages[{i}]: {error}", param=f"messages[{i}]") from None
    tool = head.role in ("tool", "function") or bool(head.tool_calls) or bool(head.function_call)
    return Message(head.role, head.content, tool, bytes(raw))


def raw_body(request: Request, model: str, salt: str = "") -> bytes:
    """The body for the engine where only the model's name and the cache's salt may change: the client's bytes
    wherever possible."""
    if not request.touched and not salt and (not model or model == request.model):
        return request.body
    return _encode(request.fields, model, salt)


def chat_body(request: Request, prompt: Prompt, model: str, salt: str = "") -> bytes:
    """The body for /v1/chat/completions with the prompt's messages."""
    assert prompt.messages is not None
    messages = Raw(b"[" + b",".join(message.json() for message in prompt.messages) + b"]")
    return _encode({**request.fields, "messages": messages}, model, salt)


def _encode(fields: Mapping[str, Raw], model: str, salt: str) -> bytes:
    if model:
        fields = {**fields, "model": Raw(msgspec.json.encode(model))}
    if salt:
        fields = {**fields, "cache_salt": Raw(msgspec.json.encode(salt))}
    return msgspec.json.encode(fields)


def max_tokens(request: Request) -> int | None:
    """What the client allows an answer to have, by either name."""
    for name in ("max_completion_tokens", "max_tokens"):
        if (value := typed(request.fields, name, int, None)) is not None:
            if value < 1:
                raise BadRequest(f"{name} must be at least 1", param=name)
            return int(value)
    return None


def loose_max_tokens(request: Request) -> int:
    """The same as far as it makes sense, else 1: where we send the client's value on as it is, the engine judges it."""
    values = (request.value(name) for name in ("max_completion_tokens", "max_tokens"))
    return next((v for v in values if isinstance(v, int) and not isinstance(v, bool) and v > 0), 1)
