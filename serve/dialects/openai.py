"""What all of OpenAI's APIs have in common: the key's header and the shape of an error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from serve.dialects.wire import NOT_JSON
from serve.errors import ApiError


def bearer(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    """The key of an Authorization header of the scheme Bearer; None without one."""
    for name, value in headers:
        if name == b"authorization":
            scheme, _, secret = value.decode("latin-1").partition(" ")
            return secret.strip() or None if scheme.lower() == "bearer" else None
    return None


def error(failure: ApiError) -> bytes:
    """{"error": {"message", "type", "param", "code"}}."""
    row: dict[str, Any] = {
        "message": failure.message, "type": failure.type, "param": failure.param, "code": failure.code
    }  # fmt: skip
    return msgspec.json.encode({"error": row | reasons(failure)})


def reasons(failure: ApiError) -> dict[str, Any]:
    """What a refusal says beside its message: the rules that it rests on, its message in English."""
    return {name: value for name in ("rules", "detail") if (value := getattr(failure, name))}


def error_event(failure: ApiError) -> bytes:
    """The error as the last event of a stream; no [DONE] follows it."""
    return b"data: " + error(failure) + b"\n\n"


def refusal(status: int, body: bytes) -> bytes:
    """An engine's error answer as it came: it has this shape already."""
    return body


def refused(status: int, body: bytes) -> ApiError:
    """An engine's error answer in this shape (or none) as an error of ours, for other dialects to write."""
    try:
        row = msgspec.json.decode(body)
    except NOT_JSON:
        row = None
    row = row.get("error", row) if isinstance(row, dict) else row
    fields = row if isinstance(row, dict) else {"message": row}
    message = fields.get("message") or f"the engine answered {status}"
    code, param = fields.get("code"), fields.get("param")
    failure = ApiError(
        str(message), code=code if isinstance(code, str) else None, param=param if isinstance(param, str) else None
    )
    failure.status = status
    failure.type = fields["type"] if isinstance(fields.get("type"), str) else failure.type
    return failure
