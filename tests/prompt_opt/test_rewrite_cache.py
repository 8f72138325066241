"""The cache of rewrites: exact, by tenant, bounded in bytes; and the breaker beside it."""

from __future__ import annotations

from prompt_opt.rewriter.breaker import Breaker
from prompt_opt.rewriter.cache import RewriteCache, cache_key

BODY = {"prompt": "a", "temperature": 0.6}


def test_any_difference_is_another_key() -> None:
    keys = {
        cache_key("t", "p", "/v1/completions", BODY),
        cache_key("u", "p", "/v1/completions", BODY),
        cache_key("t", "q", "/v1/completions", BODY),
        cache_key("t", "p", "/v1/chat/completions", BODY),
        cache_key("t", "p", "/v1/completions", BODY | {"prompt": "a "}),
        cache_key("t", "p", "/v1/completions", BODY | {"temperature": 0.9}),
        cache_key("tp", "", "/v1/completions", BODY),
    }
    assert len(keys) == 7


def test_the_order_of_fields_and_lone_surrogates_do_not_matter() -> None:
    assert cache_key("t", "p", "x", {"a": 1, "b": 2}) == cache_key("t", "p", "x", {"b": 2, "a": 1})
    assert cache_key("t", "p", "x", {"a": "\ud800"})


def test_the_least_recently_used_goes_first() -> None:
    cache = RewriteCache[str](limit=3 * 356)
    for name in "abc":
        cache.put(name, name, 100)
    assert cache.get("a") == "a"
    cache.put("d", "d", 100)
    assert [cache.get(name) for name in "abcd"] == ["a", None, "c", "d"]
    assert (len(cache), cache.held) == (3, 3 * 356)


def test_bytes_are_bounded_whatever_is_put() -> None:
    cache = RewriteCache[str](limit=2000)
    cache.put("huge", "x", 5000)
    assert len(cache) == 0
    for i in range(100):
        cache.put(str(i % 7), "x", i * 10)
        assert cache.held <= 2000
    cache.put("6", "y", 1)
    assert cache.get("6") == "y"


def test_a_breaker_opens_rests_and_tries_once() -> None:
    now = [0.0]
    breaker = Breaker(2, 10, lambda: now[0])
    breaker.failed("late")
    assert breaker.open_reason() == ""
    breaker.failed("OSError")
    assert breaker.open_reason() == "circuit breaker open for 10 s after 2 failures (OSError)"
    now[0] = 10.0
    assert breaker.open_reason() == ""
    assert breaker.open_reason() != ""
    breaker.failed("late")
    now[0] = 19.0
    assert breaker.open_reason() != ""
    now[0] = 20.0
    assert breaker.open_reason() == ""
    breaker.abandoned()
    assert breaker.open_reason() == ""
    breaker.succeeded()
    assert breaker.open_reason() == ""
    assert breaker.open_reason() == ""


def test_one_owners_failures_open_the_breaker_for_that_owner_only() -> None:
    now = [0.0]
    breaker = Breaker(3, 10, lambda: now[0])
    for _ in range(6):
        breaker.failed("late", "acme")
    assert breaker.open_reason("acme")
    assert breaker.open_reason("bolt") == ""
    breaker.failed("late", "bolt")
    assert breaker.open_reason("core"), "two owners have seen it fail: it is the rewriter that is unwell"
    now[0] = 11.0
    assert breaker.open_reason("core") == "", "one call goes"
    assert breaker.open_reason("acme")
    breaker.succeeded()
    assert not any(breaker.open_reason(owner) for owner in ("acme", "bolt", "core"))
