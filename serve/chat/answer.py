"""The line that a chat travels, from its body to the last byte of its answer.

body → wire.parse → choose → pipeline.advise → layout → relay → (translate) → client
                                                                  └→ trace, metrics
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable

import msgspec

from prompt_opt.core import Advice, Chat, Context, Outcome, Policy, Prompt
from prompt_opt.layout.order import NoPlace
from prompt_opt.pipeline import StageFailed, advise, bare, fit
from serve.chat.choose import choose
from serve.chat.keys import Caller, identify
from serve.chat.record import Record, account
from serve.chat.reply import CHAT, TEXT, hand_over, pass_on, read, translate
from serve.chat.salt import PATHS, notes, of_tenant, on_behalf, salt
from serve.chat.service import Service, send
from serve.config import RAW
from serve.dialects import completion, wire
from serve.engine.live import PARTS, LiveEngine
from serve.engine.upstream import Upstream
from serve.errors import ApiError, BadRequest, Unavailable, UpstreamFailed
from serve.http.call import Call, ClientGone

_LONG = 65536  # a prompt of so many characters is counted off the event loop
_LEAST_ANSWER = 256  # tokens that an answer gets, rather than examples, where the client names no limit
# What engines say of a prompt that is longer than their context (OpenAI, vLLM, SGLang, llama.cpp, TGI, gateways).
_TOO_LONG = re.compile(
    rb"context_length_exceeded|exceed_context_size|context (?:length|size|window)|max(?:imum)?[_ ]model[_ ]len"
    rb"|too many tokens|prompt is too long|max_total_tokens",
    re.IGNORECASE,
)
# Paths whose bodies may be forms; every other body is JSON.
_FORMS = ("/v1/audio/transcriptions", "/v1/audio/translations", "/v1/images/edits", "/v1/images/variations")


async def chat_completions(service: Service, call: Call, record: Record) -> None:
    """POST /v1/chat/completions."""
    config = service.config
    caller = identify(config.keys, call.header(b"authorization"))
    record.tenant, record.key = caller.tenant, caller.name
    body = await call.read(int(config.server.max_body_mb * 2**20))
    request = wire.parse(body, config.server)
    policy, model = choose(config, caller, request.model, call.header(b"x-trimtab-policy"), request.options)
    engine = service.engines[policy.engine]
    record.policy, record.engine, record.stream = policy, engine.spec.name, request.stream
    record.model = request.model or engine.spec.public_name
    if request.options.get("explain"):
        caller.require("explain")
    record.content = config.server.trace_content or bool(request.options.get("explain"))
    if record.content:
        record.asked = request.fields
    engine.require_ready()
    model = engine.name_for(model)
    with call:  # that is, while the client stays
        if not policy.stages and policy.render == "chat":
            engine.refuse_chat(config)
            engine.refuse(request, None if engine.supports >= PARTS else wire.chat(request, config.server))
            record.notes += notes(policy, engine, "cache_salt" in request.fields)
            own = salt(config, policy, engine, caller.tenant)
            upstream = await send(service, call, engine, CHAT, _raw_body(engine, request, model, own))
            call.extra = record.headers()
            with upstream:
                await pass_on(config, call, record, engine, upstream)
        else:
            await _aligned(service, call, record, caller, engine, request, model)


async def relayed(service: Service, call: Call, record: Record) -> None:
    """Any other path of the allow-list: checked, then passed on as it is. Needs the right `raw`."""
    config = service.config
    caller = identify(config.keys, call.header(b"authorization"))
    record.tenant, record.key = caller.tenant, caller.name
    caller.require(RAW)
    limit = int(config.server.max_body_mb * 2**20)
    form = call.path in _FORMS and call.media != "application/json"
    body = await call.read(limit, json=not form)
    policy = config.policies[RAW]
    engine = service.engines[policy.engine]
    if not form:
        request = wire.parse(body, config.server)
        if (alias := config.aliases.get(request.model)) is not None:
            engine = service.engines[config.policies[alias.policy].engine]
        engine.refuse(request, None)
        own = salt(config, policy, engine, caller.tenant) if call.path in PATHS else ""
        body = _raw_body(engine, request, engine.name_for(alias.model if alias else request.model), own)
        record.model, record.stream = request.model, request.stream
        asked = request.options.get("policy") or call.header(b"x-trimtab-policy")
        if asked and asked != RAW:
            # Nothing here is a chat; saying so beats doing nothing in silence.
            chosen, _ = choose(config, caller, request.model, call.header(b"x-trimtab-policy"), request.options)
            record.outcomes = tuple(Outcome(name, "skipped", "not a chat") for name in chosen.stages)
    record.policy, record.engine = policy, engine.spec.name
    engine.require_ready()
    with call:  # that is, while the client stays
        upstream = await send(service, call, engine, call.path, body)
        call.extra = record.headers()
        with upstream:
            await pass_on(config, call, record, engine, upstream)


Line = Callable[[Service, Call, Record], Awaitable[None]]


async def run(service: Service, call: Call, line: Line) -> None:
    """Travel a line, turn what goes wrong into an answer, and record the outcome whatever it is."""
    record = Record(call.path)
    unanswered = 500  # the status to count where no answer has begun; what is left after the cases below is a bug
    try:
        await line(service, call, record)
    except ClientGone:
        unanswered, record.error = 499, "client left"  # nginx's number for it
    except ApiError as error:
        record.error = error.brief or error.message
        call.extra = record.headers()
        call.fail(error)
    except StageFailed as failed:
        record.outcomes = (failed.outcome,)
        record.error = str(failed)
        call.extra = record.headers()
        call.fail(UpstreamFailed(f'{failed} (the policy\'s on_error is "fail")', code="stage_failed"))
    except asyncio.CancelledError:
        unanswered, record.error = 503, "server stopped"
        call.fail(Unavailable("the server is shutting down", code="shutting_down"))
        raise
    finally:
        account(record, call.status or unanswered, service.traces)


def _raw_body(engine: LiveEngine, request: wire.Request, model: str, own: str) -> bytes:
    if engine.must_adapt(request.fields):
        fields = {**request.fields, "model": model} if model else dict(request.fields)
        return msgspec.json.encode(engine.adapt(fields))
    return wire.raw_body(request, model, own)


# ---------------------------------------------------------------- an aligned chat


async def _aligned(
    service: Service, call: Call, record: Record, caller: Caller, engine: LiveEngine, request: wire.Request, model: str
) -> None:
    config, policy = service.config, record.policy
    assert policy is not None
    chat = wire.chat(request, config.server)
    if policy.render == "chat":
        engine.refuse_chat(config)
    engine.refuse(request, chat)
    if policy.render == "base":
        record.notes = completion.refuse_unplaced(request)
    record.notes += notes(policy, engine, "cache_salt" in request.fields)
    deadline = time.monotonic() + policy.budget_ms / 1000
    context = Context(policy, caller.tenant, caller.options(request.options), deadline, engine.count, key=caller.name)
    on_behalf.set(of_tenant(config, policy, caller.tenant))
    record.advice, record.outcomes = await advise(chat, context, service.stages[policy.name])
    try:
        record.prompt, record.outcomes = await laid_out(engine, request, chat, record.advice, record.outcomes, policy)
        upstream, refusal = await _ask(service, call, engine, request, record, model), None
        if upstream.status in (400, 413, 422) and record.advice != Advice():
            with upstream:
                refusal = await read(engine, upstream)
            if _TOO_LONG.search(refusal):
                # Longer than the engine takes, and we made it so: without our part it is what it was.
                record.prompt, record.outcomes = bare(chat, record.outcomes, policy, engine.specials)
                record.advice = Advice()
                upstream, refusal = await _ask(service, call, engine, request, record, model), None
    except NoPlace as error:
        raise BadRequest(str(error), code="no_place_in_base_render") from None
    call.extra = record.headers()
    if refusal is not None:
        return hand_over(call, record, upstream, refusal)
    with upstream:
        if policy.render == "chat":
            await pass_on(config, call, record, engine, upstream)
        else:
            await translate(call, record, engine, request, upstream)


async def laid_out(
    engine: LiveEngine,
    request: wire.Request,
    chat: Chat,
    advice: Advice,
    outcomes: tuple[Outcome, ...],
    policy: Policy,
) -> tuple[Prompt, tuple[Outcome, ...]]:
    """The prompt, within the engine's context where that is known."""
    base = policy.render == "base"
    least = (wire.max_tokens(request) or _LEAST_ANSWER) if base else wire.loose_max_tokens(request)
    room = None if engine.context is None else max(engine.context - least, 1)

    def count(prompt: Prompt) -> int:
        # A token is at least a byte, so a prompt of few bytes needs no counting.
        size = sum(len(span.text.encode()) for span in prompt.spans) + 16 * len(prompt.spans)
        return size if room is None or size <= room else engine.prompt_tokens(prompt)

    args = (chat, advice, outcomes, policy, room, count, engine.specials)
    if sum(len(m.text) for m in chat.messages) > _LONG:
        return await asyncio.to_thread(fit, *args)
    return fit(*args)


async def _ask(
    service: Service, call: Call, engine: LiveEngine, request: wire.Request, record: Record, model: str
) -> Upstream:
    """Send the prompt in the shape of its render."""
    prompt, policy = record.prompt, record.policy
    assert prompt is not None
    assert policy is not None
    record.notes += tuple(note for note in prompt.notes if note not in record.notes)
    own = salt(service.config, policy, engine, record.tenant)
    prefix = policy.digest + own if policy.stages else ""
    if prompt.messages is not None:
        body = wire.chat_body(request, prompt, model, own)
        if engine.must_adapt(request.fields):
            body = msgspec.json.encode(engine.adapt(msgspec.json.decode(body, type=dict[str, msgspec.Raw])))
        return await send(service, call, engine, CHAT, body, prefix)
    fields = completion.fields(
        request, prompt, policy, model, _answer_tokens(engine, request, policy, prompt), engine.spec.max_stop
    )
    adapted = engine.adapt(fields)
    lost = sorted(n for n in policy.profile.decoding if n not in adapted and "generation_config" not in adapted)
    note = f"decoding: {', '.join(lost)} not sent, the engine does not know it"
    if lost and note not in record.notes:
        record.notes += (note,)
    if engine.streams_always:
        adapted["stream"] = True
    if own:
        adapted["cache_salt"] = own
    if request.stream and engine.kind == "vllm":
        adapted["stream_options"] = {"include_usage": True}
    return await send(service, call, engine, TEXT, msgspec.json.encode(adapted), prefix)


def _answer_tokens(engine: LiveEngine, request: wire.Request, policy: Policy, prompt: Prompt) -> int:
    """`max_tokens`: the client's, or the profile's as far as the context goes. A base model always needs one."""
    asked = wire.max_tokens(request)
    if asked is not None:
        return asked
    default = int(policy.profile.decoding.get("max_tokens", 1024))
    if engine.context is None or len((prompt.text or "").encode()) + default <= engine.context:
        return default
    return max(1, min(default, engine.context - engine.prompt_tokens(prompt)))
