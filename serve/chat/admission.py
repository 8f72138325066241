"""Before a request's body is read: its limits are asked, and a large body waits for its turn."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from serve.chat.record import Record
from serve.chat.service import Service
from serve.http.call import Call
from serve.limits.turns import LARGE


async def admit(service: Service, call: Call, record: Record) -> None:
    """Let a request whose caller is known in; `leave` is owed for it in any case.

    Raises:
        TooMany: a limit is reached. Unavailable: too many large bodies at once. ClientGone: nobody waits any more.
    """
    caller, length = record.caller, call.length
    if service.limiter is not None:
        record.admission = admission = await service.limiter.enter(caller.name, caller.tenant, length)
        if admission is not None:
            call.limited, record.answer.meter = True, admission.count
    if length is None:
        call.grown = _grown(service, call, record)
    elif length >= LARGE:
        await _turn(service, call, record, length)


async def _turn(service: Service, call: Call, record: Record, size: int) -> None:
    with call:  # that is, while the client stays
        await service.turns.take(record.caller.name, size)
    record.turn = partial(service.turns.give, record.caller.name, size)


def _grown(service: Service, call: Call, record: Record) -> Callable[[int], Awaitable[None]]:
    """For a body that does not say its length."""
    most = int(service.config.server.max_body_mb * 2**20)

    async def grown(size: int) -> None:
        if record.admission is not None:
            record.admission.grow(size)
        if size >= LARGE and record.turn is None:
            await _turn(service, call, record, most)

    return grown


def leave(record: Record, *, served: bool) -> None:
    """The request has ended: give back what it held, and charge what it used."""
    if record.turn is not None:
        record.turn()
    if record.admission is not None:
        record.admission.leave(record.answer.usage, served=served)
