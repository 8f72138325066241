"""A response as an engine with this API sends it: what its end says, its usage and its text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from serve.dialects.dialect import Ending
from serve.dialects.openai import error as plain_error
from serve.dialects.openai import reasons
from serve.dialects.openai_responses.objects import chat_usage
from serve.dialects.sse import data_lines
from serve.dialects.wire import NOT_JSON
from serve.errors import ApiError

_LAST = 16  # events at a stream's end that are looked at
_TERMINAL = ("response.completed", "response.incomplete", "response.failed", "response.cancelled")


class _Event(msgspec.Struct):
    """As much of an event as the end of a stream is judged by."""

    type: str = ""
    response: dict[str, Any] | None = None
    error: Any = None
    message: Any = None


_event = msgspec.json.Decoder(_Event)


def _rows(stream: bytes, last: int | None = None) -> Iterator[_Event]:
    lines = list(data_lines(stream))
    for data in lines if last is None else lines[-last:]:
        try:
            yield _event.decode(data)
        except NOT_JSON:
            continue  # torn, or nothing that we know: the client got it as it is


def ending(tail: bytes) -> Ending:
    """Whether the end of a stream holds a terminal event, its usage, and the error if it is one."""
    ended, failure = False, None
    usage: Mapping[str, Any] | None = None
    for row in _rows(tail, _LAST):
        body = row.response or {}
        if row.type in _TERMINAL:
            ended, usage = True, chat_usage(body.get("usage")) or usage
        if row.type == "error" or row.error is not None:
            failure = row.error or row.message or "error"
        elif row.type == "response.failed":
            failure = body.get("error") or "failed"
    return Ending(ended, ended, failure, usage)


def usage(body: bytes) -> Mapping[str, Any] | None:
    """The usage of a whole response, under a chat completion's names."""
    row = _decoded(body)
    return chat_usage(row.get("usage")) if row is not None else None


def text(body: bytes, *, stream: bool) -> str | None:
    """The text of all its messages; None where there is none."""
    if not stream:
        row = _decoded(body)
    else:
        row = next((r.response for r in reversed(list(_rows(body))) if r.type in _TERMINAL and r.response), None)
    items = row.get("output") if row is not None else None
    parts = [
        part.get("text")
        for item in (items if isinstance(items, list) else ())
        if isinstance(item, dict) and item.get("type") == "message" and isinstance(item.get("content"), list)
        for part in item["content"]
        if isinstance(part, dict)
    ]
    words = [part for part in parts if isinstance(part, str)]
    return "".join(words) if words else None


def _decoded(body: bytes) -> dict[str, Any] | None:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except NOT_JSON:
        return None


def error_event(failure: ApiError) -> bytes:
    """The error as the stream's last event: flat, as OpenAI documents it, and nested, as its SDKs read it."""
    row = {"type": "error", "sequence_number": 0, "code": failure.code, "message": failure.message}
    nested = msgspec.Raw(plain_error(failure)[len(b'{"error":') : -1])
    more = {"param": failure.param, **reasons(failure), "error": nested}
    return b"event: error\ndata: %s\n\n" % msgspec.json.encode({**row, **more})
