"""Work on a large body beside the event loop, which others wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
LARGE = 2**18  # bytes; a thread costs more than the work on a smaller body holds the loop


async def beside(size: int, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """What `work` returns, done in a thread where the body that it works on has many bytes."""
    if size < LARGE:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)
