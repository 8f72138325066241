"""The routes that FastAPI carries, and the OpenAPI page: all but those of `serve.api.routes`.

Each group of routes is a module with `add_routes`; what they share stands here: who calls, and within which limits.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import Depends, FastAPI, Request, Response
from starlette.routing import Route

from serve.api import (
    exposition,
    failures,
    inbox,
    listing,
    openapi,
    page,
    preview,
    principles,
    recent,
    reference,
    reported,
    roster,
    timeline,
    verdicts,
)
from serve.api.routes import PATHS, lines
from serve.chat.keys import Caller, identify
from serve.chat.service import Service

if TYPE_CHECKING:
    from serve.approval.desk import Desk


async def _hot(request: Request) -> Response:
    raise AssertionError("a hot path is answered before the application is asked")


def build(service: Callable[[], Service], desk: Callable[[], Desk] | None = None) -> FastAPI:
    """The application. `service` gives the current one, so that a reload reaches the next request, and `desk` that of
    changes; without one there are none."""
    app = FastAPI(
        title="Trimtab",
        description=openapi.ABOUT,
        version=openapi.VERSION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(_identifying(service))],
    )
    for method, path in lines(service):  # for whoever comes with another method
        app.router.routes.append(Route(path, _hot, methods=[method]))
    page.add_routes(app)
    plain = openapi.document(app)
    app.openapi = lambda: plain(PATHS)  # type: ignore[method-assign]
    reference.add_routes(app, app.openapi)
    failures.add_handlers(app)
    exposition.add_routes(app, _caller)
    listing.add_routes(app, service, _caller)
    roster.add_routes(app, service, _caller)
    principles.add_routes(app, service, _caller)
    recent.add_routes(app, service, _caller)
    verdicts.add_routes(app, service, _caller)
    reported.add_routes(app, service, _caller)
    inbox.add_routes(app, desk, _caller)
    timeline.add_routes(app, service, _caller)
    preview.add_routes(app, service, _caller)
    return app


def _identifying(service: Callable[[], Service]) -> Callable[[Request], AsyncIterator[None]]:
    async def identified(request: Request) -> AsyncIterator[None]:
        """Before any handler, and so before a byte of the body: whoever has no key, or no room within its limits, gets
        no work done."""
        request.state.caller = who = identify(service().config.keys, request.headers.get("authorization"))
        if request.url.path.startswith("/v1/"):
            async with _limited(service(), who, request):
                yield
        else:  # of the server itself, which is watched when it is busy above all
            yield

    return identified


def _caller(request: Request) -> Caller:
    known: Caller = request.state.caller
    return known


@asynccontextmanager
async def _limited(service: Service, who: Caller, http: Request) -> AsyncIterator[None]:
    """Within the limits of the caller: requests, and the bytes of their bodies; they cost no tokens.

    Raises:
        TooMany: one is reached. Unavailable: they cannot be looked up.
    """
    if service.limiter is None:
        yield
        return
    length = http.headers.get("content-length", "" if "transfer-encoding" in http.headers else "0")
    size = int(length) if length.isdecimal() else None
    admission = await service.limiter.enter(who.name, who.tenant, size)
    try:
        yield
    finally:
        if admission is not None:
            admission.leave(None, served=False)
