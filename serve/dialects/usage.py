"""The usage of a stream of OpenAI's: asked of the engine where the client did not, and taken out again.

An engine tells a stream's token counts in a chunk of its own, without choices, after the last one with text, and only
where `stream_options.include_usage` asks for it.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from serve.dialects.sse import data_lines
from serve.dialects.wire import NOT_JSON, NULL, Request

_ASK = b'"stream_options":{"include_usage":true}'
# An engine that does not know the field says so by its name.
REFUSAL = re.compile(rb"stream_options|include_usage")
# What the last chunks of an answer hold, and no other: with it events are looked at.
_MARKS = _TELLING, _SPACED, _BARE, _BARE_SPACED = (
    b'finish_reason":"', b'finish_reason": "', b'choices":[]', b'choices": []',
)  # fmt: skip
_OVERLAP = max(map(len, _MARKS))
_REASON = b"finish_reason"
_NONE = re.compile(rb'finish_reason": ?null[^\n]*\n\n')  # how an event of a choice ends that goes on
_BOUNDARY = re.compile(rb"\n\r?\n")


class _Chunk(msgspec.Struct):
    usage: Any = None
    choices: list[Any] | None = None
    error: Any = None


_chunk = msgspec.json.Decoder(_Chunk)


def asking(request: Request, body: bytes) -> bytes | None:
    """A stream's body with the usage asked for; None where the client has asked for it itself.

    The rest of the body keeps its bytes where the client names no stream options.
    """
    options = request.fields.get("stream_options")
    if options is None:
        return b"%s,%s}" % (body.rstrip()[:-1], _ASK)
    value = {} if options == NULL else request.value("stream_options")
    if not isinstance(value, dict) or value.get("include_usage") is True:
        return None  # it is as the client wants it, or for the engine to refuse
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    fields["stream_options"] = msgspec.Raw(msgspec.json.encode({**value, "include_usage": True}))
    return msgspec.json.encode(fields)


class UsageFilter:
    """Takes the chunk with nothing but the usage out of a stream.

    Chunks pass as they come until one holds a finish reason; only from there on events are put together and read.
    """

    def __init__(self) -> None:
        self._last = b""  # the end of what has passed
        self._held: bytes | None = None  # an event that is not complete, once the end has begun
        self._torn = False  # the event that is passing had begun before that
        self._usual = b""  # how the last event ended, if an event begins next and that one held no mark

    def feed(self, chunk: bytes) -> bytes:
        """What of this piece of the stream the client gets now."""
        if self._held is not None:
            return self._sift(chunk)
        find = chunk.find  # `in` would try to take a mark for a number first, at the cost of an exception
        if (
            self._usual
            and chunk.endswith(self._usual)
            and find(_REASON) == len(chunk) - len(self._usual)
            and find(b"\n") == len(chunk) - 2
        ):
            return chunk  # one event like those before it, as most pieces are
        seen = self._last + chunk
        find = seen.find
        if find(_TELLING) < 0 and find(_SPACED) < 0 and find(_BARE) < 0 and find(_BARE_SPACED) < 0:
            self._last = seen[-_OVERLAP:]
            usual = _NONE.fullmatch(chunk, max(chunk.rfind(_REASON), 0))
            self._usual = usual[0] if usual is not None else b""
            return chunk
        self._held = b""
        self._torn = bool(self._last) and not self._last.endswith((b"\n\n", b"\n\r\n"))
        return self._sift(chunk)

    def close(self) -> bytes:
        """What was held back when the stream ended."""
        held, self._held = self._held or b"", b""
        return b"" if _only_usage(held) else held

    def _sift(self, chunk: bytes) -> bytes:
        rest, out = (self._held or b"") + chunk, []
        if self._torn:
            if (end := _BOUNDARY.search(self._last[-2:] + rest)) is None:
                self._last, self._held = (self._last + rest)[-_OVERLAP:], b""
                return rest
            cut = max(end.end() - len(self._last[-2:]), 0)
            out.append(rest[:cut])
            rest, self._torn = rest[cut:], False
        at = 0
        for end in _BOUNDARY.finditer(rest):
            if not _only_usage(event := rest[at : end.end()]):
                out.append(event)
            at = end.end()
        self._held = rest[at:]
        return b"".join(out)


def _only_usage(event: bytes) -> bool:
    if b'"usage"' not in event:
        return False
    try:
        chunk = _chunk.decode(b"\n".join(data_lines(event)))
    except NOT_JSON:
        return False
    return isinstance(chunk.usage, dict) and not chunk.choices and chunk.error is None
