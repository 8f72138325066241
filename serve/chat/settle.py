"""What is settled of a request before anything is done to it: who asks, its policy, its engine, whether it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import msgspec
from msgspec.structs import replace

from prompt_opt.core import Policy
from serve.chat.admission import admit, take_turn
from serve.chat.beside import beside
from serve.chat.choose import choose, named, not_applicable
from serve.chat.delivery import candidates
from serve.chat.keys import ANYBODY, known
from serve.chat.person import named_person
from serve.chat.record import Record, Selection
from serve.chat.service import Service, probe
from serve.chat.stored import refuse_others
from serve.config import Server
from serve.dialects import openai_responses
from serve.dialects.dialect import Dialect
from serve.dialects.wire import Raw, Request
from serve.engine.features import APIS
from serve.engine.fields import GUARDED
from serve.engine.live import LiveEngine
from serve.errors import BadRequest
from serve.http.body import LARGE
from serve.http.call import Call

_CHOSEN = "chosen"  # under which it is remembered with a request's head


class Settled(msgspec.Struct, frozen=True):
    """A request, and what it gets."""

    request: Request
    policy: Policy
    engine: LiveEngine
    model: str  # for the engine; "" for its own
    held: bool  # the policy has something to do here


class _Chosen(msgspec.Struct, frozen=True):
    """What was chosen for a request without options: the same for all with its head, its model and its `stream`."""

    service: Service
    model: str
    selection: Selection
    engine: LiveEngine
    sent: str  # the model's name for the engine

    def fits(self, service: Service, request: Request) -> bool:
        """Whether the same would be chosen for this one."""
        same = self.service is service and self.model == request.model
        return same and self.selection.stream == request.stream


async def settle(
    service: Service, call: Call, record: Record, dialect: Dialect, dialects: Sequence[Dialect]
) -> Settled:
    """Read a request of this dialect, which is one of `dialects`, and settle its policy and engine.

    Raises:
        ApiError: the caller is unknown or may not do this, a limit is reached, the body is malformed, or the policy
            cannot be applied here.
    """
    config = service.config
    record.caller = caller = known(config.keys, dialect.key(call.headers)) if config.keys else ANYBODY
    if service.limiter is not None and (question := admit(service, call, record)) is not None:
        await question
    body = await call.read(int(config.server.max_body_mb * 2**20), room=partial(take_turn, service, call, record))
    if len(body) < LARGE:
        request = dialect.parse(body, config.server)
    else:
        await take_turn(service, call, record, len(body))
        request = await beside(len(body), dialect.parse, body, config.server)
    if service.recorder is not None:
        record.person = named_person(request.fields)
    chosen = call.memo.get(_CHOSEN)
    if request.options or chosen is None or not chosen.fits(service, request):
        header = named(call.headers) if call.has(b"x-trimtab-policy") else None
        policy, model = choose(config, caller, request.model, header, request.options)
        engine = service.engines[policy.engine]
        selection = Selection(policy, engine.spec.name, request.model or engine.spec.public_name, request.stream)
        chosen = _Chosen(service, request.model, selection, engine, model)
        if not request.options:
            call.memo[_CHOSEN] = chosen
    record.selection, engine, model = chosen.selection, chosen.engine, chosen.sent
    policy = record.selection.policy
    explain = bool(request.options) and bool(request.options.get("explain"))
    record.answer.keep = config.server.trace_content or (explain and caller.may("explain"))
    if record.answer.keep:
        asked = await beside(len(body), _asked, dialect, request, config.server)
        record.selection = replace(record.selection, content=True, asked=asked)
    if explain:
        caller.require("explain")
    if not policy.fallback:
        engine.require_ready()
        if engine.launched:
            engine.name_for(model)
    if not GUARDED.keys().isdisjoint(request.fields):
        for each in candidates(service, policy):
            each.refuse_guarded(request, salted=policy.cache_salt == "tenant")
    if config.keys and dialect.path == openai_responses.path:
        await beside(len(body), refuse_others, config, candidates(service, policy), request)
    held = bool(policy.stages or policy.render != "chat") and _holds(policy, dialect, dialects)
    return Settled(request, policy, engine, model, held)


async def probed(service: Service, call: Call, policy: Policy, dialect: Dialect) -> None:
    """Probe those of the policy's engines that may or may not have this dialect's path."""
    if policy.render != "chat" or dialect.path not in APIS:
        return
    for engine in candidates(service, policy):
        if engine.must_probe(dialect.path):
            await probe(service, call, engine, dialect.path, own=engine.spec.name == policy.engine)


def _holds(policy: Policy, dialect: Dialect, dialects: Sequence[Dialect]) -> bool:
    """Whether a policy that does something does it here; False where it is elsewhere, and says `elsewhere = "raw"`.

    Raises:
        BadRequest: requests of this dialect cannot carry it.
    """
    if policy.render in dialect.renders:
        return True
    if policy.elsewhere != "raw":
        raise not_applicable(policy, dialect.path, carriers(policy, dialects))
    return False


def carriers(policy: Policy, dialects: Sequence[Dialect]) -> list[str]:
    """The paths whose requests can carry the policy."""
    return [dialect.path for dialect in dialects if policy.render in dialect.renders]


def _asked(dialect: Dialect, request: Request, limits: Server) -> Mapping[str, Raw]:
    """The request's fields under a chat completion's names, as traces keep them.

    They are the client's own where the request has no such form: a trace must not fail what works raw.
    """
    try:
        plain = dialect.as_chat(request)
        if plain is request:
            return request.fields
        rows = dialect.messages(dialect.chat(request, limits).messages)
    except BadRequest:
        return request.fields
    return {**plain.fields, "messages": Raw(b"[" + b",".join([row.json() for row in rows]) + b"]")}
