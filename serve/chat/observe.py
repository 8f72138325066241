"""What tracing and logs are told of a request; nothing where both are off."""

from __future__ import annotations

import time
from typing import Any

from serve.chat.record import Record
from serve.chat.service import Service
from serve.http.call import Call
from serve.observe import logs, tracing


def begin(service: Service, call: Call, record: Record) -> None:
    """A request has come."""
    if service.tracing is not None:
        call.span = service.tracing.begin(call.method, call.path, call.headers)
        tracing.current.set(call.span)
    if service.config.server.log == "json":
        logs.request_id.set(record.request_id or record.ident)


def finish(service: Service, call: Call, record: Record, status: int) -> None:
    """It has ended with this status."""
    if call.span is not None:
        answer, outcomes = record.answer, record.alignment.outcomes
        steps = (tracing.Step(o.stage, o.status, o.reason, o.ms) for o in outcomes)
        call.span.end(status, steps, answer.usage, answer.first_byte, route=record.path, **_about(record))
    if service.config.server.access_log:
        logs.access(
            call.method, record.path, status, {"request_id": record.request_id or record.ident, **_fields(record)}
        )


def _about(record: Record) -> dict[str, str]:
    selection, caller = record.selection, record.caller
    policy, model = (selection.policy.name, selection.model) if selection else ("", "")
    known = {"policy": policy, "model": model, "key": caller.name, "tenant": caller.tenant}
    return {"trace_id": record.ident, "request_id": record.request_id or record.ident, **known}


def _fields(record: Record) -> dict[str, Any]:
    answer, selection = record.answer, record.selection
    usage = answer.usage or {}
    return {
        "key": record.caller.name,
        "tenant": record.caller.tenant,
        "policy": selection.policy.name if selection else "",
        "engine": selection.engine if selection else "",
        "model": selection.model if selection else "",
        "applied": ",".join(f"{o.stage}={o.status}" for o in record.alignment.outcomes),
        "prompt_tokens": usage.get("prompt_tokens"),
        "completion_tokens": usage.get("completion_tokens"),
        "first_byte_ms": None if answer.first_byte is None else round(answer.first_byte * 1000, 1),
        "ms": round((time.monotonic() - answer.started) * 1000, 1),
        "trace": record.ident,
        "error": record.error or answer.error,
    }
