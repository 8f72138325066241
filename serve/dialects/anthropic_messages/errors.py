"""Errors in Anthropic's shape: {"type": "error", "error": {"type", "message"}}."""

from __future__ import annotations

import msgspec

from serve.dialects.openai import reasons, refused
from serve.errors import ApiError

_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
    404: "not_found_error", 413: "request_too_large", 422: "invalid_request_error", 429: "rate_limit_error",
    503: "overloaded_error", 504: "timeout_error", 529: "overloaded_error",
}  # fmt: skip


def error(failure: ApiError) -> bytes:
    """The body of an answer that is an error; `code` and `param` beside what Anthropic's has."""
    fallback = "invalid_request_error" if failure.status < 500 else "api_error"
    row = {"type": _TYPES.get(failure.status, fallback), "message": failure.message}
    row |= {name: value for name in ("code", "param") if (value := getattr(failure, name)) is not None}
    row |= reasons(failure)
    return msgspec.json.encode({"type": "error", "error": row, "request_id": None})


def error_event(failure: ApiError) -> bytes:
    """The error as the last event of a stream; no message_stop follows it."""
    return b"event: error\ndata: %s\n\n" % error(failure)


def refusal(status: int, body: bytes) -> bytes:
    """An engine's error answer in OpenAI's shape (or none) in this one."""
    return error(refused(status, body))
