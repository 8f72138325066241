"""The engine's answer on its way to the client, byte for byte."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import reduce

from serve.chat.record import Answer
from serve.chat.service import REPORTED, failed
from serve.config import Config
from serve.dialects.annotation import Editor
from serve.dialects.dialect import Dialect
from serve.dialects.edited import EditedStream
from serve.dialects.renamed import Renamed
from serve.dialects.usage import UsageFilter
from serve.engine.live import LiveEngine
from serve.engine.upstream import Upstream, UpstreamError
from serve.errors import BadRequest
from serve.http.call import Call
from serve.http.headers import response_headers

REPLY_LIMIT = 256 * 2**20  # bytes of an answer that is not streamed
_TAIL = 16384  # bytes kept at least of a stream's end: where its finish reason, usage and [DONE] are
_BEGIN = 4096  # bytes of a long stream's begin, where some APIs count the prompt
_EVENT = 2**24  # bytes of one event: the last one of some APIs holds the whole answer again
_KEPT = 2**24  # bytes of a stream that a trace's answer is read from, where it keeps one
# What engines say where the model has no chat template (transformers, vLLM old and new).
_NO_TEMPLATE = re.compile(
    rb"default chat template is no longer|must provide a chat template|chat_template is not set"
    rb"|does not (?:have|define) a chat template|no chat template"
)


async def read(engine: LiveEngine, upstream: Upstream) -> bytes:
    """The whole answer.

    Raises:
        ApiError: the engine did not answer as it should.
    """
    try:
        body = await upstream.read(REPLY_LIMIT)
    except UpstreamError as error:
        raise failed(engine, error) from error
    return body if upstream.status == 200 else without_key(engine, body)


def without_key(engine: LiveEngine, body: bytes) -> bytes:
    """An engine's error without the API key that this server has for it: engines quote the request's headers."""
    return body.replace(engine.key.encode(), b"***") if engine.key else body


async def pass_on(
    config: Config,
    call: Call,
    answer: Answer,
    engine: LiveEngine,
    upstream: Upstream,
    api: Dialect,
    *,
    whole: bool,
    counts: bool = False,
    editor: Editor | None = None,
) -> None:
    """Pass the engine's answer on, byte for byte; only how a stream ends is looked at.

    `api` is the one that the engine speaks here; `whole` says that its stream is broken if it has no end, `counts` that
    its stream's usage was asked for by us. An `editor` changes the answer on its way.

    Raises:
        ApiError: the engine's answer broke off. BadRequest: its model has no chat template.
    """
    media = upstream.media
    if upstream.status == 200 and media == "text/event-stream":
        filters = Filters(counts, editor, renamed(engine))
        await _pass_events(call, answer, engine, upstream, api, filters, whole=whole)
    elif upstream.status == 200 and media != "application/json":
        await _pass_bytes(call, answer, engine, upstream)
    else:
        body = await read(engine, upstream)
        if upstream.status == 400 and _NO_TEMPLATE.search(body):
            raise BadRequest(engine.no_template(config), code="no_chat_template", param="model")
        if engine.launched and upstream.status == 200 and (names := renamed(engine)) is not None:
            body = names.whole(body)
        hand_over(call, answer, upstream, body, api, native=True, editor=editor)


def renamed(engine: LiveEngine) -> Renamed | None:
    """How the model's name is put right in an engine's answers; None for an engine whose answers have it right."""
    return Renamed(engine.misnomer, engine.spec.public_name or engine.model) if engine.misnomer else None


def hand_over(
    call: Call,
    answer: Answer,
    upstream: Upstream,
    body: bytes,
    api: Dialect,
    *,
    native: bool,
    editor: Editor | None = None,
) -> None:
    """Send an answer that has been read, with its own status and headers; an error that is not `native`, translated."""
    answer.saw_first_byte()
    headers = upstream.passed
    if upstream.status == 200:
        answer.usage = api.usage(body)
        answer.text = api.text(body, stream=False) if answer.keep else None
        body = body if editor is None else editor.whole(body)
    else:
        answer.error = f"engine answered {upstream.status}"
        if not native and (own := api.refusal(upstream.status, body)) is not body:
            body, headers = own, upstream.anew
    call.reply(upstream.status, body, headers)


class Filters:
    """What a stream passes through, each where it is wanted.

    The model's name is put right (`names`), usage that was asked for by us is taken out (`counts`), and an `editor`
    edits what is left.
    """

    def __init__(self, counts: bool, editor: Editor | None, names: Renamed | None) -> None:
        self._names = names
        self._usage = UsageFilter() if counts else None
        self._edited = EditedStream(editor) if editor is not None else None

    @property
    def passing(self) -> Callable[[bytes], bytes] | None:
        """A piece of the stream in, what the client gets of it out; None where it gets everything as it is."""
        steps = [step.feed for step in (self._names, self._usage, self._edited) if step is not None]
        if len(steps) < 2:
            return steps[0] if steps else None
        return lambda chunk: reduce(lambda piece, step: step(piece), steps, chunk)

    def close(self, *, whole: bool) -> bytes:
        """What was held back when the stream ended; whether it is a `whole` answer."""
        rest = self._names.close() if self._names is not None else b""
        if self._usage is not None:
            rest = self._usage.feed(rest) + self._usage.close()
        return rest if self._edited is None else self._edited.feed(rest) + self._edited.close(whole=whole)


async def _pass_bytes(call: Call, answer: Answer, engine: LiveEngine, upstream: Upstream) -> None:
    """Pass on speech, say, as it comes. If it breaks off, so does what the client gets."""
    call.start(upstream.status, response_headers(upstream.raw_headers, length=True))

    def take(chunk: bytes) -> bool:
        answer.saw_first_byte()
        return call.feed(chunk)

    try:
        await upstream.pump(take, call.drained)
    except UpstreamError as error:
        raise failed(engine, error) from error
    call.end()


async def _pass_events(
    call: Call,
    answer: Answer,
    engine: LiveEngine,
    upstream: Upstream,
    api: Dialect,
    filters: Filters,
    *,
    whole: bool,
) -> None:
    call.start(upstream.status, upstream.passed, events=True)
    begin, tail, kept, last = bytearray(), bytearray(), bytearray(), b""
    call.passed = lambda: last
    passing, keep, meter, feed = filters.passing, answer.keep, answer.meter, call.feed

    def take(chunk: bytes) -> bool:
        nonlocal last
        if not last:
            answer.saw_first_byte()
        last = chunk
        if meter is not None:
            meter(chunk.count(b"data:"))  # an event is about a token; the usage, at the end, is exact
        if keep and len(kept) <= _KEPT:
            kept.extend(chunk)
        tail.extend(chunk)
        if len(tail) > 2 * _TAIL:
            begin.extend(tail[: 0 if begin else _BEGIN])
            _shorten(tail)
        return feed(chunk if passing is None else passing(chunk))

    try:
        await upstream.pump(take, call.drained)
    except UpstreamError as error:
        call.feed(filters.close(whole=False))
        _close_event(call, tail)
        raise failed(engine, error) from error
    finally:
        if 0 < len(kept) <= _KEPT:
            answer.text = api.text(bytes(kept), stream=True)
    end = api.ending(bytes(begin + b"\n" + tail if begin else tail))
    call.feed(filters.close(whole=end.ended or end.finished))
    answer.usage = end.usage
    engine.counted = engine.counted or end.usage is not None
    if end.failure is not None:
        answer.error = REPORTED
    elif whole and not end.ended and not end.finished:
        _close_event(call, tail)
        raise failed(engine, UpstreamError(message="the stream ended before its answer did"))
    if end.ended or end.failure is not None or engine.sends_done:
        return call.end()
    _close_event(call, tail)
    call.end(api.done)


def _shorten(tail: bytearray) -> None:
    """Drop the events before the last `_TAIL` bytes; one that is longer stays whole, up to `_EVENT` bytes."""
    ends = max(tail.rfind(b"\n\n", 0, -_TAIL), tail.rfind(b"\n\r\n", 0, -_TAIL))
    if ends >= 0:
        del tail[: ends + 1]
    elif len(tail) > _EVENT:
        del tail[:-_TAIL]


def _close_event(call: Call, tail: bytes | bytearray) -> None:
    """Close the event that the stream broke off in, or ours would be taken for its rest."""
    if tail and not tail.endswith((b"\n\n", b"\r\n\r\n")):
        call.feed(b"\n\n")
