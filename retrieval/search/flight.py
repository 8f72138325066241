"""One search under way: its lexical half in the pool and its vector in the model's thread, then both into one result.

No thread waits for another, and what comes last goes on with the search, so a core is never idle for the sake of
order, and the event loop hears of it once, in the end.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass

from retrieval.backends.backend import Vector, View
from retrieval.fusion import Ranked
from retrieval.passage import Hit
from retrieval.search.query import Ask


@dataclass(frozen=True, slots=True)
class PendingSearch:
    """What a search has before its vector: what it sees, and what the lexical side found there."""

    ask: Ask
    revision: int
    view: View
    lexical: tuple[Ranked, float]


@dataclass(frozen=True, slots=True)
class CachedResult:
    """A result from the cache: it waits for no vector."""

    hits: list[Hit]


def fly(
    pool: Executor,
    begin: Callable[[], PendingSearch | CachedResult],
    vector: Future[Vector] | None,
    end: Callable[[PendingSearch, Vector | None], list[Hit]],
) -> Future[list[Hit]]:
    """`end` of what `begin` gives and of the vector. A result that is cancelled takes along what has not begun."""
    result: Future[list[Hit]] = Future()

    def settle(give: Callable[[], list[Hit]]) -> None:
        if not result.set_running_or_notify_cancel():
            return
        try:
            hits = give()
        except BaseException as error:  # noqa: BLE001 - all of it belongs to whoever asked
            result.set_exception(error)
        else:
            result.set_result(hits)

    def run() -> None:
        if result.cancelled():
            return
        try:
            begun = begin()
        except BaseException as error:  # noqa: BLE001
            failed = error
            settle(lambda: _raised(failed))
            return
        if isinstance(begun, CachedResult):
            if vector is not None:
                vector.cancel()
            settle(lambda: begun.hits)
        elif vector is None:
            settle(lambda: end(begun, None))
        elif vector.done():
            settle(lambda: end(begun, vector.result()))
        else:
            vector.add_done_callback(lambda found: go_on(lambda: end(begun, found.result())))

    def go_on(give: Callable[[], list[Hit]]) -> None:
        try:
            pool.submit(settle, give)
        except RuntimeError as error:  # closed meanwhile
            failed = error
            settle(lambda: _raised(failed))

    def ended(result: Future[list[Hit]]) -> None:
        if result.cancelled() and vector is not None:
            vector.cancel()

    result.add_done_callback(ended)
    pool.submit(run)
    return result


def _raised(error: BaseException) -> list[Hit]:
    raise error
