"""Anthropic's Messages: native for an engine that has /v1/messages, a chat completion for any other."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from serve.dialects.anthropic_messages.conversation import chat, native
from serve.dialects.anthropic_messages.edits import editor
from serve.dialects.anthropic_messages.errors import error, error_event, refusal
from serve.dialects.anthropic_messages.events import ending, text, usage
from serve.dialects.anthropic_messages.parameters import as_chat, refuse_untranslatable
from serve.dialects.anthropic_messages.turns import messages
from serve.dialects.anthropic_messages.writer import MessageWriter
from serve.dialects.dialect import Headers
from serve.dialects.openai import bearer
from serve.dialects.wire import Request, parse

__all__ = [
    "as_chat", "chat", "counted", "done", "editor", "ending", "error", "error_event", "key", "messages", "native",
    "parse", "path", "properties", "refusal", "refuse_untranslatable", "renders", "summary", "text", "usage", "writer",
]  # fmt: skip
path = "/v1/messages"
summary = "Message"
properties: Mapping[str, Any] = {
    "max_tokens": {"type": "integer"},
    "messages": {"type": "array", "minItems": 1, "items": {"type": "object", "required": ["role", "content"]}},
}
renders: Collection[str] = ("chat", "base")
done = b""


def key(headers: Headers) -> str | None:
    """The key of X-Api-Key, as Anthropic's clients send it, or of a Bearer token; None without either."""
    named = next((value.decode("latin-1").strip() for name, value in headers if name == b"x-api-key"), "")
    return named or bearer(headers)


def counted(tokens: int) -> bytes:
    """The answer of /v1/messages/count_tokens."""
    return msgspec.json.encode({"input_tokens": tokens})


def writer(request: Request, ident: str, model: str, created: int) -> MessageWriter:
    """A writer of the answer."""
    return MessageWriter(ident, model)
