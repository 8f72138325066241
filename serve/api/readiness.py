"""What /readyz answers."""

from __future__ import annotations

from typing import Any

from serve.chat.keys import ANYBODY, Caller, identify
from serve.chat.service import Service
from serve.errors import Unauthorized


def asker(service: Service, authorization: str | None) -> Caller | None:
    """Who asks; None for whoever shows no key where keys are needed."""
    try:
        return identify(service.config.keys, authorization) if service.config.keys else ANYBODY
    except Unauthorized:
        return None


def readiness(service: Service, who: Caller | None) -> tuple[dict[str, Any], bool]:
    """The state of engines and indexes as far as the caller may know it, and whether all is well.

    A tenant's index is named to that tenant only. Reasons and addresses quote URLs, folders and models: they are for
    whoever runs the server, by the right `metrics`.
    """
    engines, indexes = service.engines, service.indexes
    trusted = who is not None and who.may("metrics")
    told = {
        name: {"state": e.condition[0], "reason": e.condition[1] if trusted else ""}
        | ({"urls": e.pool.told(urls=trusted and not service.config.keys)} if e.pool else {})
        for name, e in engines.items()
    }
    states = {name: indexes.state(name) for name in indexes.specs}
    shown = {
        name: state if trusted else {**state, "reason": ""}
        for name, state in states.items()
        if who is not None and who.sees(indexes.specs[name].tenant)
    }
    well = all(e.answers for e in engines.values())
    ready = well and all(state["state"] == "ready" for state in states.values())
    return {"status": "ready" if ready else "not ready", "engines": told, "indexes": shown}, ready
