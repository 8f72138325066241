"""The line that a chat travels, from its body to the last byte of its answer.

body → wire.parse → choose → pipeline.advise → layout → relay → (translate) → client
                                                                  └→ trace, metrics
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from prompt_opt.core import Advice, Chat, Context, Outcome, Policy, Prompt, Stage
from prompt_opt.layout import NoPlace
from prompt_opt.pipeline import StageFailed, advise, bare, fit
from serve import metrics, wire
from serve.call import EVENTS, Call, ClientGone
from serve.choose import choose
from serve.config import RAW, Config
from serve.engines import LiveEngine
from serve.errors import ApiError, BadRequest, Unavailable, UpstreamFailed
from serve.keys import Caller, identify
from serve.relay import Refused, Relay, TimedOut, Upstream, UpstreamError, request_headers, response_headers
from serve.traces import Traces
from serve.translate import BadEvent, Translation

log = logging.getLogger("trimtab.answer")

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
_REPLY_LIMIT = 256 * 2**20  # bytes of an answer that is not streamed
_EVENT_LIMIT = 8 * 2**20  # bytes of one event of a stream
_TAIL = 16384  # bytes kept of a stream's end: where its finish reason, usage and [DONE] are
_LONG = 65536  # a prompt of so many characters is counted off the event loop
_LEAST_ANSWER = 256  # tokens that an answer gets, rather than examples, where the client names no limit
_TOO_LONG = re.compile(rb"context_length_exceeded|maximum context length|context window|max_model_len|too many tokens")
_FINISHED = re.compile(rb'"finish_reason"\s*:\s*"')
_USAGE = re.compile(rb'"usage"\s*:\s*(\{)')


@dataclass(frozen=True, slots=True)
class Service:
    """What a request needs of its worker; replaced as a whole on reload, so a request keeps the one it began with."""

    config: Config
    engines: Mapping[str, LiveEngine]
    stages: Mapping[str, tuple[Stage, ...]]  # by policy
    relay: Relay
    traces: Traces


@dataclass(slots=True)
class Record:
    """What a trace and the metrics are made of, filled in on the way."""

    path: str
    ident: str
    started: float = field(default_factory=time.monotonic)
    tenant: str = ""
    policy: Policy | None = None
    engine: str = ""
    model: str = ""
    stream: bool = False
    outcomes: tuple[Outcome, ...] = ()
    notes: tuple[str, ...] = ()
    advice: Advice = field(default_factory=Advice)
    prompt: Prompt | None = None
    chat: Chat | None = None
    content: bool = False  # keep the prompt before and after
    first_byte: float | None = None
    usage: Mapping[str, Any] | None = None
    error: str = ""

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The short form of the trace, which every answer carries."""
        applied = ", ".join(map(str, self.outcomes)) or "none"
        return [
            (b"x-trimtab-policy", self.policy.name.encode() if self.policy else b""),
            (b"x-trimtab-applied", applied.encode("latin-1", "replace")),
            (b"x-trimtab-trace", self.ident.encode()),
        ]

    def saw_first_byte(self) -> None:
        if self.first_byte is None:
            self.first_byte = time.monotonic() - self.started

    def body(self, status: int) -> dict[str, Any]:
        """The whole trace."""
        policy = self.policy
        out: dict[str, Any] = {
            "id": self.ident,
            "object": "trace",
            "created": int(time.time() - (time.monotonic() - self.started)),
            "path": self.path,
            "policy": policy.name if policy else None,
            "policy_digest": policy.digest if policy else None,
            "render": policy.render if policy and policy.stages else None,
            "engine": self.engine,
            "model": self.model,
            "stream": self.stream,
            "stages": [{"stage": o.stage, "status": o.status, "reason": o.reason, "ms": o.ms} for o in self.outcomes],
            "notes": list(self.notes),
            "principles": [
                {"id": p.id, "title": p.title, "source": p.source, "region": p.region, "score": p.score, "pinned": pin}
                for pin, some in ((True, self.advice.pinned), (False, self.advice.principles))
                for p in some
            ],
            "status": status,
            "error": self.error or None,
            "usage": self.usage,
            "first_byte_ms": None if self.first_byte is None else round(self.first_byte * 1000, 3),
            "total_ms": round((time.monotonic() - self.started) * 1000, 3),
        }
        if self.content and self.chat is not None and self.prompt is not None:
            out["before"] = [msgspec.json.decode(m.json()) for m in self.chat.messages]
            messages = self.prompt.messages
            out["after"] = self.prompt.text if messages is None else [msgspec.json.decode(m.json()) for m in messages]
            out["spans"] = [{"origin": s.origin, "text": s.text, "message": s.message} for s in self.prompt.spans]
        return out


async def chat_completions(service: Service, call: Call, record: Record) -> None:
    """POST /v1/chat/completions."""
    config = service.config
    caller = identify(config.keys, call.header(b"authorization"))
    record.tenant = caller.tenant
    body = await call.json_body(int(config.server.max_body_mb * 2**20))
    request = wire.parse(body, config.server)
    policy, model = choose(config, caller, request.model, call.header(b"x-trimtab-policy"), request.options)
    engine = service.engines[policy.engine]
    record.policy, record.engine, record.stream = policy, engine.spec.name, request.stream
    record.model = request.model or engine.spec.public_name
    record.content = config.server.trace_content or bool(request.options.get("explain") and caller.may("explain"))
    engine.require_ready()
    model = engine.name_for(model)
    if not model:
        raise BadRequest("model is missing, and the engine has no default", param="model")
    async with call.while_client_stays():
        if not policy.stages and policy.render == "chat":
            engine.refuse_chat(config)
            engine.refuse(request, None if "images" in engine.supports else wire.chat(request, config.server))
            upstream = await _send(service, call, engine, CHAT, _raw_body(engine, request, model))
            call.extra = record.headers()
            with _held(upstream):
                await _pass_on(config, call, record, engine, upstream)
        else:
            await _aligned(service, call, record, caller, engine, request, model)


async def relayed(service: Service, call: Call, record: Record) -> None:
    """Any other path of the allow-list: checked, then passed on as it is. Needs the right `raw`."""
    config = service.config
    caller = identify(config.keys, call.header(b"authorization"))
    record.tenant = caller.tenant
    caller.require(RAW)
    body = await call.body(int(config.server.max_body_mb * 2**20))
    policy = config.policies[RAW]
    engine = service.engines[policy.engine]
    if (call.header(b"content-type") or "application/json").startswith("application/json"):
        request = wire.parse(body, config.server)
        if (alias := config.aliases.get(request.model)) is not None:
            engine = service.engines[config.policies[alias.policy].engine]
        engine.refuse(request, None)
        body = _raw_body(engine, request, engine.name_for(alias.model if alias else request.model))
        record.model, record.stream = request.model, request.stream
        asked = request.options.get("policy") or call.header(b"x-trimtab-policy")
        if asked and asked != RAW:
            # Nothing here is a chat; saying so beats doing nothing in silence.
            chosen, _ = choose(config, caller, request.model, call.header(b"x-trimtab-policy"), request.options)
            record.outcomes = tuple(Outcome(name, "skipped", "not a chat") for name in chosen.stages)
    record.policy, record.engine = policy, engine.spec.name
    engine.require_ready()
    async with call.while_client_stays():
        upstream = await _send(service, call, engine, call.path, body)
        call.extra = record.headers()
        await _pass_on(config, call, record, engine, upstream)


Line = Callable[[Service, Call, Record], Awaitable[None]]


async def run(service: Service, call: Call, line: Line) -> None:
    """Travel a line, turn what goes wrong into an answer, and record the outcome whatever it is."""
    record = Record(call.path, uuid.uuid4().hex)
    try:
        await line(service, call, record)
    except ClientGone:
        record.error = "client left"
    except ApiError as error:
        record.error = error.message
        call.extra = record.headers()
        await call.fail(error)
    except StageFailed as failed:
        record.outcomes = (failed.outcome,)
        record.error = str(failed)
        call.extra = record.headers()
        await call.fail(UpstreamFailed(f'{failed} (the policy\'s on_error is "fail")', code="stage_failed"))
    except asyncio.CancelledError:
        record.error = "server stopped"
        if call.started and not call.ended:
            await call.end(UpstreamFailed("the server is shutting down", code="shutting_down").event())
        raise
    finally:
        _account(service, call, record)


def _account(service: Service, call: Call, record: Record) -> None:
    policy = record.policy.name if record.policy else ""
    status = call.status or 499  # nginx's number for a client that left before an answer
    metrics.requests.labels(record.path, policy, str(status)).inc()
    for outcome in record.outcomes:
        metrics.stages.labels(outcome.stage, outcome.status).inc()
        metrics.stage_seconds.labels(outcome.stage).observe(outcome.ms / 1000)
    if record.first_byte is not None:
        metrics.first_byte.labels(policy).observe(record.first_byte)
    for kind in ("prompt_tokens", "completion_tokens"):
        if record.usage and isinstance(record.usage.get(kind), int):
            metrics.tokens.labels(policy, kind.removesuffix("_tokens")).inc(record.usage[kind])
    dropped = service.traces.dropped
    service.traces.put(record.ident, record.tenant, record.body(status))
    if service.traces.dropped > dropped:
        metrics.traces_dropped.inc()


def _raw_body(engine: LiveEngine, request: wire.Request, model: str) -> bytes:
    if engine.must_adapt(request.fields):
        fields = {**request.fields, "model": model} if model else dict(request.fields)
        return msgspec.json.encode(engine.adapt(fields))
    return wire.raw_body(request, model)


async def _send(service: Service, call: Call, engine: LiveEngine, path: str, body: bytes) -> Upstream:
    """Send to the engine; an UpstreamError becomes an answer for the client."""
    anonymous = not service.config.keys and engine.key is None
    headers = request_headers(call.scope["headers"], engine.key, authorization=anonymous)
    try:
        return await service.relay.send("POST", engine.url + path, headers, body)
    except UpstreamError as error:
        raise _failed(engine, error) from error


def _failed(engine: LiveEngine, error: UpstreamError) -> ApiError:
    metrics.upstream_errors.labels(engine.spec.name, type(error).__name__).inc()
    log.warning("engine %s: %s (%r)", engine.spec.name, error, error.cause)
    if isinstance(error, Refused) and engine.spec.launched:
        return Unavailable(f"engine {engine.spec.name!r} is down and being started again", code="engine_not_ready")
    return UpstreamFailed(f"engine {engine.spec.name!r}: {error}", timed_out=isinstance(error, TimedOut))


@contextmanager
def _held(upstream: Upstream) -> Iterator[None]:
    """Whatever ends the block early, the client's leaving above all, cuts the engine off."""
    try:
        yield
    except BaseException:
        upstream.abort()
        raise


# ---------------------------------------------------------------- an aligned chat


async def _aligned(
    service: Service, call: Call, record: Record, caller: Caller, engine: LiveEngine, request: wire.Request, model: str
) -> None:
    config, policy = service.config, record.policy
    assert policy is not None
    chat = wire.chat(request, config.server)
    record.chat = chat
    if policy.render == "chat":
        engine.refuse_chat(config)
    engine.refuse(request, chat)
    deadline = time.monotonic() + policy.budget_ms / 1000
    context = Context(policy, caller.tenant, request.options, deadline)
    record.advice, record.outcomes = await advise(chat, context, service.stages[policy.name])
    try:
        await _fit(engine, request, record)
        upstream = await _ask(service, call, engine, request, record, model)
        if upstream.status in (400, 413, 422) and record.advice != Advice():
            upstream = await _shorter(service, call, engine, request, record, model, upstream)
    except NoPlace as error:
        raise BadRequest(str(error), code="no_place_in_base_render") from None
    call.extra = record.headers()
    with _held(upstream):
        if policy.render == "chat":
            await _pass_on(config, call, record, engine, upstream)
        else:
            await _translate(call, record, engine, request, upstream)


async def _fit(engine: LiveEngine, request: wire.Request, record: Record) -> None:
    """Lay the prompt out, within the engine's context where that is known."""
    policy, chat = record.policy, record.chat
    assert policy is not None
    assert chat is not None
    asked = wire.max_tokens(request)
    least = asked if asked is not None else (_LEAST_ANSWER if policy.render == "base" else 1)
    room = None if engine.context is None else max(engine.context - least, 1)

    def count(prompt: Prompt) -> int:
        # A token is at least a byte, so a prompt of few bytes needs no counting.
        size = sum(len(span.text.encode()) for span in prompt.spans) + 16 * len(prompt.spans)
        return size if room is None or size <= room else engine.prompt_tokens(prompt)

    args = (chat, record.advice, record.outcomes, policy, room, count, engine.specials)
    if sum(len(m.text) for m in chat.messages) > _LONG:
        record.prompt, record.outcomes = await asyncio.to_thread(fit, *args)
    else:
        record.prompt, record.outcomes = fit(*args)
    assert record.prompt is not None
    record.notes = record.prompt.notes


async def _ask(
    service: Service, call: Call, engine: LiveEngine, request: wire.Request, record: Record, model: str
) -> Upstream:
    """Send the prompt in the shape of its render."""
    prompt, policy = record.prompt, record.policy
    assert prompt is not None
    assert policy is not None
    if prompt.messages is not None:
        body = wire.chat_body(request, prompt, model)
        if engine.must_adapt(request.fields):
            body = msgspec.json.encode(engine.adapt(msgspec.json.decode(body, type=dict[str, msgspec.Raw])))
        return await _send(service, call, engine, CHAT, body)
    fields = wire.completion_fields(
        request, prompt, policy, model, _answer_tokens(engine, request, policy, prompt), engine.spec.max_stop
    )
    adapted = engine.adapt(fields)
    lost = sorted(n for n in policy.profile.decoding if n not in adapted and "generation_config" not in adapted)
    if lost:
        record.notes += (f"decoding: {', '.join(lost)} not sent, the engine does not know it",)
    if engine.streams_always:
        adapted["stream"] = True
    if request.stream and engine.kind == "vllm":
        adapted["stream_options"] = {"include_usage": True}
    return await _send(service, call, engine, TEXT, msgspec.json.encode(adapted))


def _answer_tokens(engine: LiveEngine, request: wire.Request, policy: Policy, prompt: Prompt) -> int:
    """`max_tokens`: the client's, or the profile's as far as the context goes. A base model always needs one."""
    asked = wire.max_tokens(request)
    if asked is not None:
        return asked
    default = int(policy.profile.decoding.get("max_tokens", 1024))
    if engine.context is None or len((prompt.text or "").encode()) + default <= engine.context:
        return default
    return max(1, min(default, engine.context - engine.prompt_tokens(prompt)))


async def _shorter(
    service: Service, call: Call, engine: LiveEngine, request: wire.Request, record: Record, model: str, no: Upstream
) -> Upstream:
    """The engine refused a prompt that we made longer: if that was the reason, send it without our part."""
    assert record.policy is not None
    assert record.chat is not None
    body = await _read(engine, no)
    if not _TOO_LONG.search(body):
        raise _Refusal(no, body)
    record.prompt, record.outcomes = bare(record.chat, record.outcomes, record.policy, engine.specials)
    record.advice = Advice()
    return await _ask(service, call, engine, request, record, model)


class _Refusal(ApiError):
    """An upstream's own 4xx, whose body has been read already."""

    def __init__(self, upstream: Upstream, body: bytes) -> None:
        super().__init__("upstream refused")
        self.status, self._body = upstream.status, body

    def json(self) -> bytes:
        return self._body


async def _read(engine: LiveEngine, upstream: Upstream) -> bytes:
    try:
        return await upstream.read(_REPLY_LIMIT)
    except UpstreamError as error:
        raise _failed(engine, error) from error


def _streams(upstream: Upstream) -> bool:
    return upstream.status == 200 and upstream.headers.get("content-type", "").startswith("text/event-stream")


# ---------------------------------------------------------------- passed on


async def _pass_on(config: Config, call: Call, record: Record, engine: LiveEngine, upstream: Upstream) -> None:
    """The engine's answer, byte for byte; only how a stream ends is looked at."""
    if not _streams(upstream):
        body = await _read(engine, upstream)
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
        raise _failed(engine, error) from error
    record.usage = _usage(tail)
    if b"data: [DONE]" in tail[-64:] or b"data:[DONE]" in tail[-64:]:
        return await call.end()
    if not _FINISHED.search(tail) and record.path in (CHAT, TEXT):
        if b'"error"' not in tail:
            raise _failed(engine, UpstreamError(message="the stream ended before its answer did"))
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


async def _translate(call: Call, record: Record, engine: LiveEngine, request: wire.Request, upstream: Upstream) -> None:
    """The engine's text completion, as the chat completion that the client asked for."""
    if upstream.status != 200:
        record.error = f"engine answered {upstream.status}"
        body = await _read(engine, upstream)
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
        raise _failed(engine, UpstreamError(error, str(error))) from error
    except UpstreamError as error:
        raise _failed(engine, error) from error
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
