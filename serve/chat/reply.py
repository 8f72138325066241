"""The engine's answer on its way to the client: passed on byte for byte, or translated from a text completion."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import msgspec

from prompt_opt.core import Prompt
from serve.chat.record import Record
from serve.chat.service import SAID, failed, said
from serve.config import Config
from serve.dialects import completion, wire
from serve.dialects.said import streamed, whole
from serve.dialects.translate import BadEvent, Translation
from serve.engine.live import LiveEngine
from serve.engine.upstream import Upstream, UpstreamError
from serve.errors import BadRequest
from serve.http.call import EVENTS, JSON, Call
from serve.http.headers import response_headers

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
DONE = b"data: [DONE]\n\n"
_BOM = b"\xef\xbb\xbf"  # which a stream may begin with
_REPLY_LIMIT = 256 * 2**20  # bytes of an answer that is not streamed
_EVENT_LIMIT = 8 * 2**20  # bytes of one event of a stream
_TAIL = 16384  # bytes kept of a stream's end: where its finish reason, usage and [DONE] are
_LAST = 16  # events of it that are looked at
_KEPT = 2**24  # bytes of a stream that a trace's answer is read from, where it keeps one
# What engines say where the model has no chat template (transformers, vLLM old and new).
_NO_TEMPLATE = re.compile(
    rb"default chat template is no longer|must provide a chat template|chat_template is not set"
    rb"|does not (?:have|define) a chat template|no chat template"
)
_OWN_SHAPE = (b"content-type", b"content-encoding", b"content-language", b"cache-control", b"etag")


class _Choice(msgspec.Struct):
    finish_reason: Any = None


class _Event(msgspec.Struct):
    """What matters of an event at a stream's end."""

    usage: Any = None
    error: Any = None
    choices: list[_Choice] | None = None


class _Whole(msgspec.Struct):
    usage: Any = None


_event, _whole = msgspec.json.Decoder(_Event), msgspec.json.Decoder(_Whole)


async def read(engine: LiveEngine, upstream: Upstream) -> bytes:
    """The whole answer; an UpstreamError becomes an answer for the client."""
    try:
        return await upstream.read(_REPLY_LIMIT)
    except UpstreamError as error:
        raise failed(engine, error) from error


# ---------------------------------------------------------------- passed on


async def pass_on(config: Config, call: Call, record: Record, engine: LiveEngine, upstream: Upstream) -> None:
    """The engine's answer, byte for byte; only how a stream ends is looked at."""
    if upstream.streams:
        await _pass_events(call, record, engine, upstream)
    elif upstream.status == 200 and upstream.media != "application/json":
        await _pass_bytes(call, record, engine, upstream)
    else:
        body = await read(engine, upstream)
        if upstream.status == 400 and record.path == CHAT and _NO_TEMPLATE.search(body):
            raise BadRequest(engine.no_template(config), code="no_chat_template", param="model")
        hand_over(call, record, upstream, body)


def hand_over(call: Call, record: Record, upstream: Upstream, body: bytes) -> None:
    """An answer that has been read, with its own status and headers."""
    record.saw_first_byte()
    if upstream.status == 200:
        record.usage = _usage(body)
        record.answer = whole(body) if record.content else None
    else:
        record.error = f"engine answered {upstream.status}"
    call.reply(upstream.status, body, response_headers(upstream.raw_headers))


async def _pass_bytes(call: Call, record: Record, engine: LiveEngine, upstream: Upstream) -> None:
    """Speech, say: as it comes. If it breaks off, so does what the client gets."""
    call.start(upstream.status, response_headers(upstream.raw_headers, length=True))

    def take(chunk: bytes) -> bool:
        record.saw_first_byte()
        return call.feed(chunk)

    try:
        await upstream.pump(take, call.drained)
    except UpstreamError as error:
        raise failed(engine, error) from error
    call.end()


async def _pass_events(call: Call, record: Record, engine: LiveEngine, upstream: Upstream) -> None:
    call.start(upstream.status, response_headers(upstream.raw_headers), events=True)
    tail, kept = b"", bytearray()

    def take(chunk: bytes) -> bool:
        nonlocal tail
        record.saw_first_byte()
        if record.content and len(kept) <= _KEPT:
            kept.extend(chunk)
        tail = (tail + chunk)[-_TAIL:] if len(chunk) < _TAIL else chunk[-_TAIL:]
        return call.feed(chunk)

    try:
        await upstream.pump(take, call.drained)
    except UpstreamError as error:
        _end_event(call, tail)
        raise failed(engine, error) from error
    finally:
        if 0 < len(kept) <= _KEPT:
            record.answer = streamed(bytes(kept))
    ended, finished, failure = _ending(tail, record)
    if failure is not None:
        record.error = SAID
    elif not ended and not finished and record.path in (CHAT, TEXT):
        _end_event(call, tail)
        raise failed(engine, UpstreamError(message="the stream ended before its answer did"))
    if ended or failure is not None or engine.sends_done:
        return call.end()
    _end_event(call, tail)
    call.end(DONE)


def _end_event(call: Call, tail: bytes) -> None:
    """Close the event that the stream broke off in, or ours would be taken for its rest."""
    if tail and not tail.endswith((b"\n\n", b"\r\n\r\n")):
        call.feed(b"\n\n")


def _ending(tail: bytes, record: Record) -> tuple[bool, bool, Any]:
    """Whether the end of a stream holds [DONE] and a finish reason, and the error if it holds one."""
    ended, finished, error = False, False, None
    for line in [line for line in tail.splitlines() if line.startswith(b"data:")][-_LAST:]:
        data = line[5:].strip()
        if data == b"[DONE]":
            ended = True
            continue
        try:
            event = _event.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue  # the rest of an event that began before the tail, or none of those we know
        record.usage = event.usage if isinstance(event.usage, dict) else record.usage
        error = event.error if error is None else error
        finished = finished or any(choice.finish_reason for choice in event.choices or ())
    return ended, finished, error


def _usage(body: bytes) -> Mapping[str, Any] | None:
    try:
        usage = _whole.decode(body).usage
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None  # not ours to judge: the client gets it as it is
    return usage if isinstance(usage, dict) else None


# ---------------------------------------------------------------- translated


async def translate(call: Call, record: Record, engine: LiveEngine, request: wire.Request, upstream: Upstream) -> None:
    """The engine's text completion, as the chat completion that the client asked for."""
    if upstream.status != 200:
        return hand_over(call, record, upstream, await read(engine, upstream))
    assert record.prompt is not None
    top = completion.logprobs(request)
    translation = Translation(
        record.prompt, completion.stops(request), request.value("n", 1), f"chatcmpl-{record.ident}", record.model,
        int(time.time()), logprobs=top, usage_chunk=completion.includes_usage(request),
    )  # fmt: skip
    headers = [(n, v) for n, v in response_headers(upstream.raw_headers) if n not in _OWN_SHAPE]
    if request.stream:
        call.start(200, [EVENTS, (b"cache-control", b"no-cache"), *headers], events=True)
        await call.write(translation.opening())
    try:
        async with aclosing(_events(upstream)) as events:
            async for event in events:
                record.saw_first_byte()
                chunk = translation.feed(event)
                if translation.error is not None:
                    raise said(engine, _message(translation.error))
                if request.stream:
                    await call.write(chunk)
                if translation.finished:
                    break
        if not translation.complete:
            raise UpstreamError(message="the answer ended before it was complete")
    except BadEvent as error:
        raise failed(engine, UpstreamError(error, str(error))) from error
    except UpstreamError as error:
        raise failed(engine, error) from error
    finally:
        record.answer = translation.answer if record.content else None
    record.usage = usage = translation.usage or _estimate(engine, record.prompt, translation)
    if request.stream:
        call.end(translation.closing(usage))
    else:
        call.reply(200, translation.reply(usage), [JSON, *headers])
    if translation.cut_off:
        upstream.abort()  # the answer has ended and the engine has not
    else:
        await upstream.done()


async def _events(upstream: Upstream) -> AsyncGenerator[bytes, None]:
    """The data of each event of a stream, up to [DONE]; of an answer that is no stream, all of it."""
    if not upstream.streams:
        yield await upstream.read(_REPLY_LIMIT)
        return
    buffer, data = b"", []
    async with aclosing(_lines(upstream)) as lines:
        async for line in lines:
            line = line.removeprefix(_BOM)
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            if line or not data:
                continue
            buffer, data = b"\n".join(data), []
            if buffer.strip() == b"[DONE]":
                return
            yield buffer


async def _lines(upstream: Upstream) -> AsyncGenerator[bytes, None]:
    """The lines of a stream; at its end an empty one, which ends an event that nothing else did."""
    buffer = b""
    async for chunk in upstream.chunks():
        *lines, buffer = (buffer + chunk).split(b"\n")
        if len(buffer) > _EVENT_LIMIT:
            raise UpstreamError(message="the engine sent an event that is too long")
        for line in lines:
            yield line.removesuffix(b"\r")
    yield buffer
    yield b""


def _message(error: Any) -> str:
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)


def _estimate(engine: LiveEngine, prompt: Prompt, translation: Translation) -> dict[str, Any]:
    """The usage where the engine was cut off before it said it: counted by us."""
    before, after = engine.prompt_tokens(prompt), engine.count(translation.text)
    return {"prompt_tokens": before, "completion_tokens": after, "total_tokens": before + after}
