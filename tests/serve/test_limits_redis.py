"""Limits that several servers share through a real Redis, and what happens when it is gone."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from serve.config import Allowance
from serve.limits.counts import Counts
from serve.limits.ledger import LedgerFailed
from serve.limits.local import LocalLedger
from serve.limits.subject import subject
from tests.serve.conftest import Start, chat
from tests.serve.test_limits import NAMES, PATH, assert_allowed, by, flood, keys

pytest.importorskip("redis", reason="needs pip install 'trimtab[redis]'")
if shutil.which("redis-server") is None:
    pytest.skip("needs redis-server on the PATH", allow_module_level=True)

from serve.limits.shared import SharedLedger


class Redis:
    """A server of our own, without a disk."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        argv = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if "Ready to accept connections" in line:
                return
        raise AssertionError("redis-server did not start")

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=10)


@pytest.fixture
def redis() -> Iterator[Redis]:
    it = Redis()
    yield it
    it.stop()


async def test_two_servers_share_what_is_configured(start: Start, redis: Redis) -> None:
    more = f'[limits]\nredis_env = "LIMITS"\nredis_s = 5\n[limits.key]\nrequests_per_minute = 200\n{keys(*NAMES)}'
    servers = [start("--workers", "2", more=more, env={"LIMITS": redis.url}) for _ in range(2)]
    counts, took_s = await flood(servers, 4000)
    assert_allowed(counts, 200, took_s)
    async with httpx.AsyncClient(verify=False, timeout=10) as http:
        answer = await http.post(servers[0].url + PATH, json=chat(), headers=by("k0"))
        assert answer.headers["x-ratelimit-limit-requests"] == "200"


async def test_without_redis_each_machine_counts_alone_and_then_together_again(tmp_path: Path, redis: Redis) -> None:
    who = [subject("key", "a", Allowance(requests_per_minute=5, concurrent=100))]
    one, other = (_ledger(redis, tmp_path / name) for name in ("one", "other"))
    (lease,), (others,) = (local.know([who]) for local, _ in (one, other))
    for _ in range(3):
        assert (await one[1].admit(lease, 1, 0)).refusal is None
    redis.stop()
    both = ((one[1], lease), (other[1], others))
    answers = [(await ledger.admit(held, 1, 0)).refusal for ledger, held in both for _ in range(5)]
    # The one has counted its three here as well; the other has none.
    assert [refusal is None for refusal in answers] == [True, True, False, False, False, *[True] * 5]
    redis.start()
    await _back(one[1])
    standing = await one[1].admit(lease, 1, 0)
    assert standing.refusal is None  # Redis has forgotten, and says so
    for _, ledger in (one, other):
        await ledger.close()


async def test_of_several_limits_the_one_that_lasts_longest_says_when_to_come_again(
    tmp_path: Path, redis: Redis
) -> None:
    slow = subject("key", "slow", Allowance(requests_per_minute=1, tokens_per_minute=6000))
    fast = subject("tenant", "fast", Allowance(requests_per_minute=1000, tokens_per_minute=6000))
    local, ledger = _ledger(redis, tmp_path)
    for group in ([slow, fast], [fast, slow]):
        [lease] = local.know([group])
        await ledger.admit(lease, 6000, 0)
        refusal = (await ledger.admit(lease, 600, 0)).refusal
        assert refusal is not None
        assert (refusal.subject.name, refusal.bound) == ("slow", "requests_per_minute")
        assert 30 < refusal.wait_s <= 60
    await ledger.close()


async def test_without_redis_requests_are_refused_where_the_file_says_fail(tmp_path: Path, redis: Redis) -> None:
    who = [subject("key", "a", Allowance(requests_per_minute=5))]
    local, ledger = _ledger(redis, tmp_path, "fail")
    [lease] = local.know([who])
    assert (await ledger.admit(lease, 1, 0)).refusal is None
    redis.stop()
    with pytest.raises(LedgerFailed):
        await ledger.admit(lease, 1, 0)
    redis.start()
    await _back(ledger)
    assert (await ledger.admit(lease, 1, 0)).refusal is None
    await ledger.close()


async def test_the_server_says_that_the_limits_cannot_be_looked_up(start: Start, redis: Redis) -> None:
    key = keys("k0").replace('["raw"]', '["raw", "metrics"]')
    more = f'[limits]\nredis_env = "LIMITS"\non_error = "fail"\n[limits.key]\nconcurrent = 9\n{key}'
    served = start(more=more, env={"LIMITS": redis.url})
    async with httpx.AsyncClient(verify=False, base_url=served.url, timeout=10) as http:
        assert (await http.post(PATH, json=chat(), headers=by("k0"))).status_code == 200
        redis.stop()
        answer = await http.post(PATH, json=chat(), headers=by("k0"))
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "limits_unavailable"
        assert "limits: Redis failed" in served.wait_for("limits: Redis failed")
        told = (await http.get("/metrics", headers=by("k0"))).text
        assert "trimtab_limits_local 1.0" in told
        assert re.search(r"^trimtab_limits_failed_total [1-9]", told, re.MULTILINE)
        redis.start()


async def test_a_full_disk_stops_nobody_whom_redis_lets_in(
    tmp_path: Path, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Counts, tags: Sequence[str]) -> dict[str, int]:
        raise OSError(errno.ENOSPC, "No space left on device")

    local, ledger = _ledger(redis, tmp_path)
    [lease] = local.know([[subject("key", "a", Allowance(requests_per_minute=2))]])
    os.truncate(tmp_path / "limits.bin", 0)
    monkeypatch.setattr(Counts, "slots", full)
    for _ in range(2):
        assert (await ledger.admit(lease, 1, 0)).refusal is None
        ledger.release(lease, 0, 0, lease.life)
    assert (await ledger.admit(lease, 1, 0)).refusal is not None
    redis.stop()
    with pytest.raises(LedgerFailed):  # now nobody can say
        await ledger.admit(lease, 1, 0)
    await ledger.close()


async def test_requests_in_flight_and_tokens_reach_redis_and_are_given_back(tmp_path: Path, redis: Redis) -> None:
    who = [subject("key", "a", Allowance(concurrent=2, tokens_per_day=100))]
    local, ledger = _ledger(redis, tmp_path)
    other_local, other = _ledger(redis, tmp_path / "other")
    (lease,), (others,) = local.know([who]), other_local.know([who])
    for _ in range(2):
        assert (await ledger.admit(lease, 10, 0)).refusal is None
    refusal = (await other.admit(others, 10, 0)).refusal
    assert refusal is not None
    assert refusal.bound == "concurrent"
    ledger.release(lease, 0, 0, lease.life)
    ledger.charge(lease, 75)
    await ledger.close()  # hands in what is owed
    refusal = (await other.admit(others, 10, 0)).refusal
    assert refusal is not None
    assert refusal.bound == "tokens_per_day"
    assert (await other.admit(others, 5, 0)).refusal is None
    await other.close()


def _ledger(redis: Redis, folder: Path, on_error: str = "local") -> tuple[LocalLedger, SharedLedger]:
    local = LocalLedger(folder / "limits.bin")
    return local, SharedLedger(redis.url, local, timeout_s=5, on_error=on_error)  # type: ignore[arg-type]


async def _back(ledger: SharedLedger) -> None:
    """Wait out the rest that follows a failure."""
    async with asyncio.timeout(10):
        while not ledger.asks:
            await asyncio.sleep(0.05)
