"""A request under a policy: ask its stages, lay out the prompt within the engine's context, write the body.

Nothing here is sent and nothing is recorded; `serve.chat.handle` does both.
"""

from __future__ import annotations

import asyncio
import time

import msgspec
from msgspec.structs import replace

from prompt_opt.core import Advice, Chat, Context, Outcome, Policy, Prompt
from prompt_opt.layout.order import NoPlace
from prompt_opt.pipeline import advise, bare, fit
from serve.chat.beside import beside
from serve.chat.choose import cannot_hold
from serve.chat.delivery import Outgoing, counting
from serve.chat.keys import Caller
from serve.chat.record import Alignment
from serve.chat.salt import natively, notes, of_tenant, on_behalf, salt
from serve.chat.service import Service
from serve.dialects import openai_chat, openai_completions
from serve.dialects.dialect import Dialect
from serve.dialects.openai_chat.conversation import chat_body, logprobs, loose_max_tokens, max_tokens, stops
from serve.dialects.openai_chat.events import ChatReader
from serve.dialects.openai_completions import prompting
from serve.dialects.openai_completions.pieces import TextReader
from serve.dialects.translation import Translation
from serve.dialects.wire import Request
from serve.engine.live import LiveEngine
from serve.errors import BadRequest

_LONG, _MANY = 65536, 2048  # a prompt of so many characters, or messages, is counted off the event loop
_LEAST_ANSWER = 256  # tokens that an answer gets, rather than examples, where the client names no limit


class Order(msgspec.Struct, frozen=True):
    """A request whose policy is settled. `plain` are its parameters under a chat completion's names."""

    service: Service
    dialect: Dialect
    caller: Caller
    policy: Policy
    engine: LiveEngine
    model: str  # to send; "" for none
    request: Request
    plain: Request
    chat: Chat
    native: bool  # as `goes_native` says of it; settled once, for another request's probe may change what is known

    def on(self, engine: LiveEngine, model: str) -> Order:
        """The order as it goes to an engine, which may stand in for the policy's own."""
        if engine is self.engine and model == self.model:
            return self
        native = goes_native(self.policy, engine, self.dialect)
        return replace(self, engine=engine, model=model, native=native)


def goes_native(policy: Policy, engine: LiveEngine, dialect: Dialect) -> bool:
    """Whether the engine gets the client's own body, edited, and its answer is passed on."""
    return policy.render == "chat" and natively(policy, engine, dialect.path)


async def align(order: Order) -> Alignment:
    """Ask the policy's stages and lay out the prompt.

    Raises:
        BadRequest: the engine cannot do what is asked for, or the render has no place for it.
        StageFailed: a stage failed and the policy says "fail".
    """
    policy, engine, request = order.policy, order.engine, order.plain
    if not order.native:
        await beside(len(order.request.body), order.dialect.refuse_untranslatable, order.request)
    if policy.render == "chat":
        if engine.base:
            engine.refuse_chat(order.service.config)
    elif len(order.chat.messages) > (most := order.service.config.server.max_messages):
        raise BadRequest(f"messages holds more than {most}", param="messages")
    if engine.lacks:
        engine.refuse(request, order.chat, order.dialect.path)
    said = prompting.refuse_unplaced(request) if policy.render == "base" else ()
    deadline = time.monotonic() + policy.budget_ms / 1000
    tenant = order.caller.tenant
    options = order.caller.options(request.options)
    context = Context(policy, tenant, options, deadline, engine.count, key=order.caller.name)
    if policy.cache_salt == "tenant":
        said += notes(policy, engine, "cache_salt" in request.fields)
        on_behalf.set(of_tenant(order.service.config, policy, tenant))
    advice, outcomes = await advise(order.chat, context, order.service.stages[policy.name])
    prompt, outcomes = await laid_out(engine, request, order.chat, advice, outcomes, policy)
    if (policy.on_error == "fail" and any(it.status == "skipped" and it.reason == "context" for it in outcomes)) or (
        advice.pinned and not any(span.origin == "pinned" for span in prompt.spans)
    ):
        raise cannot_hold(policy, "the engine's context has no room for its text", advice.pinned)
    return _noted(order, Alignment(outcomes, advice, prompt, said))


def holds(order: Order, alignment: Alignment) -> bool:
    """Whether the request must not be sent without the policy's text: it says so, or a rule is pinned."""
    return order.policy.on_error == "fail" or bool(alignment.advice.pinned)


def without(order: Order, alignment: Alignment, why: str, reason: str) -> Alignment:
    """The alignment without any advice, for an engine that refused the prompt: `why` in an error, `reason` in a trace.

    Raises:
        BadRequest: the policy must hold.
    """
    if holds(order, alignment):
        raise cannot_hold(order.policy, why, alignment.advice.pinned)
    prompt, outcomes = bare(order.chat, alignment.outcomes, order.policy, order.engine.specials, reason)
    return _noted(order, Alignment(outcomes, Advice(), prompt, alignment.notes))


def _noted(order: Order, alignment: Alignment) -> Alignment:
    """The same with notes on what safety changed in the prompt, and on what of the decoding the engine cannot take."""
    prompt, policy, engine = alignment.prompt, order.policy, order.engine
    assert prompt is not None
    more = prompt.notes
    if prompt.messages is None:
        lost = [name for name in engine.unknown(policy.profile.decoding) if name not in order.plain.fields]
        more += (f"decoding: {', '.join(lost)} not sent, the engine does not know it",) if lost else ()
    if not more:
        return alignment
    fresh = [note for note in more if note not in alignment.notes]
    return replace(alignment, notes=(*alignment.notes, *fresh))


async def laid_out(
    engine: LiveEngine,
    request: Request,
    chat: Chat,
    advice: Advice,
    outcomes: tuple[Outcome, ...],
    policy: Policy,
) -> tuple[Prompt, tuple[Outcome, ...]]:
    """The prompt, within the engine's context where that is known.

    Raises:
        BadRequest: the chat holds something that a base model's prompt has no place for.
    """
    base = policy.render == "base"
    least = (max_tokens(request) or _LEAST_ANSWER) if base else loose_max_tokens(request)
    room = None if engine.context is None else max(engine.context - least, 1)

    def count(prompt: Prompt) -> int:
        # A token is at least a byte, so a prompt of few bytes needs no counting.
        size = sum([len(span.text.encode()) for span in prompt.spans]) + 16 * len(prompt.spans)
        return size if room is None or size <= room else engine.prompt_tokens(prompt)

    args = (chat, advice, outcomes, policy, room, count, engine.specials)
    try:
        if len(chat.messages) > _MANY or sum([len(m.text) for m in chat.messages]) > _LONG:
            return await asyncio.to_thread(fit, *args)
        return fit(*args)
    except NoPlace as error:
        raise BadRequest(str(error), code="no_place_in_base_render") from None


def outgoing(order: Order, prompt: Prompt) -> Outgoing:
    """The prompt as a body for the engine, in the API that it speaks."""
    policy, engine, request = order.policy, order.engine, order.plain
    own = salt(order.service.config, policy, engine, order.caller.tenant) if policy.cache_salt == "tenant" else ""
    prefix = policy.digest + own if policy.stages else ""
    if prompt.messages is None:
        body = msgspec.json.encode(_text_fields(order, prompt, own))
        return Outgoing(openai_completions.path, body, prefix, counts=request.stream and engine.counts)
    if order.native:
        path, body = order.dialect.path, order.dialect.native(order.request, prompt, order.model, own)
    else:
        path = openai_chat.path
        body = chat_body(request, order.dialect.messages(prompt.messages), order.model, own)
    if engine.adapts and engine.must_adapt(request.fields):
        body = msgspec.json.encode(engine.adapt(msgspec.json.decode(body, type=dict[str, msgspec.Raw])))
    out = Outgoing(path, body, prefix)
    return counting(engine, request, out) if request.stream else out


def _text_fields(order: Order, prompt: Prompt, own: str) -> dict[str, object]:
    engine, request = order.engine, order.plain
    tokens = _answer_tokens(engine, request, order.policy, prompt)
    fields = prompting.fields(request, prompt, order.policy, order.model, tokens, engine.spec.max_stop)
    adapted = engine.adapt(fields)
    if engine.streams_always:
        adapted["stream"] = True
    if own:
        adapted["cache_salt"] = own
    adapted.pop("stream_options", None)
    if request.stream and engine.counts:
        adapted["stream_options"] = {"include_usage": True}
    return adapted


def translation(order: Order, prompt: Prompt, ident: str, model: str) -> Translation:
    """What turns the engine's answer into the client's dialect."""
    n = order.plain.value("n", 1) if "n" in order.plain.fields else 1
    reader: ChatReader | TextReader
    if prompt.messages is None:
        reader = TextReader(prompt, stops(order.plain), n, logprobs(order.plain))
    else:
        reader = ChatReader(n)
    return Translation(reader, order.dialect.writer(order.request, ident, model, int(time.time())))


def _answer_tokens(engine: LiveEngine, request: Request, policy: Policy, prompt: Prompt) -> int:
    """`max_tokens`: the client's, or the profile's as far as the context goes. A base model always needs one."""
    asked = max_tokens(request)
    if asked is not None:
        return asked
    default = int(policy.profile.decoding.get("max_tokens", 1024))
    if engine.context is None or len((prompt.text or "").encode()) + default <= engine.context:
        return default
    return max(1, min(default, engine.context - engine.prompt_tokens(prompt)))
