"""What Prometheus reads: /metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse

from serve import metrics
from serve.chat.keys import Caller


def add_routes(app: FastAPI, caller: Callable[[Request], Caller]) -> None:
    """Put the path on the application."""

    @app.get("/metrics", tags=["server"], summary="Prometheus metrics", response_class=PlainTextResponse)
    async def exposition(request: Request) -> Response:
        caller(request).require("metrics")
        metrics.Tally.flush()
        text = await asyncio.to_thread(metrics.exposition)
        return Response(text, media_type="text/plain; version=0.0.4")
