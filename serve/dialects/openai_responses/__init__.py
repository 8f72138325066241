"""OpenAI's Responses: native for an engine that has /v1/responses, a chat completion for any other."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from serve.dialects.openai import bearer as key
from serve.dialects.openai import error, refusal
from serve.dialects.openai_responses.conversation import chat, native
from serve.dialects.openai_responses.edits import editor
from serve.dialects.openai_responses.events import ending, error_event, text, usage
from serve.dialects.openai_responses.objects import counted
from serve.dialects.openai_responses.parameters import as_chat, refuse_untranslatable
from serve.dialects.openai_responses.turns import messages
from serve.dialects.openai_responses.writer import ResponsesWriter as writer  # noqa: N813
from serve.dialects.wire import parse

__all__ = [
    "as_chat", "chat", "counted", "done", "editor", "ending", "error", "error_event", "key", "messages", "native",
    "parse", "path", "properties", "refusal", "refuse_untranslatable", "renders", "summary", "text", "usage", "writer",
]  # fmt: skip
path = "/v1/responses"
summary = "Response"
properties: Mapping[str, Any] = {"input": {}}
renders: Collection[str] = ("chat", "base")
done = b""
