"""OpenAI's text completions: what engines speak behind the base render, and a dialect of clients.

A client's prompt can be aligned as one user turn in the base render. Under a policy without stages it is passed on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from prompt_opt.core import Message, Prompt
from serve.dialects.openai import bearer as key
from serve.dialects.openai import error, error_event, refusal
from serve.dialects.openai_chat.chunks import DONE
from serve.dialects.openai_chat.conversation import includes_usage
from serve.dialects.openai_chat.edits import editor
from serve.dialects.openai_chat.events import ending, text, usage
from serve.dialects.openai_completions.turn import as_chat, chat, logprobs
from serve.dialects.openai_completions.writer import TextWriter
from serve.dialects.wire import Request, parse, raw_body

__all__ = [
    "as_chat", "chat", "done", "editor", "ending", "error", "error_event", "key", "messages", "native", "parse", "path",
    "properties", "refusal", "refuse_untranslatable", "renders", "summary", "text", "usage", "writer",
]  # fmt: skip
path = "/v1/completions"
summary = "Text completion"
properties: Mapping[str, Any] = {"prompt": {}}
renders: Collection[str] = ("base",)
done = DONE


def native(request: Request, prompt: Prompt | None, model: str, salt: str) -> bytes:
    """The client's body. A policy that edits it is never native here: it writes the whole prompt."""
    return raw_body(request, model, salt)


def refuse_untranslatable(request: Request) -> None:
    """Nothing: what the base render has no place for is refused when the request is read."""


def messages(rows: Sequence[Message]) -> Sequence[Message]:
    """The messages themselves."""
    return rows


def writer(request: Request, ident: str, model: str, created: int) -> TextWriter:
    """A writer for as many choices as the request asks for.

    Raises:
        BadRequest: `logprobs` or `stream_options` is of the wrong type.
    """
    return TextWriter(
        f"cmpl-{ident}", model, created, request.value("n", 1),
        logprobs=logprobs(request) is not None, usage_chunk=includes_usage(request),
    )  # fmt: skip
