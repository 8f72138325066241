"""The engine's answer on its way to the client: passed on byte for byte, or translated from a text completion."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec

from prompt_opt.core import Prompt
from serve import wire
from serve.call import EVENTS, Call
from serve.config import Config
from serve.engines import LiveEngine
from serve.errors import BadRequest
from serve.record import Record
from serve.relay import Upstream, UpstreamError, response_headers
from serve.service import failed
from serve.translate import BadEvent, Translation

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
_REPLY_LIMIT = 256 * 2**20  # bytes of an answer that is not streamed
_EVENT_LIMIT = 8 * 2**20  # bytes of one event of a stream
_TAIL = 16384  # bytes kept of a stream's end: where its finish reason, usage and [DONE] are
_FINISHED = re.compile(rb'"finish_reason"\s*:\s*"')
_USAGE = re.compile(rb'"usage"\s*:\s*(\{)')


async def read(engine: LiveEngine, upstream: Upstream) -> bytes:
    try:
        return await upstream.read(_REPLY_LIMIT)
    except UpstreamError as error:
        raise failed(engine, error) from error


def _streams(upstream: Upstream) -> bool:
    return upstream.status == 200 and upstream.headers.get("content-type", "").startswith("text/event-stream")


# ---------------------------------------------------------------- passed on


async def pass_on(config: Config, call: Call, record: Record, engine: LiveEngine, upstream: Upstream) -> None:
    """The engine's answer, byte for byte; only how a stream ends is looked at."""
    if not _streams(upstream):
        body = await read(engine, upstream)
        record.saw_first_byte()
        if upstream.status == 400 and b"chat template" in body.replace(b"_", b" ") and record.path == CHAT:
            hint = BadRequest(engine.no_template(config), code="no_chat_template", param="model")
            return await call.fail(hint)
        if upstream.status == 200:
            record.usage = _usage(body[-_TAIL:])
        else:
            record.error = f"engine answered {upstream.status}"
        return await call.reply(upstream.status, body, response_headers(upstream.raw_headers))
    await call.start(upstream.status, response_headers(upstream.raw_headers))
    tail = b""
    try:
        async for chunk in upstream.chunks():
            record.saw_first_byte()
            await call.write(chunk)
            tail = (tail + chunk)[-_TAIL:] if len(chunk) < _TAIL else chunk[-_TAIL:]
    except UpstreamError as error:
        raise failed(engine, error) from error
    record.usage = _usage(tail)
    if b"data: [DONE]" in tail[-64:] or b"data:[DONE]" in tail[-64:]:
        return await call.end()
    if not _FINISHED.search(tail) and record.path in (CHAT, TEXT):
        if b'"error"' not in tail:
            raise failed(engine, UpstreamError(message="the stream ended before its answer did"))
        record.error = "engine sent an error in its stream"
    return await call.end(b"" if engine.sends_done or record.error else b"data: [DONE]\n\n")


def _usage(tail: bytes) -> Mapping[str, Any] | None:
    """The last usage object in the end of an answer."""
    for match in reversed(list(_USAGE.finditer(tail))):
        depth = 0
        for i in range(match.start(1), len(tail)):
            depth += (tail[i] == 0x7B) - (tail[i] == 0x7D)
            if depth == 0:
                usage: Any = msgspec.json.decode(tail[match.start(1) : i + 1])
                return usage if isinstance(usage, dict) else None
    return None


# ---------------------------------------------------------------- translated


async def translate(call: Call, record: Record, engine: LiveEngine, request: wire.Request, upstream: Upstream) -> None:
    """The engine's text completion, as the chat completion that the client asked for."""
    if upstream.status != 200:
        record.error = f"engine answered {upstream.status}"
        body = await read(engine, upstream)
        return await call.reply(upstream.status, body, response_headers(upstream.raw_headers))
    assert record.prompt is not None
    include = bool(request.value("stream_options", {}).get("include_usage"))
    translation = Translation(
        record.prompt, wire.stops(request), request.value("n", 1), f"chatcmpl-{record.ident}", record.model,
        int(time.time()), logprobs=bool(request.value("logprobs", False)), usage_chunk=include,
    )  # fmt: skip
    if request.stream:
        await call.start(200, (EVENTS, (b"cache-control", b"no-cache")))
        await call.write(translation.opening())
    try:
        async for event in _events(upstream):
            record.saw_first_byte()
            chunk = translation.feed(event)
            if translation.error is not None:
                raise UpstreamError(message=f"engine error: {_message(translation.error)}")
            if request.stream:
                await call.write(chunk)
            if translation.finished:
                break
        else:
            if not translation.complete:
                raise UpstreamError(message="the answer ended before it was complete")
    except BadEvent as error:
        raise failed(engine, UpstreamError(error, str(error))) from error
    except UpstreamError as error:
        raise failed(engine, error) from error
    record.usage = usage = translation.usage or _estimate(engine, record.prompt, translation)
    if request.stream:
        await call.end(translation.closing(usage))
    else:
        await call.reply(200, translation.reply(usage))
    if translation.cut_off:
        upstream.abort()  # the answer has ended and the engine has not
    else:
        await upstream.done()


async def _events(upstream: Upstream) -> AsyncIterator[bytes]:
    """The data of each event of a stream, up to [DONE]; of an answer that is no stream, all of it."""
    if not _streams(upstream):
        yield await upstream.read(_REPLY_LIMIT)
        return
    buffer = b""
    async for chunk in upstream.chunks():
        *lines, buffer = (buffer + chunk).split(b"\n")
        if len(buffer) > _EVENT_LIMIT:
            raise UpstreamError(message="the engine sent an event that is too long")
        for line in lines:
            if line.startswith(b"data:"):
                data = line[5:].strip()
                if data == b"[DONE]":
                    return
                yield data


def _message(error: Any) -> str:
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)


def _estimate(engine: LiveEngine, prompt: Prompt, translation: Translation) -> dict[str, Any]:
    """The usage where the engine was cut off before it said it: counted by us."""
    before, after = engine.prompt_tokens(prompt), engine.count(translation.text)
    return {"prompt_tokens": before, "completion_tokens": after, "total_tokens": before + after}
