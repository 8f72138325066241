"""Counting the tokens of a request under its policy: by the engine if it can, else by Trimtab."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from serve.chat.align import Order, align, goes_native
from serve.chat.beside import beside
from serve.chat.delivery import Outgoing, deliver
from serve.chat.record import Record
from serve.chat.reply import hand_over, read
from serve.chat.salt import salt
from serve.chat.service import Service
from serve.chat.settle import probed, settle
from serve.dialects.dialect import Dialect
from serve.engine.live import LiveEngine
from serve.http.call import Call

_ABSENT = (404, 405, 501)  # the engine has the API, but does not count


def counts(
    dialect: Dialect, path: str, write: Callable[[int], bytes], dialects: Sequence[Dialect]
) -> Callable[[Service, Call, Record], Awaitable[None]]:
    """The line of a request that only asks for its number of tokens.

    Args:
        dialect: of the request, one of `dialects`.
        path: where engines with this API count.
        write: makes the answer from the number of tokens.
    """

    async def line(service: Service, call: Call, record: Record) -> None:
        settled = await settle(service, call, record, dialect, dialects)
        request, policy, engine, model = settled.request, settled.policy, settled.engine, settled.model
        with call:  # that is, while the client stays
            await probed(service, call, policy, dialect)
            size = len(request.body)
            chat = await beside(size, dialect.chat, request, service.config.server)
            plain = await beside(size, dialect.as_chat, request)
            native = goes_native(policy, engine, dialect)
            order = Order(service, dialect, record.caller, policy, engine, model, request, plain, chat, native)
            record.alignment = await align(order)
            if not (order.native and await _asked(order, call, record, path)):
                call.reply(200, write(await beside(size, _counted, order, record)))

    return line


async def _asked(order: Order, call: Call, record: Record, path: str) -> bool:
    """Pass on the engine's count; False if it has no such path."""
    prompt = record.alignment.prompt
    assert prompt is not None

    def write(engine: LiveEngine, model: str) -> Outgoing:
        own = salt(order.service.config, order.policy, engine, order.caller.tenant)
        return Outgoing(path, order.dialect.native(order.request, prompt, model, own))

    sent = await deliver(order.service, call, record, [order.engine], order.model, write)
    with sent.upstream as upstream:
        body = await read(sent.engine, upstream)
    if upstream.status in _ABSENT:
        return False
    hand_over(call, record.answer, upstream, body, order.dialect, native=True)
    return True


def _counted(order: Order, record: Record) -> int:
    prompt, tools = record.alignment.prompt, order.plain.fields.get("tools")
    assert prompt is not None
    return order.engine.prompt_tokens(prompt) + (order.engine.count(bytes(tools).decode()) if tools else 0)
