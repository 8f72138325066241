"""The line that a request travels, from its body to the last byte of its answer.

body → dialect.parse → choose → stages' advice → layout → engine → answer, in the client's dialect
                                                             └→ trace, metrics

This module owns the request's `Record`: the steps return what they learned, and it is noted here.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable

import msgspec

from prompt_opt.core import Advice, Outcome, Policy
from prompt_opt.pipeline import StageFailed
from serve.chat.align import Order, align, outgoing, translation, without
from serve.chat.choose import choose
from serve.chat.keys import ANYBODY, known
from serve.chat.record import Alignment, Record, Selection, account
from serve.chat.reply import hand_over, pass_on, read, translate
from serve.chat.salt import PATHS, notes, salt
from serve.chat.service import Service, send
from serve.config import RAW
from serve.dialects import openai, openai_chat, openai_completions, wire
from serve.dialects.dialect import Dialect
from serve.engine.live import PARTS, LiveEngine
from serve.engine.upstream import Upstream
from serve.errors import ApiError, Unavailable, UpstreamFailed
from serve.http.call import Call, ClientGone

# What engines say of a prompt that is longer than their context (OpenAI, vLLM, SGLang, llama.cpp, TGI, gateways).
_TOO_LONG = re.compile(
    rb"context_length_exceeded|exceed_context_size|context (?:length|size|window)|max(?:imum)?[_ ]model[_ ]len"
    rb"|too many tokens|prompt is too long|max_total_tokens",
    re.IGNORECASE,
)
_REFUSALS = (400, 413, 422)
# Paths whose bodies may be forms; every other body is JSON.
_FORMS = ("/v1/audio/transcriptions", "/v1/audio/translations", "/v1/images/edits", "/v1/images/variations")

Line = Callable[[Service, Call, Record], Awaitable[None]]


def speaking(dialect: Dialect) -> Line:
    """The line of a request for an answer, in this dialect."""

    async def line(service: Service, call: Call, record: Record) -> None:
        await _generate(service, call, record, dialect)

    return line


async def _generate(service: Service, call: Call, record: Record, dialect: Dialect) -> None:
    config = service.config
    record.caller = caller = known(config.keys, dialect.key(call.headers)) if config.keys else ANYBODY
    request = dialect.parse(await call.read(int(config.server.max_body_mb * 2**20)), config.server)
    policy, model = choose(config, caller, request.model, call.header(b"x-trimtab-policy"), request.options)
    engine = service.engines[policy.engine]
    explain = bool(request.options.get("explain"))
    record.selection = _selection(service, record, policy, engine, request, explain=explain)
    if explain:
        caller.require("explain")
    engine.require_ready()
    model = engine.name_for(model)
    with call:  # that is, while the client stays
        if not policy.stages and policy.render == "chat" and engine.speaks(dialect.path):
            engine.refuse_chat(config)
            plain = dialect.as_chat(request)
            engine.refuse(plain, None if engine.supports >= PARTS else dialect.chat(request, config.server))
            record.alignment = Alignment(notes=notes(policy, engine, "cache_salt" in request.fields))
            body = _unchanged(dialect, engine, request, model, salt(config, policy, engine, caller.tenant))
            with await send(service, call, engine, dialect.path, body) as upstream:
                await pass_on(config, call, record.answer, engine, upstream, dialect, whole=True)
        else:
            chat, plain = dialect.chat(request, config.server), dialect.as_chat(request)
            await _aligned(call, record, Order(service, dialect, caller, policy, engine, model, request, plain, chat))


def _selection(
    service: Service, record: Record, policy: Policy, engine: LiveEngine, request: wire.Request, *, explain: bool
) -> Selection:
    """What was settled; content is kept where the server or a caller who may says so."""
    keep = service.config.server.trace_content or (explain and record.caller.may("explain"))
    record.answer.keep = keep
    model = request.model or engine.spec.public_name
    if not keep:
        return Selection(policy, engine.spec.name, model, request.stream)
    return Selection(policy, engine.spec.name, model, request.stream, True, request.fields)


async def _aligned(call: Call, record: Record, order: Order) -> None:
    """Send the request under its policy, and pass the answer on, or translate it."""
    engine, config = order.engine, order.service.config
    record.alignment = await align(order)
    upstream, refusal = await _ask(call, order, record.alignment), None
    if upstream.status in _REFUSALS and record.alignment.advice != Advice():
        with upstream:
            refusal = await read(engine, upstream)
        if _TOO_LONG.search(refusal):
            # Longer than the engine takes, and we made it so: without our part it is what it was.
            record.alignment = without(order, record.alignment)
            upstream, refusal = await _ask(call, order, record.alignment), None
    with upstream:
        if order.native and refusal is None:
            return await pass_on(config, call, record.answer, engine, upstream, order.dialect, whole=True)
        if upstream.status != 200:
            body = await read(engine, upstream) if refusal is None else refusal
            return hand_over(call, record.answer, upstream, body, order.dialect, native=order.native)
        prompt = record.alignment.prompt
        assert prompt is not None
        assert record.selection is not None
        it = translation(order, prompt, record.ident, record.selection.model)
        await translate(call, record.answer, engine, prompt, upstream, it, stream=order.request.stream)


async def _ask(call: Call, order: Order, alignment: Alignment) -> Upstream:
    assert alignment.prompt is not None
    path, body, prefix = outgoing(order, alignment.prompt)
    return await send(order.service, call, order.engine, path, body, prefix)


async def relayed(service: Service, call: Call, record: Record) -> None:
    """Any other path of the allow-list: checked, then passed on as it is. Needs the right `raw`."""
    config = service.config
    record.caller = caller = known(config.keys, openai.bearer(call.headers)) if config.keys else ANYBODY
    caller.require(RAW)
    limit = int(config.server.max_body_mb * 2**20)
    form = call.path in _FORMS and call.media not in ("", "application/json")
    body = await call.read(limit, json=not form)
    policy = config.policies[RAW]
    engine = service.engines[policy.engine]
    record.selection = Selection(policy, engine.spec.name, "")
    if not form:
        request = wire.parse(body, config.server)
        if (alias := config.aliases.get(request.model)) is not None:
            engine = service.engines[config.policies[alias.policy].engine]
        engine.refuse(request, None)
        own = salt(config, policy, engine, caller.tenant) if call.path in PATHS else ""
        body = _unchanged(openai_chat, engine, request, engine.name_for(alias.model if alias else request.model), own)
        record.selection = Selection(policy, engine.spec.name, request.model, request.stream)
        asked = request.options.get("policy") or call.header(b"x-trimtab-policy")
        if asked and asked != RAW:
            # Nothing here is a chat; saying so beats doing nothing in silence.
            chosen, _ = choose(config, caller, request.model, call.header(b"x-trimtab-policy"), request.options)
            record.alignment = Alignment(tuple(Outcome(name, "skipped", "not a chat") for name in chosen.stages))
    engine.require_ready()
    whole = call.path == openai_completions.path
    with call, await send(service, call, engine, call.path, body) as upstream:  # while the client stays
        await pass_on(config, call, record.answer, engine, upstream, openai_chat, whole=whole)


def _unchanged(dialect: Dialect, engine: LiveEngine, request: wire.Request, model: str, own: str) -> bytes:
    """The client's body for the engine: only the model's name and the cache's salt may change."""
    if engine.must_adapt(request.fields):
        fields = {**request.fields, "model": model} if model else dict(request.fields)
        return msgspec.json.encode(engine.adapt(fields))
    return dialect.native(request, None, model, own)


async def run(service: Service, call: Call, line: Line) -> None:
    """Travel a line, turn what goes wrong into an answer, and record the outcome whatever it is."""
    record = Record(call.path)
    call.extra = record.headers
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
        call.fail(UpstreamFailed(f'{failed} (the policy\'s on_error is "fail")', code="stage_failed"))
    except asyncio.CancelledError:
        unanswered, record.error = 503, "server stopped"
        call.fail(Unavailable("the server is shutting down", code="shutting_down"))
        raise
    finally:
        account(record, call.status or unanswered, service.traces)
