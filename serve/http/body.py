"""A request's body, bounded: what its headers say before a byte of it is taken, and the errors of one that is not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from serve.errors import BadRequest, TooLarge, TooSlow, UnsupportedMedia
from serve.http.coding import CODINGS, Oversized, Spoilt, coding, expand, measure

Headers = Iterable[tuple[bytes, bytes]]
Room = Callable[[int], Awaitable[None]]  # waits until there is room for a body of so many bytes
BOM = b"\xef\xbb\xbf"
LARGE = 2**20  # bytes; work on a smaller body holds the loop for less than 20 ms
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


async def expanded(coded: str, body: bytes, limit: int, room: Room | None = None) -> bytes:
    """A body without its content coding.

    A few kilobytes may become `limit` bytes, so one that becomes large waits for `room` before it does: for as much as
    it becomes, which is counted first. Asked for `limit` bytes, it would wait until no other is there, and all behind
    it; asked for more as it grows, two could wait for each other.

    Raises:
        TooLarge: it is longer than `limit` bytes without it. BadRequest: it is damaged.
    """
    try:
        try:
            return await asyncio.to_thread(expand, coded, body, min(limit, LARGE))
        except Oversized:
            if limit <= LARGE:
                raise
        if room is not None:
            limit = await asyncio.to_thread(measure, coded, body, limit)
            await room(limit)
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
