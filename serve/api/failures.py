"""Every error of the routes that FastAPI carries, in OpenAI's shape."""

from __future__ import annotations

import sqlite3

from fastapi import FastAPI, Request, Response
from starlette.requests import ClientDisconnect

from prompt_opt.pipeline import StageFailed
from retrieval.lock import is_disk_full
from serve.dialects import openai
from serve.errors import ApiError, DiskFull, NotFound, UpstreamFailed


def add_handlers(app: FastAPI) -> None:
    """Put the handlers on the application."""

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        headers = {name.decode(): value.decode() for name, value in error.headers}
        return Response(openai.error(error), error.status, headers, media_type="application/json")

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it

    @app.exception_handler(404)
    async def not_found(request: Request, error: Exception) -> Response:
        return await api_error(request, NotFound(f"no {request.method} {request.url.path} here", code="path_not_found"))

    @app.exception_handler(405)
    async def not_allowed(request: Request, error: Exception) -> Response:
        wrong = ApiError(f"{request.url.path} does not take {request.method}", code="method_not_allowed")
        wrong.status, wrong.type = 405, "invalid_request_error"
        wrong.headers = tuple((n.encode(), v.encode()) for n, v in (getattr(error, "headers", None) or {}).items())
        return await api_error(request, wrong)

    @app.exception_handler(StageFailed)
    async def stage_failed(request: Request, error: Exception) -> Response:
        return await api_error(request, UpstreamFailed(f"{error}, and the policy requires it", code="stage_failed"))

    @app.exception_handler(OSError)
    @app.exception_handler(sqlite3.Error)
    async def store_failed(request: Request, error: Exception) -> Response:
        if not is_disk_full(error):
            raise error
        return await api_error(request, DiskFull())

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        return await api_error(request, ApiError("an internal error; the server's log has it", code="internal_error"))
