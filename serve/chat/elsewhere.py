"""The line of requests that are no dialect's: chosen as any other, then passed on as they are, or refused."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from functools import partial

from prompt_opt.core import Outcome
from serve.chat.admission import admit, take_turn
from serve.chat.beside import beside
from serve.chat.choose import choose, named, not_applicable
from serve.chat.delivery import Outgoing, counting, deliver, pass_through, unchanged
from serve.chat.keys import ANYBODY, known
from serve.chat.lines import Line
from serve.chat.person import named_person
from serve.chat.record import Alignment, Record, Selection
from serve.chat.salt import PATHS, salt
from serve.chat.service import Service
from serve.chat.settle import carriers
from serve.config import RAW
from serve.dialects import multipart, openai, openai_chat, wire
from serve.dialects.dialect import Dialect
from serve.engine.live import LiveEngine
from serve.http.body import LARGE
from serve.http.call import Call

# Paths whose bodies may be forms; every other body is JSON.
_FORMS = ("/v1/audio/transcriptions", "/v1/audio/translations", "/v1/images/edits", "/v1/images/variations")
# Paths on which nothing is generated, so that there is nothing to align.
_SILENT = ("/v1/embeddings", "/v1/moderations", "/v1/rerank", "/v1/score")


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
    if (question := admit(service, call, record)) is not None:
        await question
    room = partial(take_turn, service, call, record)
    body = await call.read(int(config.server.max_body_mb * 2**20), json=not form, room=room)
    if len(body) >= LARGE:
        await take_turn(service, call, record, len(body))
    read: multipart.Form | wire.Request
    if form:
        read = await beside(len(body), multipart.parse, body, call.header(b"content-type") or "")
    else:
        read = await beside(len(body), wire.parse, body, config.server)
    if service.recorder is not None and isinstance(read, wire.Request):
        record.person = named_person(read.fields)
    policy, model = choose(config, caller, read.model, named(call.headers), read.options)
    engine = service.engines[policy.engine]
    record.selection = Selection(policy, engine.spec.name, read.model, read.stream)
    if policy.stages or policy.render == "base":
        if call.path in _SILENT:
            caller.require(RAW)
        elif policy.elsewhere != "raw":
            raise not_applicable(policy, call.path, carriers(policy, dialects))
        why = "not a chat" if call.path in _SILENT else "elsewhere"
        record.alignment = Alignment(tuple(Outcome(name, "skipped", why) for name in policy.stages))
    record.labelled = config.marking.header and call.path not in _SILENT
    engine.require_ready()
    if isinstance(read, wire.Request):
        engine.refuse_guarded(read, salted=policy.cache_salt == "tenant")
        engine.refuse(read, None, call.path, translates=False)

    def write(engine: LiveEngine, model: str) -> Outgoing:
        if not isinstance(read, wire.Request):
            return Outgoing(call.path, read.with_model(model))
        own = salt(config, policy, engine, caller.tenant) if call.path in PATHS else ""
        return counting(engine, read, Outgoing(call.path, unchanged(openai_chat, engine, read, model, own)))

    with call:  # that is, while the client stays
        sent = await deliver(service, call, record, [engine], model, write)
        await pass_through(call, record, service, sent, openai_chat, whole=False)
