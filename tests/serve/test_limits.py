"""Limits of keys and tenants: exact over processes, kept over restarts, given back by the dead."""

from __future__ import annotations

import asyncio
import errno
import gzip
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest

from serve.config import Allowance, ConfigError, Flags
from serve.configure.reader import load
from serve.errors import TooMany, Unavailable
from serve.limits import rate
from serve.limits.counts import BYTES, COUNT, SPENT, Counts
from serve.limits.lease import Lease
from serve.limits.limiter import Admission, Limiter, _span
from serve.limits.local import LocalLedger
from serve.limits.subject import Standing, Subject, subject
from serve.limits.turns import Turns
from tests.serve.conftest import Served, Start, chat
from tests.upstream import FakeUpstream

PATH = "/v1/chat/completions"
NAMES = [f"k{i}" for i in range(10)]


def keys(*names: str) -> str:
    rows = (
        f'[[key]]\nid = "{n}"\nsha256 = "{hashlib.sha256(n.encode()).hexdigest()}"\nrights = ["raw"]' for n in names
    )
    return "\n".join(rows)


def explainer(name: str) -> str:
    return keys(name).replace('["raw"]', '["raw", "explain", "metrics"]')


def until(met: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def by(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {name}"}


# ---------------------------------------------------------------- buckets


def test_a_bucket_holds_a_minute_and_refills() -> None:
    tat, allowed = 0.0, []
    for i in range(3000):
        now = 1000 + i * 0.1  # for five minutes ten a second, of sixty a minute
        after, early = rate.take(tat, now, 60, 1)
        allowed.append(not early)
        tat = tat if early else after
    assert all(allowed[:66])  # the first sixty, and what refilled meanwhile
    assert sum(allowed) == pytest.approx(60 + 300, abs=1)


@pytest.mark.parametrize("stored", [float("nan"), float("inf"), -float("inf"), 1e300, -5.0])
def test_a_damaged_bucket_mends_itself(stored: float) -> None:
    tat, _ = rate.take(stored, 1000, 60, 1)
    assert 1000 <= tat <= 1000 + rate.MINUTE + rate.MAX_DEBT_S


@pytest.mark.parametrize("back_s", [1.0, 300.0, 3600.0, 30 * 86400.0])
def test_a_clock_that_is_set_back_closes_nothing_for_long(tmp_path: Path, back_s: float) -> None:
    now = 86400.0 * 20000
    may = Allowance(requests_per_minute=60, tokens_per_minute=6000)
    ledger = Leased(tmp_path / "limits.bin", [subject("key", "a", may)], lambda: now)
    for _ in range(30):
        assert ledger.take(100).refusal is None
    now -= back_s
    standing = ledger.take(100)
    wait = 0.0 if standing.refusal is None else standing.refusal.wait_s
    assert wait <= (back_s if back_s < rate.MAX_DEBT_S else 1.1)
    now += wait
    assert ledger.take(100).refusal is None
    now += 30
    assert sum(ledger.take(1).refusal is None for _ in range(100)) >= 30


def test_a_debt_stays_where_the_clock_trembles() -> None:
    tat, _ = rate.take(1000, 1000, 60, 10**6)
    assert rate.take(tat, 999.5, 60, 1)[1] == pytest.approx(rate.MAX_DEBT_S + 1)


def test_a_request_of_more_than_a_minute_waits_for_a_full_bucket() -> None:
    assert rate.take(1000, 1000, 60, 500)[1] == 0
    assert rate.take(1001, 1000, 60, 500)[1] == pytest.approx(1)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0ms"), (0.0101, "11ms"), (1, "1s"), (1.5, "1.5s"), (360, "6m0s"), (7325, "2h2m5s")]
)
def test_times_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert _span(seconds) == text


class Leased:
    """A ledger, and a lease of these subjects in it."""

    def __init__(self, path: Path, who: list[Subject], now: Callable[[], float] = time.time) -> None:
        self.ledger, self.now = LocalLedger(path, now), now
        self.know(who)

    def know(self, who: list[Subject]) -> None:
        [self.lease] = self.ledger.know([who])

    def take(self, tokens: int, body: int = 0) -> Standing:
        return self.ledger.take(self.lease, tokens, body)

    def at_once(self, tokens: int, body: int) -> Standing | None:
        return self.lease.standing() if self.lease.take(self.now(), tokens, body) else None

    async def admit(self, tokens: int, body: int) -> Standing:
        return await self.ledger.admit(self.lease, tokens, body)

    def charge(self, tokens: int) -> None:
        self.ledger.charge(self.lease, tokens)

    def release(self, tokens: int, body: int, lease: Lease | None = None) -> None:
        lease = lease or self.lease
        self.ledger.release(lease, tokens, body, lease.life)

    def admission(self, tokens: int, body: int = 0) -> Admission:
        """Let a request in."""
        assert self.take(tokens, body).refusal is None
        return Admission(self.ledger, self.lease, self.lease.life, tokens, tokens, body)

    def sweep(self) -> None:
        self.ledger.sweep()


# ---------------------------------------------------------------- one machine

CHILD = """
import asyncio, sys, time
from pathlib import Path
from serve.config import Allowance
from serve.limits.subject import subject
from serve.limits.local import LocalLedger

ledger = LocalLedger(Path(sys.argv[1]))
who = [subject("key", "a", Allowance(requests_per_minute=700)), subject("tenant", "t", Allowance(concurrent=10**6))]
[lease] = ledger.know([who])
print("ready", flush=True)
sys.stdin.readline()
allowed = sum(ledger.take(lease, 1).refusal is None for _ in range(int(sys.argv[2])))
print(allowed, flush=True)
sys.stdin.readline()
"""


def child(path: Path, tries: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), str(tries)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.fixture
def children(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Four processes that count in one file."""
    all_of_them = [child(tmp_path / "limits.bin", 1000) for _ in range(4)]
    yield all_of_them
    for it in all_of_them:
        it.kill()
        it.communicate()


def lines(children: list[subprocess.Popen[str]], order: str = "") -> list[str]:
    for it in children if order else ():
        assert it.stdin is not None
        it.stdin.write(order + "\n")
        it.stdin.flush()
    return [it.stdout.readline().strip() for it in children if it.stdout is not None]


def test_processes_share_one_count_and_the_dead_give_back(
    children: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    assert lines(children) == ["ready"] * 4
    since = time.monotonic()
    allowed = sum(map(int, lines(children, "go")))
    most = 700 + 700 / 60 * (time.monotonic() - since)
    assert 700 <= allowed <= most + 1
    ledger = Leased(tmp_path / "limits.bin", [subject("tenant", "t", Allowance(concurrent=allowed))])
    refusal = ledger.take(1).refusal
    assert refusal is not None
    assert refusal.bound == "concurrent"  # those of the four are in flight
    for it in children:
        it.send_signal(signal.SIGKILL)
        it.wait(10)
    ledger.sweep()
    assert ledger.take(1).refusal is None


def test_a_budget_outlives_a_restart(tmp_path: Path) -> None:
    who = [subject("key", "a", Allowance(tokens_per_day=100))]
    now = 86400.0 * 20000 + 5
    for tokens, fits in ((60, True), (60, False), (40, True), (1, False)):
        ledger = Leased(tmp_path / "limits.bin", who, lambda: now)
        assert (ledger.take(tokens).refusal is None) == fits
    now += 86400
    assert ledger.take(100).refusal is None  # the next day


def test_tokens_that_were_used_count_for_the_next_request_of_any_process(tmp_path: Path) -> None:
    who = [subject("key", "a", Allowance(tokens_per_minute=1000, tokens_per_day=2000))]
    ours, theirs = (Leased(tmp_path / "limits.bin", who, lambda: 1e9) for _ in range(2))
    for ledger in (ours, theirs):
        assert ledger.take(1).refusal is None
    ours.charge(3)  # few: counted with the process's own next question
    assert _left(ours.take(1)) == 1000 - 6
    ours.charge(100)  # many: counted at once
    assert _left(theirs.take(1)) == 1000 - 107
    ours.charge(2)
    ours.sweep()  # or after a moment
    assert _left(theirs.take(1)) == 1000 - 110
    ours.charge(-80)
    assert _left(theirs.take(1)) == 1000 - 31


def _left(standing: Standing) -> int:
    assert standing.tokens is not None
    return standing.tokens.remaining


@pytest.mark.parametrize("damage", [b"", b"junk", b"\0" * 4096, os.urandom(5000)])
def test_a_damaged_file_is_set_aside(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "limits.bin"
    path.write_bytes(damage)
    ledger = Leased(path, [subject("key", "a", Allowance(requests_per_minute=1))])
    assert ledger.take(1).refusal is None
    assert ledger.take(1).refusal is not None
    assert bool(list(tmp_path.glob("limits.bin.damaged-*"))) == bool(damage)


def unlink(path: Path) -> None:
    path.unlink()


def replace_by(content: bytes) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        other = path.with_suffix(".other")
        other.write_bytes(content)
        other.rename(path)

    return replace


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (unlink, "limits.bin"), (unlink, "limits.lock"), (replace_by(b""), "limits.bin"),
        (replace_by(b"x" * 900), "limits.bin"),
    ],
)  # fmt: skip
def test_a_file_that_is_deleted_or_replaced_in_use_is_begun_anew_for_all(
    tmp_path: Path, damage: Callable[[Path], None], name: str
) -> None:
    """Else a worker that is started again would count in another file than the others do."""
    path = tmp_path / "limits.bin"
    ledger = Leased(path, [subject("key", "a", Allowance(requests_per_minute=700))])
    assert ledger.take(1).refusal is None
    damage(tmp_path / name)
    ledger.sweep()
    since = time.monotonic()
    assert sum(ledger.take(1).refusal is None for _ in range(300)) == 300
    ledger.release(0, 0)
    with child(path, 1000) as other:
        assert lines([other]) == ["ready"]
        (allowed,) = lines([other], "go")
        other.kill()
    assert 398 <= int(allowed) <= 401 + 700 / 60 * (time.monotonic() - since)


@pytest.mark.parametrize("left", [0, 700])
def test_a_file_that_is_cut_in_use_ends_no_process(tmp_path: Path, left: int) -> None:
    """A look behind the end of a mapped file is a SIGBUS."""
    path = tmp_path / "limits.bin"
    may = Allowance(requests_per_minute=100, concurrent=2, body_mb=1.0)
    ledger = Leased(path, [subject("key", "a", may)])
    for act in (lambda: ledger.take(1, 10), lambda: ledger.release(0, 10), lambda: ledger.charge(9), ledger.sweep):
        ledger.take(1, 10)
        os.truncate(path, left)
        act()
        assert any(ledger.take(1).refusal is not None for _ in range(4))  # two at once
        for _ in range(3):
            ledger.release(0, 0)
    assert ledger.take(1).refusal is None


def test_who_shares_a_file_that_was_cut_shares_the_next(tmp_path: Path) -> None:
    path = tmp_path / "limits.bin"
    names = [subject("key", name, Allowance(requests_per_minute=10)) for name in "ba"]
    with child(path, 1000) as other:  # counts a key "a", and a tenant
        assert lines([other]) == ["ready"]
        since = time.monotonic()
        ledger = LocalLedger(path)
        b, a = ledger.know([[name] for name in names])
        os.truncate(path, 0)
        for lease in (b, a):
            assert ledger.take(lease, 1).refusal is None  # the first makes another file
        (allowed,) = lines([other], "go")
        assert 629 <= int(allowed) <= 631 + 700 / 60 * (time.monotonic() - since)  # one of ten a minute is 70 of 700
        refusals = [ledger.take(lease, 1).refusal for lease in (b, a)]
        other.kill()
    assert [refusal is None for refusal in refusals] == [True, False]  # of "a" the other has taken 700


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has the disk be full for the next call of this method of the counts."""

    def full(name: str) -> None:
        whole = getattr(Counts, name)

        def fail(self: Counts, *args: Any) -> Any:
            monkeypatch.setattr(Counts, name, whole)
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Counts, name, fail)

    return full


ACTS: dict[str, Callable[[Leased], object]] = {
    "charge": lambda ledger: ledger.charge(10**4),
    "release": lambda ledger: ledger.release(0, 10),
    "less": lambda ledger: ledger.ledger.hold(ledger.lease, 10, 0, ledger.lease.life),
    "sweep": lambda ledger: ledger.sweep(),
}


@pytest.mark.parametrize("name", ["slots", "_claim"])
@pytest.mark.parametrize("act", ACTS)
def test_a_full_disk_ends_nothing_and_the_next_try_counts_in_the_new_file(
    tmp_path: Path, full: Callable[[str], None], name: str, act: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "limits.bin"
    may = Allowance(requests_per_minute=3, tokens_per_minute=10**5, concurrent=50, body_mb=1.0)
    ledger = Leased(path, [subject("key", "a", may), subject("tenant", "t", may)], lambda: 1e9)
    assert ledger.take(1, 10).refusal is None
    os.truncate(path, 0)
    full(name)
    open_files = len(os.listdir("/proc/self/fd"))
    ACTS[act](ledger)
    assert caplog.text.count("limits cannot be counted") == 1
    assert len(os.listdir("/proc/self/fd")) <= open_files
    ledger.sweep()
    assert [ledger.take(1).refusal is None for _ in range(4)] == [True, True, True, False]


def test_a_body_that_grows_while_nobody_can_count_is_a_503(tmp_path: Path, full: Callable[[str], None]) -> None:
    path = tmp_path / "limits.bin"
    ledger = Leased(path, [subject("key", "a", Allowance(body_mb=1.0))])
    admission = ledger.admission(1, 10)
    os.truncate(path, 0)
    full("slots")
    with pytest.raises(Unavailable, match="cannot be looked up"):
        admission.grow(1000)
    admission.leave(None, served=True)
    assert ledger.take(1, 2**20).refusal is None


@pytest.mark.parametrize("left", [0, 700])
def test_a_reload_with_a_file_that_was_cut_begins_another(
    tmp_path: Path, full: Callable[[str], None], left: int
) -> None:
    path = tmp_path / "limits.bin"
    who = [subject("key", "a", Allowance(requests_per_minute=2))]
    ledger = Leased(path, who, lambda: 1e9)
    os.truncate(path, left)
    full("slots")
    with pytest.raises(OSError, match="No space"):
        ledger.know([*who, subject("tenant", "t", Allowance(requests_per_minute=2))])
    ledger.know([*who, subject("tenant", "t", Allowance(requests_per_minute=2))])
    assert [ledger.take(1).refusal is None for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("leased", [False, True])
async def test_what_a_lost_file_counted_is_not_given_back_to_the_next(tmp_path: Path, leased: bool) -> None:
    path = tmp_path / "limits.bin"
    may = Allowance(concurrent=1000, body_mb=1000.0, tokens_per_day=10**6)
    ledger = Leased(path, [subject("key", "a", may)], lambda: 1e9)
    before = [ledger.admission(1000, 2**20) for _ in range(30)]
    path.unlink()
    ledger.sweep()
    if leased:
        assert (await ledger.admit(0, 0)).refusal is None  # and with it a lease
    now = [ledger.admission(1000, 2**20) for _ in range(20)]
    for admission in before:
        admission.grow(100)
        admission.leave(None, served=False)
    ledger.sweep()
    ints, at, column = ledger.ledger._counts.ints, ledger.lease.places[0], ledger.ledger._counts.column
    assert ints[at + COUNT + column] == 20 + leased
    assert ints[at + BYTES + column] == 20 * 2**20
    assert ints[at + SPENT] == 20 * 1000
    for admission in now:
        admission.leave(None, served=False)
    ledger.sweep()
    assert (ints[at + COUNT + column], ints[at + BYTES + column], ints[at + SPENT]) == (leased, 0, 0)


def test_a_refused_request_counts_for_neither_key_nor_tenant(tmp_path: Path) -> None:
    ledger = LocalLedger(tmp_path / "limits.bin")
    key, tenant = Allowance(requests_per_minute=10), Allowance(requests_per_minute=1)
    subjects = [subject("key", "a", key), subject("tenant", "t", tenant)]
    both, one = ledger.know([subjects, subjects[:1]])
    assert ledger.take(both, 1).refusal is None
    for _ in range(20):
        assert ledger.take(both, 1).refusal is not None
    assert all(ledger.take(one, 1).refusal is None for _ in range(9))


@pytest.mark.parametrize("limits", [{"requests_per_minute": 9}, {}])
def test_what_is_left_is_never_said_to_be_below_zero(tmp_path: Path, limits: dict[str, int]) -> None:
    ledger = LocalLedger(tmp_path / "limits.bin")
    [lease] = ledger.know([[subject("key", "a", Allowance(tokens_per_minute=1000, **limits))]])
    assert ledger.take(lease, 1).refusal is None
    ledger.charge(lease, 100_000)  # an answer of a hundred minutes' tokens
    headers = Admission(ledger, lease, lease.life, 1, 1, 0).lines()
    assert b"x-ratelimit-remaining-tokens: 0\r\n" in headers
    assert re.search(rb"remaining-requests: [78]\r", headers) or not limits
    assert b": -" not in headers


@pytest.mark.parametrize("first", [True, False])
def test_of_several_limits_the_one_that_lasts_longest_says_when_to_come_again(tmp_path: Path, first: bool) -> None:
    """Whoever came back after the shorter wait would be refused again."""
    ledger = LocalLedger(tmp_path / "limits.bin", lambda: 1e9)
    slow = subject("key", "slow", Allowance(requests_per_minute=1, tokens_per_minute=6000))
    fast = subject("tenant", "fast", Allowance(requests_per_minute=60))
    [lease] = ledger.know([[slow, fast] if first else [fast, slow]])
    assert ledger.take(lease, 6000).refusal is None
    for _ in range(60):
        ledger.take(ledger.know([[fast]])[0], 1)
    refusal = ledger.take(lease, 10).refusal  # of tokens and of the tenant's there are enough in a second
    assert refusal is not None
    assert (refusal.subject.name, refusal.bound) == ("slow", "requests_per_minute")
    assert refusal.wait_s == pytest.approx(60)


def test_a_refusal_leaves_what_is_known_of_the_buckets(tmp_path: Path) -> None:
    ledger = LocalLedger(tmp_path / "limits.bin")
    one, other = (Allowance(tokens_per_minute=most) for most in (10, 1000))
    [lease] = ledger.know([[subject("key", "a", one), subject("tenant", "t", other)]])
    assert ledger.take(lease, 5).refusal is None
    before = lease.standing()
    assert ledger.take(lease, 9).refusal is not None
    assert lease.standing() == before


# ---------------------------------------------------------------- leases


def _ledgers(path: Path, may: Allowance, count: int = 2) -> tuple[list[Leased], list[float]]:
    """A key and a tenant of the same allowance, ledgers on one file, and the time in a list."""
    who = [subject("key", "a", may), subject("tenant", "t", may)]
    now = [86400.0 * 20000]
    return [Leased(path, who, lambda: now[0]) for _ in range(count)], now


async def _ask(ledger: Leased, tokens: int = 1, body: int = 0) -> Standing:
    return ledger.at_once(tokens, body) or await ledger.admit(tokens, body)


async def test_leases_allow_what_is_configured_and_no_request_more(tmp_path: Path) -> None:
    ledgers, _ = _ledgers(tmp_path / "limits.bin", Allowance(requests_per_minute=1000, tokens_per_day=10**6))
    shown = [1000]
    for i in range(1000):
        standing = await _ask(ledgers[i * 7 // 10 % 2])
        assert standing.refusal is None
        assert standing.requests is not None
        shown.append(standing.requests.remaining)
    assert shown[1000] == 0
    assert max(abs(1000 - i - left) for i, left in enumerate(shown)) <= 10  # what the other process has leased
    for ledger in ledgers:
        assert (await _ask(ledger)).refusal is not None


async def test_most_requests_ask_nothing_and_what_is_left_goes_back(tmp_path: Path) -> None:
    may = Allowance(10**5, 10**7, 10**8, 10**4, 100)
    (one, other), now = _ledgers(tmp_path / "limits.bin", may)
    asked = 0
    for _ in range(500):
        asked += one.at_once(20, 100) is None and (await one.admit(20, 100)).refusal is None
        one.release(30, 100)  # fifty tokens in all
    assert asked < 10
    for ledger in (one, other):
        ledger.sweep()
    standing = other.take(20, 100)
    assert standing.requests is not None
    assert standing.requests.remaining == pytest.approx(10**5 - 501, abs=1)  # the clock's grain
    assert _left(standing) == pytest.approx(10**7 - 500 * 50 - 20, abs=1)
    other.release(-20, 100)
    assert other.at_once(1, 0) is None  # nothing is leased after a sweep
    await one.admit(1, 0)
    now[0] += 1
    assert one.at_once(1, 0) is None  # nor for long


@pytest.mark.parametrize("may", [Allowance(concurrent=1000), Allowance(body_mb=1000.0)])
async def test_requests_and_bytes_at_once_are_exact_beside_leases(tmp_path: Path, may: Allowance) -> None:
    (one, other), _ = _ledgers(tmp_path / "limits.bin", may)
    size = 2**20
    for _ in range(600):
        assert (await _ask(one, 1, size)).refusal is None
    for _ in range(300):
        assert (await _ask(other, 1, size)).refusal is None
    for _ in range(600):
        one.release(0, size)
    one.sweep()
    for _ in range(700):
        assert (await _ask(other, 1, size)).refusal is None
    assert (await _ask(other, 1, size)).refusal is not None
    assert (await _ask(one, 1, size)).refusal is not None
    other.release(0, size)
    assert (await _ask(one, 1, size)).refusal is None


async def test_keys_of_one_tenant_lease_no_more_than_a_hundredth_together(tmp_path: Path) -> None:
    tenant = subject("tenant", "t", Allowance(concurrent=10_000, requests_per_minute=10_000))
    ours, theirs = (LocalLedger(tmp_path / "limits.bin", lambda: 1e9) for _ in range(2))
    names = [subject("key", name, Allowance(tokens_per_day=10**6)) for name in "abcde"]
    for lease in ours.know([[name, tenant] for name in names]):
        assert (await ours.admit(lease, 1, 0)).refusal is None
        assert lease.slots > 0
    [lease] = theirs.know([[tenant]])
    standing = theirs.take(lease, 1)
    assert standing.requests is not None
    assert 10_000 - 100 - 6 <= standing.requests.remaining < 10_000 - 6


async def test_a_sweep_gives_back_the_whole_lease(tmp_path: Path) -> None:
    (one, other), _ = _ledgers(tmp_path / "limits.bin", Allowance(tokens_per_day=100_000))
    assert (await one.admit(10, 0)).refusal is None
    assert other.take(100_000 - 10 - 1000).refusal is None
    one.sweep()
    assert other.take(1000).refusal is None
    assert other.take(1).refusal is not None


LEASED = """
import asyncio, sys
from pathlib import Path
from serve.config import Allowance
from serve.limits.subject import subject
from serve.limits.local import LocalLedger

may = Allowance(tokens_per_day=100_000, concurrent=1000)
ledger = LocalLedger(Path(sys.argv[1]), lambda: 86400.0 * 20000)
who = [subject("key", "a", may), subject("tenant", "t", may)]
[lease] = ledger.know([who])
asyncio.run(ledger.admit(lease, 10, 0))
print(lease.take(86400.0 * 20000, 10, 0), flush=True)
sys.stdin.readline()
"""


def test_a_killed_process_costs_no_more_than_its_lease(tmp_path: Path) -> None:
    """Of requests in flight only until the sweep; of tokens until they would have been free again."""
    (ours,), now = _ledgers(tmp_path / "limits.bin", Allowance(tokens_per_day=100_000, concurrent=1000), 1)
    argv = [sys.executable, "-c", LEASED, str(tmp_path / "limits.bin")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"  # its second request came from a lease
        process.send_signal(signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL

    def in_flight() -> int:
        return sum(iter(lambda: ours.take(0).refusal is None, False))

    before = in_flight()
    assert 1000 - 2 - 10 <= before < 1000 - 2  # two requests, and what was leased for more
    ours.sweep()
    assert before + in_flight() == 1000
    for _ in range(1000):
        ours.release(0, 0)
    assert ours.take(100_000 - 20 - 1000).refusal is None
    assert ours.take(1000).refusal is not None
    now[0] += 86400
    assert ours.take(100_000).refusal is None


async def test_a_reload_keeps_what_was_used_of_a_lease(tmp_path: Path) -> None:
    (one, _), _ = _ledgers(tmp_path / "limits.bin", Allowance(requests_per_minute=6000, concurrent=1000))
    for _ in range(20):
        assert (await _ask(one)).refusal is None
    changed = [subject("key", "a", Allowance(requests_per_minute=6000, concurrent=25)), one.lease.subjects[1]]
    before = one.lease
    one.know(changed)
    for _ in range(5):
        standing = await _ask(one)
        assert standing.refusal is None
    refusal = (await _ask(one)).refusal
    assert refusal is not None
    assert refusal.bound == "concurrent"
    assert standing.requests is not None
    assert standing.requests.remaining == 6000 - 25
    for _ in range(25):
        one.release(0, 0, before)
    assert (await _ask(one)).refusal is None


# ---------------------------------------------------------------- the server


async def test_ten_keys_over_two_workers_get_what_is_configured(start: Start) -> None:
    served = start("--workers", "2", more=f"[limits.key]\nrequests_per_minute = 200\n{keys(*NAMES)}")
    counts, since = await flood([served], 4000)
    assert_allowed(counts, 200, since)


async def flood(servers: list[Served], requests: int) -> tuple[Counter[tuple[str, int]], float]:
    """Send requests of all keys to all servers; (key, status) counted, and how long it took."""
    counts: Counter[tuple[str, int]] = Counter()
    waiting = iter(range(requests))
    since = time.monotonic()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)) as http:

        async def ask() -> None:
            for at in waiting:
                name, url = NAMES[at % 10], servers[at // 10 % len(servers)].url + PATH
                async with http.post(url, json=chat(), headers=by(name)) as answer:
                    await answer.read()
                    counts[name, answer.status] += 1

        await asyncio.gather(*(ask() for _ in range(20)))
    return counts, time.monotonic() - since


def assert_allowed(counts: Counter[tuple[str, int]], limit: int, took_s: float) -> None:
    """Within one in a hundred of a minute's worth and what refilled."""
    assert {status for _, status in counts} == {200, 429}
    for name in NAMES:
        assert counts[name, 429], "the flood was no flood"
        least, most = (limit + limit / 60 * max(0, s) for s in (took_s - 2, took_s))
        assert least * 0.99 - 1 <= counts[name, 200] <= most * 1.01 + 1


async def test_a_refusal_says_when_to_come_again(start: Start) -> None:
    served = start(
        more=f"[limits.keys.k0]\nrequests_per_minute = 2\n[limits.tenant]\ntokens_per_minute = 5000\n{keys('k0', 'k1')}"
    )
    async with httpx.AsyncClient(verify=False, base_url=served.url, timeout=10) as http:
        for left in (1, 0):
            answer = await http.post(PATH, json=chat(), headers=by("k0"))
            assert answer.status_code == 200
            assert answer.headers["x-ratelimit-limit-requests"] == "2"
            assert answer.headers["x-ratelimit-remaining-requests"] == str(left)
            assert answer.headers["x-ratelimit-limit-tokens"] == "5000"
            assert "x-ratelimit-remaining-tokens" in answer.headers
            assert answer.headers["x-ratelimit-reset-tokens"].endswith("s")
        answer = await http.post(PATH, json=chat(), headers=by("k0"))
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["retry-after"]) <= 30
        assert answer.headers["x-ratelimit-remaining-requests"] == "0"
        error = answer.json()["error"]
        assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
        assert "the key 'k0' has reached its limit of 2 requests per minute" in error["message"]
        assert (await http.post(PATH, json=chat(), headers=by("k1"))).status_code == 200


async def test_tokens_a_minute_are_limited_and_metrics_count_the_refusals(start: Start) -> None:
    key = keys("k0", "k1").replace('["raw"]', '["raw", "metrics"]')
    served = start(more=f"[limits.keys.k0]\ntokens_per_minute = 100\n{key}")
    async with httpx.AsyncClient(verify=False, base_url=served.url, timeout=20) as http:
        used, since = 0, time.monotonic()
        while (answer := await http.post(PATH, json=chat(), headers=by("k0"))).status_code == 200:
            used += answer.json()["usage"]["total_tokens"]
            assert used <= 120 * (1 + (time.monotonic() - since) / 60)  # the estimate of a body is 18
        refused = answer
        assert used > 80
        assert refused.status_code == 429
        assert refused.json()["error"]["type"] == "tokens"
        assert refused.headers["x-ratelimit-limit-tokens"] == "100"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert (await http.post(PATH, json=chat(), headers=by("k1"))).status_code == 200
        told = (await http.get("/metrics", headers=by("k1"))).text
    assert 'trimtab_limited_total{limit="tokens_per_minute",scope="key"} 1.0' in told


async def test_a_flood_of_large_bodies_waits_in_turns_and_others_chat_meanwhile(start: Start) -> None:
    key = keys("k0", "k1").replace('["raw"]', '["raw", "metrics"]')
    config = 'state_dir = "{state}"\n[server]\nlarge_bodies_mb = 30\n[engine.main]\nurl = "{url}"\n'
    served = start(file=config + key)
    large = chat("x" * 26_000_000, model="slow_first")
    depth = re.compile(r"^trimtab_queue_depth (\S+)$", re.MULTILINE)
    async with httpx.AsyncClient(verify=False, base_url=served.url, timeout=60) as http:
        flood = [asyncio.create_task(http.post(PATH, json=large, headers=by("k0"))) for _ in range(8)]
        waiting, statuses = [0.0], []
        while not all(it.done() for it in flood):
            statuses.append((await http.post(PATH, json=chat(), headers=by("k1"))).status_code)
            found = depth.search((await http.get("/metrics", headers=by("k1"))).text)
            assert found is not None
            waiting.append(float(found[1]))
        assert {(await it).status_code for it in flood} == {200}
    assert set(statuses) == {200}
    assert 0 < max(waiting) < 8


async def test_an_explanation_is_a_request_too(start: Start) -> None:
    served = start(more=f"[limits.key]\nrequests_per_minute = 2\n{explainer('k0')}")
    async with httpx.AsyncClient(verify=False, base_url=served.url, timeout=20) as http:
        statuses = [(await http.post("/v1/explain", json=chat(), headers=by("k0"))).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]


async def test_what_the_engine_counted_takes_the_place_of_the_estimate(start: Start) -> None:
    served = start(more=f"[limits.tenants.k0]\ntokens_per_day = 100\n{keys('k0')}")
    async with httpx.AsyncClient(verify=False, base_url=served.url, timeout=10) as http:
        used = 0
        while (answer := await http.post(PATH, json=chat(), headers=by("k0"))).status_code == 200:
            usage = answer.json()["usage"]
            used += usage["prompt_tokens"] + usage["completion_tokens"]
            assert used <= 200
        assert answer.status_code == 429
        assert answer.json()["error"]["code"] == "insufficient_quota"
        assert int(answer.headers["retry-after"]) <= 86400
        assert used + 20 > 100  # nearly all of it could be used: the estimate of a body is 18 tokens


async def test_requests_at_once_are_limited_and_given_back(start: Start) -> None:
    served = start(more=f"[limits.key]\nconcurrent = 2\n{keys('k0')}")
    async with httpx.AsyncClient(verify=False, base_url=served.url, timeout=20) as http:
        slow = [asyncio.create_task(http.post(PATH, json=chat(model="slow_first"), headers=by("k0"))) for _ in range(6)]
        statuses = Counter([(await it).status_code for it in slow])
        assert statuses == {200: 2, 429: 4}
        assert (await http.post(PATH, json=chat(), headers=by("k0"))).status_code == 200


async def test_bytes_at_once_are_limited_with_and_without_a_length(start: Start) -> None:
    served = start(more=f"[limits.key]\nbody_mb = 0.1\n{keys('k0')}")
    async with httpx.AsyncClient(verify=False, base_url=served.url, timeout=20) as http:
        small, large = chat("x" * 50_000), chat("x" * 150_000)

        async def pieces(text: bytes) -> Any:
            for at in range(0, len(text), 30_000):
                yield text[at : at + 30_000]

        for body, status in ((small, 200), (large, 429), (small, 200)):
            answer = await http.post(PATH, json=body, headers=by("k0"))
            assert answer.status_code == status
            text = json.dumps(body).encode()
            headers = {**by("k0"), "content-type": "application/json"}
            answer = await http.post(PATH, content=pieces(text), headers=headers)
            assert answer.status_code == status


async def test_a_compressed_body_is_as_large_as_it_becomes(start: Start) -> None:
    served = start(more=f"[limits.key]\nbody_mb = 0.1\n{explainer('k0')}", server="trace_content = false")
    large = gzip.compress(json.dumps(chat("x" * 500_000)).encode())
    headers = {**by("k0"), "content-type": "application/json", "content-encoding": "gzip"}
    async with httpx.AsyncClient(verify=False, base_url=served.url, timeout=20) as http:
        for path in (PATH, "/v1/explain"):
            for _ in range(2):
                answer = await http.post(path, content=large, headers=headers)
                assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limit_exceeded")
            small = gzip.compress(json.dumps(chat("x" * 50_000)).encode())
            assert (await http.post(path, content=small, headers=headers)).status_code == 200


async def test_a_control_calls_body_without_a_length_is_held_as_it_comes(start: Start) -> None:
    served = start(more=f"[limits.key]\nbody_mb = 0.1\n{explainer('k0')}")

    async def pieces() -> Any:
        for _ in range(20):
            yield b" " * 30_000

    async with httpx.AsyncClient(verify=False, base_url=served.url, timeout=20) as http:
        headers = {**by("k0"), "content-type": "application/json"}
        assert (await http.post("/v1/explain", content=pieces(), headers=headers)).status_code == 429
        assert (await http.post("/v1/explain", json=chat(), headers=by("k0"))).status_code == 200


async def test_who_leaves_before_the_answer_has_used_the_prompt(start: Start, upstream: FakeUpstream) -> None:
    served = start(more=f"[limits.key]\ntokens_per_day = 19000\n{explainer('k0')}")
    body = json.dumps(chat("x" * 40_000, model="slow-headers-60")).encode()  # estimated at 10,000 tokens
    before = len(upstream.posts)
    _, writer = await asyncio.open_connection(*served.url.removeprefix("http://").split(":"))
    head = b"POST %s HTTP/1.1\r\nhost: x\r\nauthorization: Bearer k0\r\ncontent-type: application/json\r\n"
    writer.write(head % PATH.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)
    await asyncio.to_thread(until, lambda: len(upstream.posts) > before)
    writer.close()
    async with httpx.AsyncClient(verify=False, base_url=served.url, timeout=20) as http:
        metrics = served.url + "/metrics"
        await asyncio.to_thread(until, lambda: '"499"' in httpx.get(metrics, headers=by("k0"), timeout=60).text)
        answer = await http.post(PATH, json=chat("x" * 40_000), headers=by("k0"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "insufficient_quota")


async def test_a_stream_is_charged_while_it_runs(start: Start) -> None:
    served = start(more=f"[limits.key]\ntokens_per_day = 10000\n{keys('k0')}")
    ledger_file = served.config.parent / "state" / "limits.bin"
    async with httpx.AsyncClient(verify=False, base_url=served.url, timeout=20) as http:
        answer = await http.post(PATH, json=chat(stream=True), headers=by("k0"))
        assert answer.status_code == 200
        assert "x-trimtab-trace" in answer.headers
    assert ledger_file.is_file()


def test_limits_of_unknown_keys_and_below_zero_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "trimtab.toml"
    for text, words in (
        ("[limits.keys.nobody]\nconcurrent = 1", "limits.keys.nobody: unknown; valid are k0"),
        ("[limits.key]\nconcurrent = -1", "must not be negative"),
        ("[limits.key]\nrequests = 1", "unknown; valid are requests_per_minute"),
        ('[limits]\nredis_env = "NO_SUCH"', "the environment has no NO_SUCH"),
        ('[limits]\non_error = "hope"', "valid are 'local', 'fail'"),
    ):
        path.write_text(f"{text}\n{keys('k0')}")
        with pytest.raises(ConfigError, match=words):
            load(Flags(config=str(path), upstream="http://x"), {})
    path.write_text(f"[limits.key]\nconcurrent = 3\n[limits.keys.k0]\nrequests_per_minute = 5\n{keys('k0')}")
    limits = load(Flags(config=str(path), upstream="http://x"), {}).limits
    assert limits.on
    assert limits.keys["k0"] == Allowance(requests_per_minute=5, concurrent=3)


async def test_the_tokens_of_a_request_that_failed_are_given_back(tmp_path: Path) -> None:
    path = tmp_path / "trimtab.toml"
    path.write_text(f"[limits.key]\ntokens_per_day = 100\nrequests_per_minute = 100\n{keys('k0')}")
    config = load(Flags(config=str(path), upstream="http://x"), {})
    limiter = Limiter(config.limits, config.keys, LocalLedger(tmp_path / "limits.bin"))
    for _ in range(10):
        admission = await limiter.enter("k0", "k0", 360)
        assert admission is not None
        admission.leave(None, served=False)
    admission = await limiter.enter("k0", "k0", 360)
    assert admission is not None
    admission.leave({"prompt_tokens": 50, "completion_tokens": 10}, served=True)
    with pytest.raises(TooMany):
        await limiter.enter("k0", "k0", 360)  # 60 and 90 are more than 100
    admission = await limiter.enter("k0", "k0", 40)
    assert admission is not None
    admission.count(50)  # a stream, as it comes
    with pytest.raises(TooMany):
        await limiter.enter("k0", "k0", 4)


# ---------------------------------------------------------------- turns


async def test_the_next_turn_goes_to_the_key_that_holds_least() -> None:
    turns, order = Turns(100), []

    async def one(key: str) -> None:
        await turns.take(key, 40)
        order.append(key)

    flood = [asyncio.create_task(one("b")) for _ in range(8)]
    await asyncio.sleep(0)
    assert order == ["b", "b"]
    late = asyncio.create_task(one("a"))
    await asyncio.sleep(0)
    turns.give("b", 40)
    await late
    assert order == ["b", "b", "a"]
    flood[3].cancel()  # one who leaves while waiting
    for key in ("a", *"bbbbbbb"):
        turns.give(key, 40)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert order.count("b") == 7
    await asyncio.gather(*flood, return_exceptions=True)


async def test_a_body_larger_than_all_room_goes_alone_and_who_waits_too_long_is_told() -> None:
    turns = Turns(100, patience_s=0.01)
    await turns.take("a", 500)
    with pytest.raises(Unavailable, match="too many large requests"):
        await turns.take("b", 10)
    turns.give("a", 500)
    await turns.take("b", 10)


async def test_every_path_below_v1_counts(start: Start) -> None:
    """Before its body, and whatever it asks for; what watches the server does not."""
    key = keys("k0").replace('["raw"]', '["raw", "metrics", "principles", "traces"]')
    served = start(more=f'[index.law]\nembedder = "none"\n[limits.key]\nrequests_per_minute = 5\n{key}')
    asked = [
        ("GET", "/v1/models"), ("GET", "/v1/key"), ("GET", "/v1/traces"), ("POST", "/v1/principles/search"),
        ("GET", "/v1/principles"), ("POST", "/v1/principles"), ("GET", "/v1/policies"),
        ("POST", "/v1/chat/completions"),
    ]  # fmt: skip
    async with httpx.AsyncClient(verify=False, base_url=served.url, timeout=20) as http:
        answers = [await http.request(how, path, headers=by("k0"), json=chat()) for how, path in asked]
        assert [answer.status_code == 429 for answer in answers] == [False] * 5 + [True] * 3
        assert "retry-after" in answers[5].headers
        assert (await http.get("/metrics", headers=by("k0"))).status_code == 200
