"""A request's body, bounded: what its headers say before a byte of it is taken, and the reading off an ASGI request."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from serve.errors import BadRequest, TooLarge, TooSlow, UnsupportedMedia
from serve.http.coding import CODINGS, Oversized, Spoilt, coding, expand

if TYPE_CHECKING:
    from starlette.requests import Request

Headers = Iterable[tuple[bytes, bytes]]
BOM = b"\xef\xbb\xbf"
BODY_S = 60.0  # a client that sends nothing of its body for so long holds a connection for nothing


def header(headers: Headers, name: bytes) -> str | None:
    """The first header of that (lower-case) name."""
    for key, value in headers:
        if key == name:
            return value.decode("latin-1")
    return None


def media(headers: Headers) -> str:
    """The body's media type without its parameters; "" where the client names none."""
    return (header(headers, b"content-type") or "").partition(";")[0].strip().lower()


def check(headers: Headers, limit: int, *, json: bool) -> str:
    """Refuse a body by its headers. Returns its content coding, "" for none.

    Raises:
        UnsupportedMedia: it has a coding that we do not know, or is not declared as JSON where it has to be (any web
            page may have a browser send a body without a type). TooLarge: it is longer than `limit` bytes.
    """
    named, coded = not json, ""
    for name, value in headers:
        if name == b"content-type" and json:
            named = True
            if value != b"application/json" and (kind := media(headers)) != "application/json":
                raise UnsupportedMedia(f"content-type must be application/json, not {kind}", code="content_type")
        elif name == b"content-encoding":
            coded = coding(value.decode("latin-1"))
            if coded and coded not in CODINGS:
                raise unknown_coding(coded)
        elif name == b"content-length" and value.isdigit() and int(value) > limit:
            raise too_large(limit)
    if not named:
        raise UnsupportedMedia("content-type must be application/json; the request has none", code="content_type")
    return coded


def unknown_coding(name: str) -> UnsupportedMedia:
    """The error for a Content-Encoding that is not read."""
    error = UnsupportedMedia(
        f"content-encoding {name!r} is not supported; valid are gzip, deflate, zstd and identity",
        code="content_encoding",
    )
    error.headers = ((b"accept-encoding", b"gzip, deflate, zstd"),)
    return error


async def expanded(coded: str, body: bytes, limit: int) -> bytes:
    """A body without its content coding.

    Raises:
        TooLarge: it is longer than `limit` bytes without it. BadRequest: it is damaged.
    """
    try:
        return await asyncio.to_thread(expand, coded, body, limit)
    except Oversized:
        raise too_large(limit) from None
    except Spoilt as error:
        raise BadRequest(f"the body is not {coded}: {error}", code="content_encoding") from None


def too_large(limit: int) -> TooLarge:
    """The error for a body of more than `limit` bytes."""
    return TooLarge(f"the body is larger than {limit} bytes", code="body_too_large")


def too_slow() -> TooSlow:
    """The error for a body that stopped coming."""
    return TooSlow(f"nothing of the body came for {BODY_S:g} s", code="body_timeout")


async def read_json(request: Request, limit: int) -> bytes:
    """The whole body of a control call, which must be declared as JSON.

    Raises:
        UnsupportedMedia, TooLarge: as `check`. TooSlow: it does not come. ClientDisconnect: it stops half-way.
    """
    coded = check(request.headers.raw, limit, json=True)
    parts: list[bytes] = []
    size, pieces = 0, aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(BODY_S):
                part = await anext(pieces, None)
        except TimeoutError:
            raise too_slow() from None
        if part is None:
            body = b"".join(parts)
            return (await expanded(coded, body, limit) if coded else body).removeprefix(BOM)
        size += len(part)
        if size > limit:
            raise too_large(limit)
        parts.append(part)
