"""The JSON bodies of control calls, and what these hold while they are answered."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from fastapi import Request

from serve.dialects.crowd import refuse_containers
from serve.dialects.wire import NOT_JSON
from serve.errors import BadRequest
from serve.http.body import BODY_S, BOM, LARGE, check, expanded, too_large, too_slow
from serve.limits.limiter import Admission
from serve.limits.turns import Turn

_INLINE = 2**16  # bytes of a body that are parsed on the event loop


class Held:
    """A control call's place within its caller's limits, and the turn of its body, should that be large."""

    def __init__(self, admission: Admission | None, turn: Turn) -> None:
        self._admission, self.room = admission, turn.take
        self._turn = turn

    def grow(self, size: int) -> None:
        """The body has `size` bytes by now. Raises TooMany where the caller may not hold as many."""
        if self._admission is not None:
            self._admission.grow(size)

    def end(self) -> None:
        """The call has been answered."""
        self._turn.end()
        if self._admission is not None:
            self._admission.leave(None, served=False)


async def read_json(request: Request, limit: int) -> bytes:
    """The whole body of a control call, which must be declared as JSON. A large one waits for its turn.

    Raises:
        UnsupportedMedia, TooLarge: as `check`. TooSlow: it does not come. ClientDisconnect: it stops half-way. TooMany:
        its caller may not hold as much at once. Unavailable: too many large bodies wait.
    """
    coded, held = check(request.headers.raw, limit, json=True), request.state.held
    counted = "content-length" in request.headers  # and held since before the body came
    parts: list[bytes] = []
    size, pieces = 0, aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(BODY_S):
                part = await anext(pieces, None)
        except TimeoutError:
            raise too_slow() from None
        if part is None:
            break
        size += len(part)
        if size > limit:
            raise too_large(limit)
        if not counted:
            held.grow(size)
        parts.append(part)
    body = b"".join(parts)
    if coded:
        body = await expanded(coded, body, limit, held.room)
        held.grow(len(body))
    if len(body) >= LARGE:
        await held.room(len(body))
    return body.removeprefix(BOM)


async def json_object(request: Request, limit: int, most: int) -> dict[str, Any]:
    """A body of at most `limit` bytes and `most` objects and lists.

    Raises:
        BadRequest: it is no JSON object, or holds too many. UnsupportedMedia, TooLarge, TooSlow: as `read_json`.
    """
    raw = await read_json(request, limit)
    try:
        body = await asyncio.to_thread(decoded, raw, most) if len(raw) > _INLINE else decoded(raw, most)
    except NOT_JSON as error:
        raise BadRequest(f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(body, dict):
        raise BadRequest("the body must be an object", code="invalid_json")
    return body


def decoded(raw: bytes, most: int) -> Any:
    """The body's value, once it is known to be no million of objects, which would hold the interpreter's lock.

    Raises:
        BadRequest: it holds more than `most` objects and lists. msgspec.MsgspecError, RecursionError,
        UnicodeDecodeError: it is not JSON.
    """
    refuse_containers(raw, most)
    return msgspec.json.decode(raw)
