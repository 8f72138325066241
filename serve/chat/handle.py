"""The line that a request travels, from its body to the last byte of its answer.

body → dialect.parse → choose → stages' advice → layout → engine → answer, in the client's dialect
                                                             └→ trace, metrics

The lines own the request's `Record`: the steps return what they learned, and it is noted here, in `settle` and, for
requests that are no dialect's, in `elsewhere`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from functools import partial

from msgspec.structs import replace

from prompt_opt.core import Advice, Outcome
from prompt_opt.pipeline import StageFailed
from serve.chat import forms
from serve.chat.align import Order, align, goes_native, holds, outgoing, translation, without
from serve.chat.annotate import annotate
from serve.chat.beside import beside
from serve.chat.delivery import Delivery, Outgoing, candidates, counting, deliver, unchanged
from serve.chat.lines import Line
from serve.chat.observe import begin, finish
from serve.chat.record import Alignment, Record, account
from serve.chat.refusal import spoken, stage_failed
from serve.chat.reply import hand_over, pass_on, read
from serve.chat.salt import natively, notes, salt
from serve.chat.service import Service
from serve.chat.settle import probed, settle
from serve.chat.translate import translate
from serve.dialects import wire
from serve.dialects.dialect import Dialect
from serve.engine.features import APIS, PARTS
from serve.engine.live import LiveEngine
from serve.errors import ApiError, Unavailable
from serve.http.body import LARGE
from serve.http.call import Call, ClientGone
from serve.http.heartbeat import heartbeat
from serve.observe.logs import sound_id

# What engines say of a prompt that is longer than their context (OpenAI, vLLM, SGLang, llama.cpp, TGI, gateways).
_TOO_LONG = re.compile(
    rb"context_length_exceeded|exceed_context_size|context (?:length|size|window)|max(?:imum)?[_ ]model[_ ]len"
    rb"|too many tokens|prompt is too long|max_total_tokens",
    re.IGNORECASE,
)
_REFUSALS = (400, 413, 422)
_LEFT = 499  # nginx's number for a client that has left


def speaking(dialect: Dialect, dialects: Sequence[Dialect]) -> Line:
    """The line of a request for an answer, in this dialect, which is one of `dialects`."""

    return partial(_generate, dialect, dialects)


async def _generate(
    dialect: Dialect, dialects: Sequence[Dialect], service: Service, call: Call, record: Record
) -> None:
    config = service.config
    settled = await settle(service, call, record, dialect, dialects)
    request, policy, engine, model = settled.request, settled.policy, settled.engine, settled.model
    record.labelled = config.marking.header
    with call:  # that is, while the client stays
        if dialect.path in APIS:
            await probed(service, call, policy, dialect)
        if not settled.held and natively(policy, engine, dialect.path):
            salted = policy.cache_salt == "tenant"
            if policy.stages or salted:
                outcomes = tuple([Outcome(name, "skipped", "elsewhere") for name in policy.stages])
                record.alignment = Alignment(outcomes, notes=notes(policy, engine, "cache_salt" in request.fields))

            def write(engine: LiveEngine, model: str) -> Outgoing:
                own = salt(config, policy, engine, record.caller.tenant) if salted else ""
                _check(service, dialect, engine, request)
                out = Outgoing(dialect.path, unchanged(dialect, engine, request, model, own))
                return counting(engine, request, out) if request.stream else out

            engines = [engine]
            if policy.fallback:
                others = candidates(service, policy)
                engines = [it for it in others if it is engine or natively(policy, it, dialect.path)]
            if request.stream and config.server.heartbeat_s:
                heartbeat(call, config.server.heartbeat_s)
            sent = await deliver(service, call, record, engines, model, write)
            editor = None
            if config.marking.edits:
                record.annotation = annotate(config, record, policy, dialect.as_chat(request))
                editor = None if record.annotation is None else dialect.editor(record.annotation)
            with sent.upstream as upstream:
                await pass_on(
                    config,
                    call,
                    record.answer,
                    sent.engine,
                    upstream,
                    dialect,
                    whole=True,
                    counts=sent.counts,
                    editor=editor,
                )
        else:
            if (size := len(request.body)) < LARGE:
                chat, plain = dialect.chat(request, config.server), dialect.as_chat(request)
            else:
                chat = await beside(size, dialect.chat, request, config.server)
                plain = await beside(size, dialect.as_chat, request)
            native = goes_native(policy, engine, dialect)
            record.chat, record.spoken = chat, request.options.get("language") or ""
            order = Order(service, dialect, record.caller, policy, engine, model, request, plain, chat, native)
            if call.span is not None:
                call.span.aligning()
            record.alignment = await align(order)
            if request.stream and config.server.heartbeat_s:
                heartbeat(call, config.server.heartbeat_s)
            await _aligned(call, record, order)


def _check(service: Service, dialect: Dialect, engine: LiveEngine, request: wire.Request) -> None:
    """Raises BadRequest for what the engine cannot do."""
    if engine.base and "chat" in dialect.renders:
        engine.refuse_chat(service.config)
    if engine.lacks:
        complete = engine.supports >= PARTS or "chat" not in dialect.renders
        chat = None if complete else dialect.chat(request, service.config.server)
        engine.refuse(request if complete else dialect.as_chat(request), chat, dialect.path)


async def _aligned(call: Call, record: Record, order: Order) -> None:
    """Send the request under its policy, and pass the answer on, or translate it.

    What an engine refuses for our part of it is sent again in the form that the refusal asks for, and without our part
    where none helps and the policy lets it go: a request that works raw does not fail because of us.
    """
    policy = order.policy
    aligned = record.alignment
    used = forms.known(order.engine, order.model) if order.engine.forms else frozenset()
    if used:
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
    config, answer = order.service.config, record.answer
    record.annotation = annotation = annotate(config, record, policy, order.plain, order.chat)
    editor = None if annotation is None else order.dialect.editor(annotation)
    with upstream:
        if order.native and refusal is None:
            return await pass_on(
                config, call, answer, engine, upstream, order.dialect, whole=True, counts=sent.counts, editor=editor
            )
        if upstream.status != 200:
            body = await read(engine, upstream) if refusal is None else refusal
            return hand_over(call, record.answer, upstream, body, order.dialect, native=order.native)
        prompt = record.alignment.prompt
        assert prompt is not None
        assert record.selection is not None
        it = translation(order, prompt, record.ident, record.selection.model)
        await translate(call, answer, engine, prompt, upstream, it, stream=order.request.stream, editor=editor)


async def _ask(call: Call, order: Order, record: Record) -> Delivery:
    prompt = record.alignment.prompt
    assert prompt is not None

    def write(engine: LiveEngine, model: str) -> Outgoing:
        if engine is not order.engine:
            engine.refuse(order.plain, order.chat, order.dialect.path)
            if not order.on(engine, model).native:
                order.dialect.refuse_untranslatable(order.request)
        return outgoing(order.on(engine, model), prompt)

    engines = candidates(order.service, order.policy) if order.policy.fallback else (order.engine,)
    return await deliver(order.service, call, record, engines, order.model, write)


async def run(service: Service, call: Call, line: Line) -> None:
    """Travel a line, turn what goes wrong into an answer, and record the outcome whatever it is."""
    given = sound_id(call.header(b"x-request-id")) if call.has(b"x-request-id") else ""
    record = Record(call.path, request_id=given)
    call.extra = record.lines
    observed = service.tracing is not None or service.config.server.log == "json"
    if observed:
        begin(service, call, record)
    unanswered = 500  # the status to count where no answer has begun; what is left after the cases below is a bug
    try:
        await line(service, call, record)
    except ClientGone:
        unanswered, record.error = _LEFT, "client left"
    except ApiError as error:
        record.error = error.brief or error.message
        call.fail(spoken(error, call, record.chat, record.spoken))
    except StageFailed as failed:
        record.alignment = replace(record.alignment, outcomes=(failed.outcome,))
        record.error = str(failed)
        policy = record.selection.policy if record.selection else None
        call.fail(spoken(stage_failed(failed, policy), call, record.chat, record.spoken))
    except asyncio.CancelledError:
        unanswered, record.error = 503, "server stopped"
        call.fail(Unavailable("the server is shutting down", code="shutting_down"))
        raise
    finally:
        status = call.status or unanswered
        if call.turn is not None:
            call.end_turn()
        if record.admission is not None:
            # Whoever leaves before the answer has had the engine work, as far as anybody knows.
            left = status == _LEFT and record.selection is not None
            record.admission.leave(record.answer.usage, served=status < 400 or left)
        account(record, status, service.traces)
        if service.recorder is not None and record.trail is not None:
            service.recorder.close(record, record.trail, status)
        if observed or service.config.server.access_log:
            finish(service, call, record, status)
