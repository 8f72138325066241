"""Work on a large body beside the event loop, which others wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from serve.http.body import LARGE

P = ParamSpec("P")
R = TypeVar("R")
# One: each thread more that works would hold the interpreter's lock for a moment in which the loop waits.
_thread = ThreadPoolExecutor(1, "large-body")


async def beside(size: int, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """What `work` returns, done in a thread where the body that it works on has many bytes."""
    if size < LARGE:
        return work(*args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_thread, partial(work, *args, **kwargs))
