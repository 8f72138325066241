"""A wire API that nobody speaks: {"say", "max", "stream"} in, {"toy", "why", "used"} out, its key in X-Toy-Key."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from prompt_opt.core import Chat, Message, Prompt
from serve.config import Server
from serve.dialects.annotation import Annotation, Editor
from serve.dialects.dialect import Choice, Ending, Headers, Piece
from serve.dialects.openai import refused
from serve.dialects.wire import Raw, Request, parse, typed
from serve.errors import ApiError, BadRequest

__all__ = ["parse"]
path = "/v1/toy"
summary = "Toy"
properties: Mapping[str, Any] = {"say": {"type": "string"}}
renders: Collection[str] = ("chat", "base")
done = b""


def key(headers: Headers) -> str | None:
    return next((value.decode("latin-1") for name, value in headers if name == b"x-toy-key"), None)


def chat(request: Request, limits: Server) -> Chat:
    say = typed(request.fields, "say", str, "")
    if not say:
        raise BadRequest("say something", param="say")
    return Chat((Message("user", say),), request.model, request.stream, as_chat(request).fields)


def native(request: Request, prompt: Prompt | None, model: str, salt: str) -> bytes:
    raise AssertionError("no engine speaks this")


def as_chat(request: Request) -> Request:
    fields = {name: raw for name, raw in request.fields.items() if name in ("model", "stream")}
    if (limit := typed(request.fields, "max", int, None)) is not None:
        fields["max_tokens"] = Raw(msgspec.json.encode(limit))
    return Request(fields, request.model, request.stream, request.options, b"", touched=True)


def refuse_untranslatable(request: Request) -> None:
    """Everything it says has a place in a chat."""


def messages(rows: Sequence[Message]) -> Sequence[Message]:
    return rows


def writer(request: Request, ident: str, model: str, created: int) -> ToyWriter:
    return ToyWriter()


def editor(annotation: Annotation) -> Editor:
    raise AssertionError("no policy of its tests adds to an answer")


def error(failure: ApiError) -> bytes:
    return msgspec.json.encode({"oops": failure.message, "code": failure.code})


def error_event(failure: ApiError) -> bytes:
    return _event({"oops": failure.message})


def refusal(status: int, body: bytes) -> bytes:
    return error(refused(status, body))


def ending(tail: bytes) -> Ending:
    return Ending()


def usage(body: bytes) -> Mapping[str, Any] | None:
    return None


def text(body: bytes, *, stream: bool) -> str | None:
    return None


class ToyWriter:
    """Begin, words, why, used."""

    def describe(self, meta: Mapping[str, Any]) -> None:
        return

    def start(self) -> bytes:
        return _event({"begin": True})

    def delta(self, piece: Piece) -> bytes:
        return _event({"word": piece.text})

    def end(self, piece: Piece) -> bytes:
        return _event({"why": piece.finish})

    def close(self, usage: Mapping[str, Any]) -> bytes:
        return _event({"used": usage.get("total_tokens")})

    def whole(self, choices: Sequence[Choice], usage: Mapping[str, Any]) -> bytes:
        row = {"toy": choices[0].text, "why": choices[0].finish, "used": usage.get("total_tokens")}
        return msgspec.json.encode(row)


def _event(row: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(row) + b"\n\n"
