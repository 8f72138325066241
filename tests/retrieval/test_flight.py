"""A search under way: which half comes last, fails or is cancelled, and what becomes of the other."""

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from retrieval.search.flight import CachedResult, PendingSearch, fly
from retrieval.search.query import Ask

BEGUN = PendingSearch(Ask("bees", 1), 1, None, ([], 0.0))
VECTOR = np.ones(2, np.float32)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1, "pool") as pool:
        yield pool


def ended(begun: PendingSearch, vector: Any) -> list[Any]:
    return [begun.ask.query, vector is VECTOR, threading.current_thread().name.partition("_")[0]]


@pytest.mark.parametrize("first", ["vector", "begin"])
def test_whichever_half_comes_last_the_pool_goes_on(pool: ThreadPoolExecutor, first: str) -> None:
    vector: Future[Any] = Future()
    if first == "vector":
        vector.set_result(VECTOR)
    result = fly(pool, lambda: BEGUN, vector, ended)
    if first == "begin":
        pool.submit(int).result(10)  # the only thread has come to it, so it has begun, and does not wait there
        vector.set_result(VECTOR)
    assert result.result(10) == ["bees", True, "pool"]


def test_what_is_known_waits_for_no_vector(pool: ThreadPoolExecutor) -> None:
    vector: Future[Any] = Future()
    assert fly(pool, lambda: CachedResult([]), vector, ended).result(10) == []
    assert vector.cancelled()


def test_either_halfs_error_is_the_searchs(pool: ThreadPoolExecutor) -> None:
    def broken() -> PendingSearch:
        raise OSError("no record")

    with pytest.raises(OSError, match="no record"):
        fly(pool, broken, None, ended).result(10)
    vector: Future[Any] = Future()
    result = fly(pool, lambda: BEGUN, vector, ended)
    vector.set_exception(RuntimeError("out of memory"))
    with pytest.raises(RuntimeError, match="out of memory"):
        result.result(10)


def test_what_is_cancelled_begins_nothing_more(pool: ThreadPoolExecutor) -> None:
    gate, vector = threading.Event(), Future[Any]()
    pool.submit(gate.wait, 10)
    began: list[int] = []
    result = fly(pool, lambda: began.append(1) or BEGUN, vector, ended)  # type: ignore[func-returns-value]
    assert result.cancel()
    gate.set()
    pool.submit(int).result(10)
    assert (began, vector.cancelled()) == ([], True)
    with pytest.raises(CancelledError):
        result.result(10)


def test_an_index_that_closes_leaves_nobody_waiting() -> None:
    pool, vector = ThreadPoolExecutor(1), Future[Any]()
    result = fly(pool, lambda: BEGUN, vector, ended)
    pool.shutdown()
    vector.set_result(VECTOR)
    with pytest.raises(RuntimeError, match="shutdown"):
        result.result(10)
