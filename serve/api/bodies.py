"""The JSON bodies of control calls."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from fastapi import Request

from serve.dialects.crowd import refuse_containers
from serve.errors import BadRequest
from serve.http.body import read_json

_INLINE = 2**16  # bytes of a body that are parsed on the event loop


async def json_object(request: Request, limit: int, most: int) -> dict[str, Any]:
    """A body of at most `limit` bytes and `most` objects and lists.

    Raises:
        BadRequest: it is no JSON object, or holds too many. UnsupportedMedia, TooLarge, TooSlow: as `read_json`.
    """
    raw = await read_json(request, limit)
    try:
        body = await asyncio.to_thread(decoded, raw, most) if len(raw) > _INLINE else decoded(raw, most)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
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
