"""The OpenAPI page's word on the routes that FastAPI does not see."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any, get_args

from fastapi import FastAPI

from serve.api.inbox import STEPS
from serve.api.routes import Paths
from serve.dialects.dialect import Dialect
from serve.store.changes import Kind, Op

VERSION = version("trimtab")
ABOUT = (
    "The alignment layer for any language model. The `/v1` paths are OpenAI's; a policy, chosen by the "
    "`X-Trimtab-Policy` header, the `trimtab` body field, a model alias or the API key, says what is done to a chat. "
    "Every answer carries `X-Trimtab-Policy`, `X-Trimtab-Applied` and `X-Trimtab-Trace`."
)
_OPTIONS: dict[str, Any] = {
    "type": "object",
    "description": "Ours; the engine never sees it.",
    "properties": {
        "policy": {"type": "string"},
        "skip": {"type": "array", "items": {"type": "string"}, "description": "stages to leave out"},
        "region": {"type": "string"},
        "language": {"type": "string"},
        "date": {"type": "string"},
        "explain": {"type": "boolean", "description": "keep prompt and answer in the trace"},
    },
    "additionalProperties": False,
}
_WELL: dict[str, Any] = {"200": {"description": "Yes"}, "503": {"description": "No, or not yet"}}
_TEXT: dict[str, Any] = {"type": "string"}
_POLICY = {"name": "X-Trimtab-Policy", "in": "header", "required": False, "schema": _TEXT}
_ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {"message": _TEXT, "type": _TEXT, "code": {}, "param": {}},
        }
    },
}
_REFUSED = {"description": "Refused: the message says why", "content": {"application/json": {"schema": _ERROR}}}
_FAILED = {"description": "The engine or the server failed", "content": {"application/json": {"schema": _ERROR}}}
_ERRORS = {"4XX": _REFUSED, "5XX": _FAILED}
_ANSWERS = {"200": {"description": "The answer, or a stream of events"}, **_ERRORS}
_COMMENT: dict[str, Any] = {"type": "string", "maxLength": 4000}
_FEEDBACK: dict[str, Any] = {
    "oneOf": [
        {
            "type": "object",
            "required": ["trace", "rating"],
            "properties": {"trace": _TEXT, "rating": {"enum": ["up", "down"]}, "comment": _COMMENT},
            "additionalProperties": False,
        },
        {
            "type": "object",
            "required": ["chosen", "rejected"],
            "properties": {"chosen": _TEXT, "rejected": _TEXT, "comment": _COMMENT},
            "additionalProperties": False,
        },
    ],
    "description": "Traces are named by their ids; they must keep content, and two must answer the same conversation.",
}
_CHANGE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 200},
        "reason": _COMMENT,
        "effective": {
            "type": "string",
            "description": "the date or time (UTC) from which it is in force",
        },
        "requires": {"type": "array", "items": _TEXT, "description": "policies that need a passed release check"},
        "items": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["kind", "name"],
                "properties": {
                    "kind": {"enum": list(get_args(Kind))},
                    "op": {"enum": list(get_args(Op))},
                    "index": {"type": "string", "description": "of a rule"},
                    "name": {"type": "string", "description": "a rule's id, or the name of the policy or profile"},
                    "content": {"description": "a rule's fields, a policy's settings, or a profile's TOML"},
                },
                "additionalProperties": False,
            },
        },
    },
    "additionalProperties": False,
}
_STEP: dict[str, Any] = {
    "type": "object",
    "properties": {
        "version": {"type": "integer", "description": "refuse the step if the change has another version by now"},
        "comment": _COMMENT,
        "check": {"type": "object", "description": "of the step check: what `trimtab eval --check` wrote"},
    },
}


def _with_version(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "properties": {**schema["properties"], "version": _STEP["properties"]["version"]}}


def document(app: FastAPI) -> Callable[[Paths], dict[str, Any]]:
    """FastAPI's own document, to which the paths that go past it are added."""
    generate = app.openapi

    def openapi(paths: Paths) -> dict[str, Any]:
        page, dialects = generate(), paths.dialects
        for operation in (row for path in page["paths"].values() for row in path.values()):
            if "operationId" in operation:  # FastAPI's own routes, whose 422 is a 400 here
                operation["responses"] = {"200": operation["responses"]["200"], **_ERRORS}
        page["paths"] |= {it.path: _post(f"{it.summary}, aligned by a policy", _schema(it)) for it in dialects}
        page["paths"]["/v1/explain"]["post"]["requestBody"] = _body(_schema(dialects[0]))
        page["paths"]["/v1/feedback"]["post"]["requestBody"] = _body(_FEEDBACK)
        page["paths"]["/v1/changes"]["post"]["requestBody"] = _body(_CHANGE)
        page["paths"]["/v1/changes/{ident}"]["patch"]["requestBody"] = _body(_with_version(_CHANGE))
        page["paths"]["/v1/changes/{ident}/explain"]["post"]["requestBody"] = _body(_schema(dialects[0]))
        for step in STEPS:
            page["paths"][f"/v1/changes/{{ident}}/{step}"]["post"]["requestBody"] = _body(_STEP)
        for path, dialect in paths.counters.items():
            page["paths"][path] = _post("Tokens of a request under its policy, without an answer", _schema(dialect))
        for (method, path), summary in paths.kept.items():
            page["paths"].setdefault(path, {})[method.lower()] = _kept(summary)
        for path in paths.relayed:
            page["paths"].setdefault(path, _post("Passed on to the engine as it is", {"type": "object"}))
        for path, summary in paths.health.items():
            page["paths"][path] = {"get": {"tags": ["server"], "summary": summary, "responses": _WELL}}
        page["components"] = {
            **page.get("components", {}),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        }
        page["security"] = [{}, {"key": []}]
        return page

    return openapi


def _schema(dialect: Dialect) -> dict[str, Any]:
    """A dialect's body, and our own field in it."""
    properties = {"model": _TEXT, "stream": {"type": "boolean"}, **dialect.properties, "trimtab": _OPTIONS}
    return {
        "type": "object", "required": list(dialect.properties), "properties": properties, "additionalProperties": True
    }  # fmt: skip


def _kept(summary: str) -> dict[str, Any]:
    parameters = [_POLICY, {"name": "ident", "in": "path", "required": True, "schema": _TEXT}]
    return {"tags": ["openai"], "summary": summary, "parameters": parameters, "responses": _ANSWERS}


def _post(summary: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "post": {
            "tags": ["openai"],
            "summary": summary,
            "parameters": [_POLICY],
            "requestBody": _body(schema),
            "responses": _ANSWERS,
        }
    }


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}
