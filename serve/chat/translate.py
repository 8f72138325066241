"""The engine's answer in the client's dialect, piece by piece or whole."""

from __future__ import annotations

from typing import Any

from prompt_opt.core import Prompt
from serve.chat.record import Answer
from serve.chat.reply import REPLY_LIMIT, without_key
from serve.chat.service import failed, reported
from serve.dialects import sse
from serve.dialects.annotation import Editor
from serve.dialects.dialect import BadEvent, Reader
from serve.dialects.edited import EditedStream
from serve.dialects.translation import Translation
from serve.engine.live import LiveEngine
from serve.engine.upstream import Upstream, UpstreamError
from serve.errors import ApiError
from serve.http.call import Call


async def translate(
    call: Call,
    answer: Answer,
    engine: LiveEngine,
    prompt: Prompt,
    upstream: Upstream,
    it: Translation,
    *,
    stream: bool,
    editor: Editor | None = None,
) -> None:
    """Write the engine's answer in the client's dialect, as a stream or whole; an `editor` then changes it.

    Raises:
        ApiError: the engine's answer broke off, is none, or reports an error.
    """
    reader = it.reader
    edited = EditedStream(editor) if editor is not None else None
    if stream:
        call.start(200, upstream.events, events=True)
        chunk = it.opening() if edited is None else edited.feed(it.opening())
        call.passed = lambda: chunk
        await call.write(chunk)
    try:
        if upstream.streams:
            await _events(call, answer, engine, upstream, it, edited, stream=stream)
        else:
            await _only(call, answer, engine, upstream, it, edited, stream=stream)
        if not reader.complete:
            raise UpstreamError(message="the answer ended before it was complete")
    except (BadEvent, sse.TooLong) as error:
        raise failed(engine, UpstreamError(error, str(error))) from error
    except UpstreamError as error:
        raise failed(engine, error) from error
    finally:
        answer.text = reader.choices[0].text if answer.keep else None
    engine.counted = engine.counted or (stream and reader.usage is not None)
    answer.usage = usage = reader.usage or _estimate(engine, prompt, reader)
    if stream:
        last = it.closing(usage)
        call.end(last if edited is None else edited.feed(last) + edited.close(whole=True))
    else:
        body = it.reply(usage)
        call.reply(200, body if editor is None else editor.whole(body), upstream.anew)
    if reader.cut_off:
        upstream.abort()  # the answer has ended and the engine has not
    else:
        await upstream.done()


class _Over(Exception):
    """Nothing more is wanted of the engine."""


async def _events(
    call: Call,
    answer: Answer,
    engine: LiveEngine,
    upstream: Upstream,
    it: Translation,
    edited: EditedStream | None,
    *,
    stream: bool,
) -> None:
    """Translate events in the callback that brings them: no task is woken for one."""
    events, reader = sse.Events(), it.reader
    trouble: Exception | None = None
    last = call.passed()
    call.passed = lambda: last

    def pass_on(found: list[bytes]) -> bool:
        nonlocal last
        chunk = b""
        try:
            for event in found:
                answer.saw_first_byte()
                if stream and answer.meter is not None:
                    answer.meter(1)
                piece = it.feed(event)
                if reader.error is not None:
                    raise _reported(engine, reader)
                chunk = chunk + piece if chunk else piece
                if reader.finished:
                    break
        finally:
            if stream and chunk:
                last = chunk if edited is None else edited.feed(chunk)
                room = call.feed(last)
            else:
                room = True
        return room

    def take(piece: bytes) -> bool:
        nonlocal trouble
        try:
            return pass_on(events.feed(piece)) and not events.ended and not reader.finished
        except (BadEvent, sse.TooLong, ApiError) as error:
            trouble = error
            return False

    async def ready() -> None:
        if trouble is not None:
            raise trouble
        await call.drained()
        if events.ended or reader.finished:
            raise _Over

    try:
        await upstream.pump(take, ready)
    except _Over:
        return
    pass_on(events.close())


async def _only(
    call: Call,
    answer: Answer,
    engine: LiveEngine,
    upstream: Upstream,
    it: Translation,
    edited: EditedStream | None,
    *,
    stream: bool,
) -> None:
    """An answer that is no stream, as its only event."""
    event = await upstream.read(REPLY_LIMIT)
    answer.saw_first_byte()
    if stream and answer.meter is not None:
        answer.meter(1)
    chunk = b""
    if stream:
        chunk = it.feed(event)
    else:
        it.take(event)
    if it.reader.error is not None:
        raise _reported(engine, it.reader)
    if chunk:
        await call.write(chunk if edited is None else edited.feed(chunk))


def _reported(engine: LiveEngine, reader: Reader) -> ApiError:
    return reported(engine, without_key(engine, _message(reader.error).encode()).decode())


def _message(error: Any) -> str:
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)


def _estimate(engine: LiveEngine, prompt: Prompt, reader: Reader) -> dict[str, Any]:
    """The usage where the engine was cut off before it said it: counted by us."""
    before, after = engine.prompt_tokens(prompt), engine.count("".join([choice.text for choice in reader.choices]))
    return {"prompt_tokens": before, "completion_tokens": after, "total_tokens": before + after}
