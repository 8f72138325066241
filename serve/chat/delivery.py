"""A request on its way to an engine: the policy's own, or one of its fallbacks where that one does not serve it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from msgspec.structs import replace

from prompt_opt.core import Policy
from serve.chat.beside import beside
from serve.chat.record import Record
from serve.chat.reply import pass_on, read
from serve.chat.service import Service, send
from serve.dialects import openai_chat, openai_completions
from serve.dialects.dialect import Dialect
from serve.dialects.surrogates import restore
from serve.dialects.usage import REFUSAL, asking
from serve.dialects.wire import Request
from serve.engine.budget import UNSERVED
from serve.engine.live import LiveEngine
from serve.engine.upstream import Upstream
from serve.errors import ApiError, BadRequest
from serve.http.body import LARGE
from serve.http.call import Call

log = logging.getLogger("trimtab.delivery")
_COUNTED = (openai_chat.path, openai_completions.path)  # whose streams tell their usage where they are asked to


class Outgoing(msgspec.Struct, frozen=True):
    """What goes to an engine."""

    path: str
    body: bytes
    prefix: str = ""  # names the constant part of the prompt; "" where there is none
    counts: bool = False  # the usage of its stream was asked for by us, so it is not for the client


class Delivery(msgspec.Struct, frozen=True):
    """Who answers, and the answer as far as it has come."""

    engine: LiveEngine
    model: str
    upstream: Upstream
    counts: bool  # as of Outgoing


Write = Callable[[LiveEngine, str], Outgoing]  # the request for an engine, under its name for the model


def candidates(service: Service, policy: Policy) -> list[LiveEngine]:
    """The policy's engine, then its fallbacks."""
    engines = [service.engines[policy.engine]]
    if policy.fallback:
        engines += [service.engines[name] for name in policy.fallback]
    return engines


def counting(engine: LiveEngine, request: Request, out: Outgoing) -> Outgoing:
    """The same with the usage of its stream asked for, where the engine knows that and the client did not ask."""
    if not request.stream or not engine.counts or out.path not in _COUNTED:
        return out
    body = asking(request, out.body)
    return out if body is None else Outgoing(out.path, body, out.prefix, counts=True)


def deliver(
    service: Service, call: Call, record: Record, engines: Sequence[LiveEngine], model: str, write: Write
) -> Awaitable[Delivery]:
    """Send to the first of the engines; to the next where that one has not served the request.

    The record says which one did, if it was not the first. A client's own credentials go to the first one only.

    Raises:
        ApiError: no engine answered.
    """
    if service.recorder is not None:
        service.recorder.require()
    if len(engines) == 1:
        engine = engines[0]
        engine.require_ready()
        return _deliver(service, call, record, engine, engine.name_for(model), write, own=True)
    return _first(service, call, record, engines, model, write)


async def _first(
    service: Service, call: Call, record: Record, engines: Sequence[LiveEngine], model: str, write: Write
) -> Delivery:
    first, *others = engines
    for engine in engines:
        last = engine is engines[-1]
        try:
            if not last:
                engine.require_rested()
            engine.require_ready()
            name = engine.name_for(model) if engine is first else engine.stand_in(model)
            delivery = await _deliver(service, call, record, engine, name, write, own=engine is first)
            if last or delivery.upstream.status not in UNSERVED:
                if engine is not first:
                    record.fall_back(engine.spec.name)
                return delivery
            engine.rest(delivery.upstream)
            delivery.upstream.abort()
            why = f"it answered {delivery.upstream.status}"
        except ApiError as error:
            if last or not (error.unserved or (isinstance(error, BadRequest) and engine is not first)):
                raise
            why = error.brief or error.message
        record.note(f"engine {engine.spec.name}: {why}")
        log.warning("engine %s: %s; falling back", engine.spec.name, why)
    raise AssertionError(f"the last of {len(others) + 1} engines neither answers nor fails")


async def _deliver(
    service: Service, call: Call, record: Record, engine: LiveEngine, model: str, write: Write, *, own: bool
) -> Delivery:
    """Send to one engine; once more without asking for the usage, where that may be what it refuses."""
    # A call that has a turn has a large body.
    out = _written(write, engine, model) if call.turn is None else await beside(LARGE, _written, write, engine, model)
    if service.recorder is not None:
        wait = service.recorder.open(call, record, engine.spec.name, model, out.body)
        if wait is not None:
            await wait
    upstream = await send(service, call, engine, out.path, out.body, out.prefix, own=own, model=model)
    if out.counts and upstream.status in (400, 422):
        with upstream:
            refusal = await read(engine, upstream)
        if engine.counted and not REFUSAL.search(refusal):
            upstream.put_back(refusal)
        else:
            engine.counts = False
            out = _written(write, engine, model)
            upstream = await send(service, call, engine, out.path, out.body, out.prefix, own=own, model=model)
            engine.counts = upstream.status in (400, 422) and not REFUSAL.search(refusal)  # it was something else
            if not engine.counts:
                log.info("engine %s does not tell the usage of streams", engine.spec.name)
    return Delivery(engine, model, upstream, out.counts)


def _written(write: Write, engine: LiveEngine, model: str) -> Outgoing:
    """The request for the engine, with the unpaired surrogates that the client wrote."""
    out = write(engine, model)
    body = restore(out.body)
    return out if body is out.body else replace(out, body=body)


async def pass_through(
    call: Call, record: Record, service: Service, sent: Delivery, dialect: Dialect, *, whole: bool = True
) -> None:
    """Pass on the answer of an engine that speaks the client's dialect."""
    with sent.upstream as upstream:
        await pass_on(
            service.config, call, record.answer, sent.engine, upstream, dialect, whole=whole, counts=sent.counts
        )


def unchanged(dialect: Dialect, engine: LiveEngine, request: Request, model: str, own: str) -> bytes:
    """The client's body for the engine: only the model's name and the cache's salt may change."""
    if engine.adapts and engine.must_adapt(request.fields):
        fields = {**request.fields, "model": model} if model else dict(request.fields)
        return msgspec.json.encode(engine.adapt(fields))
    return dialect.native(request, None, model, own)
