"""The health checks that run in the background for as long as a process serves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from serve.engine import health
from serve.engine.relay import Relay


class Checked(Protocol):
    """A pool of engines, or the contact to a single one."""

    def check(self, relay: Relay) -> None:
        """Begin to ask how it is, in the background, unless that is being done or is not due."""

    def stop(self) -> None:
        """Give up what is being asked."""


async def watch(checked: Callable[[], Iterable[Checked]], relay: Callable[[], Relay]) -> None:
    """Check them all, for ever. Both are asked for at each turn, since a reload replaces them."""
    try:
        while True:
            for it in checked():
                it.check(relay())
            await asyncio.sleep(health.CHECK_S)
    finally:
        for it in checked():
            it.stop()
