"""The line that a request travels, from its body to the last byte of its answer.

body → dialect.parse → choose → stages' advice → layout → engine → answer, in the client's dialect
                                                             └→ trace, metrics

This module owns the request's `Record`: the steps return what they learned, and it is noted here.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from prompt_opt.core import Advice, Outcome
from prompt_opt.pipeline import StageFailed
from serve.chat import forms
from serve.chat.admission import admit, leave
from serve.chat.align import Order, align, holds, outgoing, translation, without
from serve.chat.beside import LARGE, beside
from serve.chat.choose import choose, not_applicable
from serve.chat.delivery import Delivery, Outgoing, candidates, counting, deliver
from serve.chat.keys import ANYBODY, known
from serve.chat.observe import begin, finish
from serve.chat.record import Alignment, Record, Selection, account
from serve.chat.reply import hand_over, pass_on, read, translate
from serve.chat.salt import PATHS, natively, notes, salt
from serve.chat.service import Service
from serve.chat.settle import carriers, probed, settle
from serve.config import RAW
from serve.dialects import multipart, openai, openai_chat, wire
from serve.dialects.dialect import Dialect
from serve.engine.features import APIS, PARTS
from serve.engine.live import LiveEngine
from serve.errors import ApiError, Unavailable, UpstreamFailed
from serve.http.call import Call, ClientGone
from serve.http.heartbeat import Heartbeat
from serve.observe.logs import sound_id

# What engines say of a prompt that is longer than their context (OpenAI, vLLM, SGLang, llama.cpp, TGI, gateways).
_TOO_LONG = re.compile(
    rb"context_length_exceeded|exceed_context_size|context (?:length|size|window)|max(?:imum)?[_ ]model[_ ]len"
    rb"|too many tokens|prompt is too long|max_total_tokens",
    re.IGNORECASE,
)
_REFUSALS = (400, 413, 422)
# Paths whose bodies may be forms; every other body is JSON.
_FORMS = ("/v1/audio/transcriptions", "/v1/audio/translations", "/v1/images/edits", "/v1/images/variations")
# Paths on which nothing is generated, so that there is nothing to align.
_SILENT = ("/v1/embeddings", "/v1/moderations", "/v1/rerank", "/v1/score")

Line = Callable[[Service, Call, Record], Awaitable[None]]


def speaking(dialect: Dialect, dialects: Sequence[Dialect]) -> Line:
    """The line of a request for an answer, in this dialect, which is one of `dialects`."""

    def line(service: Service, call: Call, record: Record) -> Awaitable[None]:
        return _generate(service, call, record, dialect, dialects)

    return line


async def _generate(
    service: Service, call: Call, record: Record, dialect: Dialect, dialects: Sequence[Dialect]
) -> None:
    config = service.config
    request, policy, engine, model, held = await settle(service, call, record, dialect, dialects)
    with call:  # that is, while the client stays
        if dialect.path in APIS:
            await probed(service, call, policy, dialect)
        if not held and natively(policy, engine, dialect.path):
            outcomes = tuple([Outcome(name, "skipped", "elsewhere") for name in policy.stages])
            record.alignment = Alignment(outcomes, notes=notes(policy, engine, "cache_salt" in request.fields))

            def write(engine: LiveEngine, model: str) -> Outgoing:
                own = salt(config, policy, engine, record.caller.tenant)
                body = _checked(service, dialect, engine, request, model, own)
                return counting(engine, request, Outgoing(dialect.path, body))

            engines = candidates(service, policy)
            if policy.fallback:
                engines = [it for it in engines if it is engine or natively(policy, it, dialect.path)]
            with Heartbeat(call, config.server.heartbeat_s, stream=request.stream):
                sent = await deliver(service, call, record, engines, model, write)
                await _pass_on(call, record, service, sent, dialect)
        else:
            if (size := len(request.body)) < LARGE:
                chat, plain = dialect.chat(request, config.server), dialect.as_chat(request)
            else:
                chat = await beside(size, dialect.chat, request, config.server)
                plain = await beside(size, dialect.as_chat, request)
            order = Order(service, dialect, record.caller, policy, engine, model, request, plain, chat)
            if call.span is not None:
                call.span.aligning()
            record.alignment = await align(order)
            with Heartbeat(call, config.server.heartbeat_s, stream=request.stream):
                await _aligned(call, record, order)


def _checked(
    service: Service, dialect: Dialect, engine: LiveEngine, request: wire.Request, model: str, own: str
) -> bytes:
    """The client's body for the engine, which can do what it asks for."""
    if "chat" in dialect.renders:
        engine.refuse_chat(service.config)
    complete = engine.supports >= PARTS or "chat" not in dialect.renders
    chat = None if complete else dialect.chat(request, service.config.server)
    engine.refuse(request if complete else dialect.as_chat(request), chat)
    return _unchanged(dialect, engine, request, model, own)


async def _aligned(call: Call, record: Record, order: Order) -> None:
    """Send the request under its policy, and pass the answer on, or translate it.

    What an engine refuses for our part of it is sent again in the form that the refusal asks for, and without our part
    where none helps and the policy lets it go: a request that works raw does not fail because of us.
    """
    policy = order.policy
    aligned = record.alignment
    used = forms.known(order.engine, order.model)
    record.alignment = forms.shape(aligned, used)
    sent, refusal = await _ask(call, order, record), None
    while sent.upstream.status in _REFUSALS and record.alignment.advice != Advice():
        with sent.upstream:
            refusal = await read(sent.engine, sent.upstream)
        form = forms.asked(refusal, used) if policy.render == "chat" else None
        if form is not None:
            used |= {form}
            record.alignment = forms.shape(aligned, used)
        elif _TOO_LONG.search(refusal):
            # Longer than the engine takes, and we made it so: without our part it is what it was.
            record.alignment = without(order, aligned, "the engine's context has no room for its text", "context")
        elif policy.render == "chat" and sent.upstream.status == 400 and not holds(order, aligned):
            record.alignment = without(order, aligned, "", "refused")
        else:
            break
        sent, refusal = await _ask(call, order, record), None
    if used and sent.upstream.status == 200 and sent.engine is order.engine and record.alignment.advice != Advice():
        forms.learn(order.engine, order.model, used)
    order, engine, upstream = order.on(sent.engine, sent.model), sent.engine, sent.upstream
    with upstream:
        if order.native and refusal is None:
            return await _pass_on(call, record, order.service, sent, order.dialect)
        if upstream.status != 200:
            body = await read(engine, upstream) if refusal is None else refusal
            return hand_over(call, record.answer, upstream, body, order.dialect, native=order.native)
        prompt = record.alignment.prompt
        assert prompt is not None
        assert record.selection is not None
        it = translation(order, prompt, record.ident, record.selection.model)
        await translate(call, record.answer, engine, prompt, upstream, it, stream=order.request.stream)


async def _ask(call: Call, order: Order, record: Record) -> Delivery:
    prompt = record.alignment.prompt
    assert prompt is not None

    def write(engine: LiveEngine, model: str) -> Outgoing:
        if engine is not order.engine:
            engine.refuse(order.plain, order.chat)
            if not order.on(engine, model).native:
                order.dialect.refuse_untranslatable(order.request)
        return outgoing(order.on(engine, model), prompt)

    engines = candidates(order.service, order.policy)
    return await deliver(order.service, call, record, engines, order.model, write)


async def _pass_on(
    call: Call, record: Record, service: Service, sent: Delivery, dialect: Dialect, *, whole: bool = True
) -> None:
    """Pass on the answer of an engine that speaks the client's dialect."""
    with sent.upstream as upstream:
        await pass_on(
            service.config, call, record.answer, sent.engine, upstream, dialect, whole=whole, counts=sent.counts
        )


def relaying(dialects: Sequence[Dialect]) -> Line:
    """The line of any other path of the allow-list: checked, then passed on as it is, or refused.

    A policy that has something to do cannot hold here. It is named in a refusal with those `dialects` that can carry
    it, unless it says `elsewhere = "raw"`, or the path generates no text.
    """

    def line(service: Service, call: Call, record: Record) -> Awaitable[None]:
        return _relay(service, call, record, dialects)

    return line


async def _relay(service: Service, call: Call, record: Record, dialects: Sequence[Dialect]) -> None:
    config = service.config
    record.caller = caller = known(config.keys, openai.bearer(call.headers)) if config.keys else ANYBODY
    form = call.path in _FORMS and call.media not in ("", "application/json")
    await admit(service, call, record)
    body = await call.read(int(config.server.max_body_mb * 2**20), json=not form)
    read: multipart.Form | wire.Request
    if form:
        read = await beside(len(body), multipart.parse, body, call.header(b"content-type") or "")
    else:
        read = await beside(len(body), wire.parse, body, config.server)
    policy, model = choose(config, caller, read.model, call.header(b"x-trimtab-policy"), read.options)
    engine = service.engines[policy.engine]
    record.selection = Selection(policy, engine.spec.name, read.model, read.stream)
    if policy.stages or policy.render == "base":
        if call.path in _SILENT:
            caller.require(RAW)
        elif policy.elsewhere != "raw":
            raise not_applicable(policy, call.path, carriers(policy, dialects))
        why = "not a chat" if call.path in _SILENT else "elsewhere"
        record.alignment = Alignment(tuple(Outcome(name, "skipped", why) for name in policy.stages))
    engine.require_ready()
    if isinstance(read, wire.Request):
        engine.refuse_guarded(read, salted=policy.cache_salt == "tenant")
        engine.refuse(read, None)

    def write(engine: LiveEngine, model: str) -> Outgoing:
        if not isinstance(read, wire.Request):
            return Outgoing(call.path, read.with_model(model))
        own = salt(config, policy, engine, caller.tenant) if call.path in PATHS else ""
        return counting(engine, read, Outgoing(call.path, _unchanged(openai_chat, engine, read, model, own)))

    with call:  # that is, while the client stays
        sent = await deliver(service, call, record, [engine], model, write)
        await _pass_on(call, record, service, sent, openai_chat, whole=False)


def _unchanged(dialect: Dialect, engine: LiveEngine, request: wire.Request, model: str, own: str) -> bytes:
    """The client's body for the engine: only the model's name and the cache's salt may change."""
    if engine.must_adapt(request.fields):
        fields = {**request.fields, "model": model} if model else dict(request.fields)
        return msgspec.json.encode(engine.adapt(fields))
    return dialect.native(request, None, model, own)


async def run(service: Service, call: Call, line: Line) -> None:
    """Travel a line, turn what goes wrong into an answer, and record the outcome whatever it is."""
    record = Record(call.path, request_id=sound_id(call.header(b"x-request-id")))
    call.extra = record.headers
    begin(service, call, record)
    unanswered = 500  # the status to count where no answer has begun; what is left after the cases below is a bug
    try:
        await line(service, call, record)
    except ClientGone:
        unanswered, record.error = 499, "client left"  # nginx's number for it
    except ApiError as error:
        record.error = error.brief or error.message
        call.fail(error)
    except StageFailed as failed:
        record.alignment = record.alignment._replace(outcomes=(failed.outcome,))
        record.error = str(failed)
        call.fail(UpstreamFailed(f"{failed}, and the policy requires it", code="stage_failed"))
    except asyncio.CancelledError:
        unanswered, record.error = 503, "server stopped"
        call.fail(Unavailable("the server is shutting down", code="shutting_down"))
        raise
    finally:
        status = call.status or unanswered
        leave(record, served=status < 400)
        account(record, status, service.traces)
        finish(service, call, record, status)
