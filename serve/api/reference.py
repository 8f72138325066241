"""The page at /docs: the OpenAPI document as plain HTML, which needs no script and nothing from another host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from html import escape
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.routing import Route

from serve.api import page

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Trimtab API</title>
<link rel="stylesheet" href="{style}">
</head>
<body>
<main>
<section>
<h1>{title}</h1>
<p>{about}</p>
<p><a href="openapi.json">The OpenAPI document</a> has every schema; <a href="./">the page</a> is for trying it.</p>
"""
_TITLES = {"openai": "OpenAI's API", "trimtab": "Trimtab's own API", "server": "The server"}


def add_routes(app: FastAPI, document: Callable[[], Mapping[str, Any]]) -> None:
    """Put the page on the application."""

    async def shown(request: Request) -> Response:
        body = "".join(_lines(document()))
        return Response(body, headers=page.GUARDS, media_type="text/html; charset=utf-8")

    app.router.routes.append(Route("/docs", shown, methods=["GET"]))


def _lines(document: Mapping[str, Any]) -> Iterator[str]:
    info = document["info"]
    yield _HEAD.format(style=page.address("page.css"), title=escape(info["title"]), about=escape(info["description"]))
    for tag, title in _TITLES.items():
        yield f"<h2>{title}</h2>\n<dl>\n"
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if tag in operation.get("tags", ()):
                    yield _operation(method, path, operation)
        yield "</dl>\n"
    yield "</section>\n</main>\n</body>\n</html>\n"


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    named = [row["name"] for row in operation.get("parameters", ()) if row["in"] == "query"]
    schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    fields = [name for one in schema.get("oneOf", [schema]) for name in one.get("properties", {})]
    more = [("query", named), ("body", list(dict.fromkeys(fields)))]
    facts = "".join(f"<br>{kind}: <code>{escape(', '.join(names))}</code>" for kind, names in more if names)
    return f"<dt><code>{method.upper()} {escape(path)}</code></dt>\n<dd>{escape(operation['summary'])}{facts}</dd>\n"
