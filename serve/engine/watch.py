"""The health checks that run in the background for as long as a process serves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from serve.engine import health
from serve.engine.pool import Pool
from serve.engine.relay import Relay


async def watch(pools: Callable[[], Iterable[Pool]], relay: Callable[[], Relay]) -> None:
    """Check all pools, for ever. Both are asked for at each turn, since a reload replaces them."""
    try:
        while True:
            for pool in pools():
                pool.check(relay())
            await asyncio.sleep(health.CHECK_S)
    finally:
        for checking in (member.checking for pool in pools() for member in pool.members):
            if checking is not None:
                checking.cancel()
