"""What a request waits for before work is done on it: its limits, and, with a large body, its turn."""

from __future__ import annotations

from functools import partial

from serve.chat.record import Record
from serve.chat.service import Service
from serve.http.call import Call


async def admit(service: Service, call: Call, record: Record) -> None:
    """Let a request whose caller is known in, before its body is read; `leave` is owed for it in any case.

    Raises:
        TooMany: a limit is reached. Unavailable: the limits cannot be looked up.
    """
    if service.limiter is None:
        return
    caller, length = record.caller, call.length
    record.admission = admission = await service.limiter.enter(caller.name, caller.tenant, length)
    if admission is not None:
        call.limited, record.answer.meter = True, admission.count
        if length is None:
            call.grown = admission.grow


async def take_turn(service: Service, call: Call, record: Record, size: int) -> None:
    """Wait until a large body, which has been read, may be worked on; the turn ends when an engine gets it.

    Raises:
        Unavailable: too many large bodies wait. ClientGone: nobody waits for the answer any more.
    """
    with call:  # that is, while the client stays
        await service.turns.take(record.caller.name, size)
    call.turn = partial(service.turns.give, record.caller.name, size)


def leave(call: Call, record: Record, *, served: bool) -> None:
    """The request has ended: give back what it held, and charge what it used."""
    call.end_turn()
    if record.admission is not None:
        record.admission.leave(record.answer.usage, served=served)
