"""The routes that FastAPI carries, and the OpenAPI page: all but those of `serve.api.routes`.

Each group of routes is a module with `add_routes`; what they share stands here: who calls, and within which limits.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
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
from serve.api.bodies import Held
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
        # Other paths (health, metrics) are not limited: a busy server is when they are needed most.
        counts = request.url.path.startswith("/v1/")
        request.state.held = held = await _held(service(), who, request, counts=counts)
        try:
            yield
        finally:
            held.end()

    return identified


def _caller(request: Request) -> Caller:
    known: Caller = request.state.caller
    return known


async def _held(service: Service, who: Caller, http: Request, *, counts: bool) -> Held:
    """A place within the limits of the caller, where it `counts` there: requests, and the bytes of their bodies; they
    cost no tokens.

    Raises:
        TooMany: one is reached. Unavailable: they cannot be looked up.
    """
    turn = service.turns.turn(who.name)
    if service.limiter is None or not counts:
        return Held(None, turn)
    length = http.headers.get("content-length", "" if "transfer-encoding" in http.headers else "0")
    size = int(length) if length.isdecimal() else None
    return Held(await service.limiter.enter(who.name, who.tenant, size), turn)
