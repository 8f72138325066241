"""A message as an engine with this API sends it: what its end says, its usage and its text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from serve.dialects.dialect import Ending
from serve.dialects.sse import data_lines
from serve.dialects.wire import NOT_JSON


class _Event(msgspec.Struct):
    """As much of an event, or of a whole message, as we read."""

    type: str = ""
    message: Any = None
    usage: Any = None
    delta: Any = None
    content: Any = None
    error: Any = None


_event = msgspec.json.Decoder(_Event)
_INPUTS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


def _rows(stream: bytes) -> Iterator[_Event]:
    for data in data_lines(stream):
        if (row := _read(data)) is not None:
            yield row


def _read(data: bytes) -> _Event | None:
    try:
        return _event.decode(data)
    except NOT_JSON:
        return None  # torn, or nothing that we know: the client got it as it is


def ending(tail: bytes) -> Ending:
    """Whether a stream's end holds message_stop, and the error if it holds one; the usage of its start and its end."""
    ended, failure = False, None
    counts: dict[str, int] = {}
    for row in _rows(tail):
        if row.type == "message_stop":
            ended = True
        elif row.type == "error":
            failure = row.error or "error"
        elif row.type in ("message_start", "message_delta"):
            counts |= _counts(row.usage if row.type == "message_delta" else _field(row.message, "usage"))
    return Ending(ended, ended, failure, _usage(counts))


def usage(body: bytes) -> Mapping[str, Any] | None:
    """The usage of a whole message, under a chat completion's names."""
    row = _read(body)
    return _usage(_counts(row.usage)) if row is not None else None


def text(body: bytes, *, stream: bool) -> str | None:
    """The text of its text blocks; None where there is none."""
    if stream:
        words = [_field(row.delta, "text") for row in _rows(body) if row.type == "content_block_delta"]
    else:
        row = _read(body)
        blocks = row.content if row is not None and isinstance(row.content, list) else ()
        words = [_field(block, "text") for block in blocks]
    found = [word for word in words if isinstance(word, str)]
    return "".join(found) if found else None


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _counts(usage: Any) -> dict[str, int]:
    """The counts that are present; the last event may repeat or omit those of the first one."""
    found = {name: _field(usage, name) for name in (*_INPUTS, "output_tokens")}
    return {name: count for name, count in found.items() if isinstance(count, int)}


def _usage(counts: Mapping[str, int]) -> dict[str, Any] | None:
    """Under a chat completion's names, where cached tokens count as part of the prompt."""
    if not counts:
        return None
    before, after = sum(counts.get(name, 0) for name in _INPUTS), counts.get("output_tokens", 0)
    details = {"cached_tokens": counts.get("cache_read_input_tokens", 0)}
    return {
        "prompt_tokens": before, "completion_tokens": after, "total_tokens": before + after,
        "prompt_tokens_details": details,
    }  # fmt: skip
