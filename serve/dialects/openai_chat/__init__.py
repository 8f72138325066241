"""OpenAI's chat completions: the dialect that every engine speaks, and the one that others are translated to."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from prompt_opt.core import Message
from serve.dialects.openai import bearer as key
from serve.dialects.openai import error, error_event, refusal
from serve.dialects.openai_chat.chunks import DONE, ChatWriter
from serve.dialects.openai_chat.conversation import chat, includes_usage, logprobs, native
from serve.dialects.openai_chat.edits import editor
from serve.dialects.openai_chat.events import ending, text, usage
from serve.dialects.wire import Request, parse

__all__ = [
    "as_chat", "chat", "done", "editor", "ending", "error", "error_event", "key", "messages", "native", "parse", "path",
    "properties", "refusal", "refuse_untranslatable", "renders", "summary", "text", "usage", "writer",
]  # fmt: skip
path = "/v1/chat/completions"
summary = "Chat completion"
properties: Mapping[str, Any] = {
    "messages": {"type": "array", "minItems": 1, "items": {"type": "object", "required": ["role"]}}
}
renders: Collection[str] = ("chat", "base")
done = DONE


def as_chat(request: Request) -> Request:
    """The request itself."""
    return request


def refuse_untranslatable(request: Request) -> None:
    """Nothing: it needs no translation."""


def messages(rows: Sequence[Message]) -> Sequence[Message]:
    """The messages themselves."""
    return rows


def writer(request: Request, ident: str, model: str, created: int) -> ChatWriter:
    """A writer for as many choices as the request asks for.

    Raises:
        BadRequest: `logprobs` or `stream_options` is of the wrong type.
    """
    return ChatWriter(
        f"chatcmpl-{ident}", model, created, request.value("n", 1) if "n" in request.fields else 1,
        logprobs=logprobs(request) is not None, usage_chunk=includes_usage(request),
    )  # fmt: skip
