"""What a request waits for before work is done on it: its limits, and, with a large body, its turn."""

from __future__ import annotations

from collections.abc import Awaitable

from serve.chat.record import Record
from serve.chat.service import Service
from serve.http.call import Call
from serve.limits.limiter import Admission, Limiter


def admit(service: Service, call: Call, record: Record) -> Awaitable[None] | None:
    """Let a request whose caller is known in, before its body is read; its admission has to `leave` in any case.

    What it returns is to be awaited, if that is not None.

    Raises:
        TooMany: a limit is reached. Unavailable: the limits cannot be looked up.
    """
    if service.limiter is None:
        return None
    caller, length = record.caller, call.length if call.more_body else len(call.body)
    admission = service.limiter.at_once(caller.name, caller.tenant, length)
    if admission is None or length is None:
        return _enter(service.limiter, call, record, length, admission)
    _let_in(call, record, admission)
    return None


async def _enter(limiter: Limiter, call: Call, record: Record, length: int | None, admission: Admission | None) -> None:
    admission = admission or await limiter.enter(record.caller.name, record.caller.tenant, length)
    if admission is not None:
        _let_in(call, record, admission)


def _let_in(call: Call, record: Record, admission: Admission) -> None:
    record.admission, record.answer.meter, call.limited = admission, admission.count, True
    call.grown = admission.grow


async def take_turn(service: Service, call: Call, record: Record, size: int) -> None:
    """Wait until a large body of `size` bytes may be worked on; the turn ends when an engine gets it. A body that has a
    turn already keeps no more than so many of its bytes.

    Raises:
        Unavailable: too many large bodies wait. ClientGone: nobody waits for the answer any more.
    """
    turn = call.turn or service.turns.turn(record.caller.name)
    with call:  # that is, while the client stays
        await turn.take(size)
    call.turn = turn
