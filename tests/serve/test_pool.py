"""Several engines behind one name: three recording fakes, one of which goes away."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import resource
import signal
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, suppress
from email.utils import formatdate
from typing import Any

import httpx
import pytest

from serve.engine import health as checks
from serve.engine import member as members
from serve.engine import pool as pools
from serve.engine.budget import retry_after
from serve.engine.member import Member
from serve.engine.pool import Down, Pool
from serve.engine.relay import Relay
from serve.engine.upstream import Died, Refused, TimedOut, Upstream, UpstreamError
from tests.serve.conftest import SECRETS, Start, chat, events
from tests.upstream import FakeUpstream, Recorded

PATH = "/v1/chat/completions"


@pytest.fixture
def engines() -> Iterator[list[FakeUpstream]]:
    with ExitStack() as stack:
        yield [stack.enter_context(FakeUpstream()) for _ in range(3)]


@pytest.fixture
async def relay() -> AsyncIterator[Relay]:
    async for client in relaying(timeout_s=5):
        yield client


@pytest.fixture
async def hasty() -> AsyncIterator[Relay]:
    async for client in relaying(timeout_s=0.5):
        yield client


async def relaying(*, timeout_s: float) -> AsyncIterator[Relay]:
    client = Relay(connect_s=2, timeout_s=timeout_s)
    yield client
    await client.close()
    if others := asyncio.all_tasks() - {asyncio.current_task()}:  # the bare servers' ends of the connections
        await asyncio.wait(others, timeout=5)


@pytest.fixture
def nobody() -> Iterator[str]:
    """The URL of a port that is taken, and where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def pool_of(*urls: str, affinity: int = 8, told: list[Any] | None = None, **more: Any) -> Pool:
    return Pool("many", urls, affinity, (told if told is not None else []).append, **more)


async def post(pool: Pool, relay: Relay, model: str = "echo", prefix: str = "", tag: str = "") -> Upstream:
    body = json.dumps(chat(tag or "hello", model, stream=True)).encode()
    return await pool.post(relay, PATH, {"content-type": "application/json"}, body, prefix)


async def ask(pool: Pool, relay: Relay, model: str = "echo", prefix: str = "", tag: str = "") -> int:
    """The status of an answer, which is read to its end."""
    upstream = await post(pool, relay, model, prefix, tag)
    await upstream.read(10**6)
    return upstream.status


async def checked(pool: Pool, relay: Relay) -> None:
    pool.check(relay)
    await settled(pool)


async def settled(pool: Pool) -> None:
    """Until no member is being asked how it is."""
    await asyncio.gather(*(m.checking for m in pool.members if m.checking is not None))


def posts(engine: FakeUpstream) -> list[Recorded]:
    return [record for record in engine.requests if record.method == "POST"]


def served(engines: list[FakeUpstream]) -> list[int]:
    return [len(posts(engine)) for engine in engines]


def states(pool: Pool) -> list[str]:
    return [member.state for member in pool.members]


def total(counter: Any, member: Member) -> float:
    return float(counter.labels("many", member.url)._value.get())


# ---------------------------------------------------------------- choosing


async def test_a_request_goes_where_the_fewest_are_pending(engines: list[FakeUpstream], relay: Relay) -> None:
    pool = pool_of(*(engine.url for engine in engines))
    held = [await post(pool, relay, "slow-stream-2-60000") for _ in range(6)]
    assert served(engines) == [2, 2, 2]
    assert [member.pending for member in pool.members] == [2, 2, 2]
    held[0].abort()
    free = next(m for m in pool.members if m.pending == 1)
    assert await ask(pool, relay) == 200
    assert posts(engines[pool.members.index(free)])[-1].model == "echo"
    for upstream in held[1:]:
        upstream.abort()
        upstream.abort()  # which counts once
    assert [member.pending for member in pool.members] == [0, 0, 0]


async def test_idle_engines_take_turns(engines: list[FakeUpstream], relay: Relay) -> None:
    pool = pool_of(*(engine.url for engine in engines))
    for _ in range(9):
        await ask(pool, relay)
    assert served(engines) == [3, 3, 3]


async def test_a_prefix_stays_with_its_engine_until_that_is_too_busy(engines: list[FakeUpstream], relay: Relay) -> None:
    pool = pool_of(*(engine.url for engine in engines), affinity=2)
    for _ in range(5):
        await ask(pool, relay, prefix="digest")
    assert sorted(served(engines)) == [0, 0, 5]
    home = served(engines).index(5)
    held = [await post(pool, relay, "slow-stream-2-60000", prefix="digest") for _ in range(4)]
    assert pool.members[home].pending == 3  # two more than the idle ones, and then one
    assert sorted(member.pending for member in pool.members) == [0, 1, 3]
    for upstream in held:
        upstream.abort()


def test_the_loss_of_an_engine_moves_only_its_own_prefixes_and_all_processes_agree() -> None:
    urls = [f"http://engine-{n}" for n in range(3)]
    one, other = pool_of(*urls), pool_of(*reversed(urls))
    prefixes = [f"digest-{n}" for n in range(60)]

    def homes(pool: Pool) -> list[str]:
        chosen = [pool.choose(prefix) for prefix in prefixes]
        return [member.url for member in chosen if member is not None]

    before = homes(one)
    assert before == homes(other)
    assert set(before) == set(urls)
    one.members[0].state = "ejected"
    after = homes(one)
    assert urls[0] not in after
    assert [b for b in before if b != urls[0]] == [a for b, a in zip(before, after, strict=True) if b != urls[0]]


# ---------------------------------------------------------------- going and coming back


async def test_who_refuses_is_ejected_and_the_request_goes_on(
    engines: list[FakeUpstream], relay: Relay, nobody: str
) -> None:
    told: list[Any] = []
    pool = pool_of(nobody, engines[0].url, told=told)
    assert [await ask(pool, relay) for _ in range(4)] == [200] * 4
    assert (states(pool), served(engines)) == (["ejected", "unknown"], [4, 0, 0])
    dead, alive = pool.members
    assert (dead.pending, dead.reason) == (0, "The engine cannot be reached.")
    assert (total(pools.metrics.ejections, dead), total(pools.metrics.retries, alive)) == (1, 1)
    assert told[-1] == {"state": "unknown", "url": alive.url}


async def test_all_gone_is_said_and_is_not_for_ever(relay: Relay, nobody: str) -> None:
    told: list[Any] = []
    pool = pool_of(nobody, nobody.replace("127.0.0.1", "localhost"), told=told)
    for _ in range(2):
        with pytest.raises(Down, match="None of its URLs"):
            await ask(pool, relay)
    assert told[-1] == {"state": "down", "reason": "none of its 2 URLs answers"}
    with FakeUpstream() as engine:
        pool.members[1].url = engine.url
        await checked(pool, relay)
        assert states(pool) == ["ejected", "up"]
        assert told[-1] == {"state": "ready", "url": engine.url}
        assert await ask(pool, relay) == 200


async def test_an_ejected_engine_returns_when_it_is_well_again(engines: list[FakeUpstream], relay: Relay) -> None:
    with FakeUpstream() as short:
        pool = pool_of(short.url, engines[0].url)
        await checked(pool, relay)
        assert states(pool) == ["up", "up"]
    await checked(pool, relay)
    assert states(pool) == ["ejected", "up"]
    assert [await ask(pool, relay) for _ in range(3)] == [200] * 3
    with FakeUpstream(short.port) as back:
        await checked(pool, relay)
        assert states(pool) == ["up", "up"]
        await ask(pool, relay)
        await ask(pool, relay)
        assert len(posts(back)) == 1


Answer = Callable[[str], bytes | None]


async def bare(answer: Answer) -> tuple[asyncio.Server, str, list[str]]:
    """A server that answers a request line with these bytes, or (None) breaks off; and the lines that came."""
    lines: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := (await reader.readline()).decode().rpartition(" ")[0]:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if b"content-length: " in head:
                await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
            lines.append(line)
            said = answer(line)
            if said is None:
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                break
            writer.write(said)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", lines


def reply(status: int, body: str = "") -> bytes:
    return f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()


async def test_a_request_that_an_engine_had_is_never_sent_again(engines: list[FakeUpstream], relay: Relay) -> None:
    server, url, lines = await bare(lambda line: None if line.startswith("POST") else reply(200))
    async with server:
        pool = pool_of(url, engines[0].url)
        pool.members[1].take()  # so that the other one is asked
        with pytest.raises(Died):
            await ask(pool, relay)
        await settled(pool)
    assert lines == [f"POST {PATH}", "GET /health"]  # asked how it is at once, and it was the request's fault
    assert (states(pool), served(engines)) == (["up", "unknown"], [0, 0, 0])
    assert [member.pending for member in pool.members] == [0, 1]


async def test_an_answer_that_breaks_off_is_not_begun_again(engines: list[FakeUpstream], relay: Relay) -> None:
    pool = pool_of(*(engine.url for engine in engines[:2]))
    with pytest.raises(Died):
        await ask(pool, relay, "reset-mid-stream-3")
    assert sum(served(engines)) == 1
    assert [member.pending for member in pool.members] == [0, 0]
    await settled(pool)
    assert sorted(states(pool)) == ["unknown", "up"]


UNSERVED = [429, 500, 502, 503, 504]


@pytest.mark.parametrize("status", UNSERVED)
async def test_an_answer_that_fails_everywhere_is_the_clients_and_counts_against_nobody(
    engines: list[FakeUpstream], relay: Relay, status: int
) -> None:
    pool = pool_of(*(engine.url for engine in engines))
    for _ in range(members.FAILURES + 1):
        upstream = await post(pool, relay, f"error-{status}")
        assert upstream.status == status
        assert f"made up error {status}" in (await upstream.read(1000)).decode()
    assert served(engines)[0] >= 1
    assert [member.pending for member in pool.members] == [0, 0, 0]
    await settled(pool)
    assert "ejected" not in states(pool)


@pytest.mark.parametrize("status", [400, 404, 422, 501])
async def test_other_errors_are_the_clients(engines: list[FakeUpstream], relay: Relay, status: int) -> None:
    pool = pool_of(*(engine.url for engine in engines))
    assert await ask(pool, relay, f"error-{status}") == status
    assert sum(served(engines)) == 1


async def test_a_request_is_tried_on_as_many_others_as_configured(engines: list[FakeUpstream], relay: Relay) -> None:
    for retries, reached in ((0, 1), (1, 2)):
        pool = pool_of(*(engine.url for engine in engines), retries=retries)
        before = sum(served(engines))
        assert await ask(pool, relay, "error-500") == 500
        assert sum(served(engines)) - before == reached


async def test_retries_of_a_whole_pool_are_bounded(engines: list[FakeUpstream], relay: Relay) -> None:
    pool = pool_of(*(engine.url for engine in engines[:2]))
    pool._budget._left = 3.0
    for _ in range(10):
        assert await ask(pool, relay, "error-500") == 500
    assert 13 <= sum(served(engines)) <= 15  # a fifth of a retry is earned with each request


@pytest.mark.parametrize("prefix", ["", "digest"])
@pytest.mark.parametrize("status", UNSERVED)
async def test_an_engine_whose_answers_fail_is_ejected_though_its_health_is_fine(
    engines: list[FakeUpstream], relay: Relay, status: int, prefix: str
) -> None:
    server, url, lines = await bare(lambda line: reply(status if line.startswith("POST") else 200))
    async with server:
        pool = pool_of(url, engines[0].url, engines[1].url)
        await checked(pool, relay)
        if prefix:  # one whose home is the failing engine
            prefix = next(p for p in map(str, range(100)) if members.ranked(pool.members, p)[0].url == url)
        assert [await ask(pool, relay, prefix=prefix) for _ in range(20)] == [200] * 20
        await checked(pool, relay)
    assert sum(line.startswith("POST") for line in lines) == members.FAILURES
    assert states(pool) == ["ejected", "up", "up"]
    assert pool.members[0].reason == f"it answers {status}"


async def test_a_failing_engine_returns_after_a_while_with_one_request_at_first(
    engines: list[FakeUpstream], relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    well = False
    server, url, lines = await bare(lambda line: reply(200 if well or line.startswith("GET") else 500))
    async with server:
        pool = pool_of(url, engines[0].url)
        await checked(pool, relay)
        assert [await ask(pool, relay) for _ in range(8)] == [200] * 8
        failing = pool.members[0]
        rests = failing.until
        for back in (False, True):
            well = back
            assert failing.state == "ejected"
            failing.until = 0.0
            await checked(pool, relay)
            assert (failing.state, failing.cap) == ("up", 1)
            before = len(lines)
            assert [await ask(pool, relay) for _ in range(4)] == [200] * 4
            assert sum(line.startswith("POST") for line in lines[before:]) == (2 if well else 1)
            if not well:  # one failure is enough now, and it rests for longer
                assert failing.until - time.monotonic() > rests - time.monotonic()
        assert (failing.state, failing.cap) == ("up", 4)


async def test_a_returning_engine_gets_no_more_than_it_is_trusted_with(
    engines: list[FakeUpstream], relay: Relay
) -> None:
    pool = pool_of(*(engine.url for engine in engines[:2]))
    await checked(pool, relay)
    pool.members[0].state = "ejected"
    await checked(pool, relay)
    pool.members[0].take()  # the one request that it may have
    assert {pool.choose("") for _ in range(4)} == {pool.members[1]}
    assert {pool.choose(prefix) for prefix in "abcdef"} == {pool.members[1]}
    pool.members[0].served()
    assert {pool.choose("", [pool.members[1]]), pool.choose("a", [pool.members[1]])} == {pool.members[0]}
    pool.members[0].release()


@pytest.mark.parametrize("value", ["60", "{date}"])
async def test_retry_after_is_honoured(engines: list[FakeUpstream], relay: Relay, value: str) -> None:
    value = value.format(date=formatdate(time.time() + 60, usegmt=True))
    busy = reply(429).replace(b"\r\n\r\n", f"\r\nretry-after: {value}\r\n\r\n".encode())
    server, url, lines = await bare(lambda line: busy)
    async with server:
        pool = pool_of(url, engines[0].url)
        assert [await ask(pool, relay) for _ in range(6)] == [200] * 6
        assert lines == [f"POST {PATH}"]
        assert 50 < pool.members[0].until - time.monotonic() <= 61
        alone = pool_of(url)
        assert [await ask(alone, relay) for _ in range(2)] == [429] * 2  # there is nobody else to ask


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({}, 0), ({"retry-after": "7"}, 7), ({"retry-after": "soon"}, 0), ({"retry-after": "-1"}, 0),
     ({"retry-after": "99999"}, 300), ({"retry-after": "nan"}, 0),
     ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0), ({"retry-after": "Thu, 99 Jan GMT"}, 0),
     ({"retry-after": "Fri, 31 Dec 99999999999 23:59:59 GMT"}, 0)],
)  # fmt: skip
def test_retry_after_is_read_within_bounds(headers: dict[str, str], seconds: float) -> None:
    assert retry_after(headers) == seconds


@pytest.mark.parametrize("idempotent", [False, True])
@pytest.mark.parametrize("silent", [False, True])
async def test_a_request_that_broke_or_hung_is_repeated_only_where_that_is_allowed(
    engines: list[FakeUpstream], hasty: Relay, idempotent: bool, silent: bool
) -> None:
    server, url, lines = await bare(lambda line: (b"" if silent else None) if line.startswith("POST") else reply(200))
    async with server:
        pool = pool_of(url, engines[0].url, idempotent=idempotent)
        results = [await outcome(ask(pool, hasty)) for _ in range(10)]
        await settled(pool)
    if silent:  # else the relay may send one again that met a connection which the engine was closing
        assert sum(line.startswith("POST") for line in lines) == members.FAILURES
    assert results.count(200) == (10 if idempotent else 10 - members.FAILURES)
    assert set(results) - {200} == (set() if idempotent else {TimedOut if silent else Died})
    assert pool.members[0].state == "ejected"


async def test_requests_of_an_engine_that_hangs_move_when_its_health_check_times_out(
    engines: list[FakeUpstream], relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "PATIENCE_S", 0.1)
    server, url, lines = await bare(lambda line: b"")
    async with server:
        pool = pool_of(url, engines[0].url, idempotent=True)
        asking = [asyncio.create_task(ask(pool, relay)) for _ in range(6)]
        while sum(line.startswith("POST") for line in lines) < 3:
            await asyncio.sleep(0.01)
        await checked(pool, relay)
        assert await asyncio.gather(*asking) == [200] * 6
    assert (states(pool), served(engines)) == (["ejected", "up"], [6, 0, 0])


async def test_an_engine_whose_health_check_takes_long_gets_nothing_meanwhile(
    engines: list[FakeUpstream], relay: Relay
) -> None:
    server, url, lines = await bare(lambda line: b"")
    async with server:
        pool = pool_of(url, engines[0].url)
        pool.check(relay)
        while not lines:
            await asyncio.sleep(0.01)
        pool.members[0].asked = time.monotonic() - 1
        assert {pool.choose(prefix) for prefix in ("", "", *"abcdef")} == {pool.members[1]}
        pool.members[1].state = "ejected"
        assert pool.choose("") is pool.members[0]  # who is slow is better than nobody
        pool.stop()


async def test_a_failing_engine_may_finish_what_it_has_begun(engines: list[FakeUpstream], relay: Relay) -> None:
    pool = pool_of(engines[0].url, engines[1].url, idempotent=True)
    slow = asyncio.create_task(ask(pool, relay, "slow-headers-0.5"))
    while not sum(served(engines)):
        await asyncio.sleep(0.01)
    busy = next(member for member in pool.members if member.pending)
    pool._eject(busy, "it answers 500", failing=True)
    assert await slow == 200
    assert sum(served(engines)) == 1


async def outcome(asking: Awaitable[int]) -> int | type[Exception]:
    """The status, or the kind of error."""
    try:
        return await asking
    except UpstreamError as error:
        return type(error)


async def test_an_only_engine_that_has_not_served_is_heard(engines: list[FakeUpstream], relay: Relay) -> None:
    pool = pool_of(engines[0].url)
    assert await ask(pool, relay, "error-503") == 503
    assert served(engines) == [1, 0, 0]


async def test_a_client_that_leaves_is_no_engines_fault(engines: list[FakeUpstream], relay: Relay) -> None:
    pool = pool_of(engines[0].url)
    asking = asyncio.create_task(ask(pool, relay, "slow-headers-60"))
    await asyncio.to_thread(engines[0].wait_request)
    assert pool.members[0].pending == 1
    asking.cancel()
    await asyncio.to_thread(engines[0].wait_abort)
    assert (pool.members[0].pending, states(pool)) == (0, ["unknown"])


async def test_no_socket_of_our_own_ejects_nobody(engines: list[FakeUpstream], relay: Relay) -> None:
    pool = pool_of(*(engine.url for engine in engines))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as next_free:
        resource.setrlimit(resource.RLIMIT_NOFILE, (next_free.fileno(), hard))
        try:
            with pytest.raises(Refused):
                await ask(pool, relay)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    await settled(pool)
    assert "ejected" not in states(pool)


# ---------------------------------------------------------------- health


@pytest.mark.parametrize(
    ("answers", "state"),
    [
        ({"/health": 200}, "up"), ({"/health": 503}, "ejected"), ({"/health": 500}, "ejected"),
        ({"/health": 404, "/v1/models": 200}, "up"), ({"/health": 404, "/v1/models": 401}, "up"),
        ({"/health": 404, "/v1/models": 404}, "ejected"), ({"/health": 404, "/v1/models": 502}, "ejected"),
    ],
)  # fmt: skip
async def test_who_is_well(relay: Relay, answers: dict[str, int], state: str) -> None:
    server, url, lines = await bare(lambda line: reply(answers[line.split()[1]]))
    async with server:
        pool = pool_of(url)
        await checked(pool, relay)
    assert lines == [f"GET {path}" for path in answers]
    assert states(pool) == [state]
    assert pool.members[0].reason == (
        "" if state == "up" else f"{list(answers)[-1]} answers {answers[list(answers)[-1]]}"
    )


async def test_slow_is_better_than_nobody(
    engines: list[FakeUpstream], relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "PATIENCE_S", 0.05)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        alone, beside = pool_of(url), pool_of(url, engines[0].url)
        await checked(alone, relay)
        await checked(beside, relay)
    assert states(alone) == ["unknown"]
    assert states(beside) == ["ejected", "up"]


# ---------------------------------------------------------------- behind the server

SERVER = """
state_dir = "{state}"
[server]
connect_s = 2
[engine.many]
urls = [URLS]
[policy.chat]
engine = "many"
render = "chat"
KEYS
"""


def configured(engines: list[FakeUpstream], keys: str = "") -> str:
    return SERVER.replace("URLS", ", ".join(f'"{engine.url}/v1"' for engine in engines)).replace("KEYS", keys)


def reaches(engines: list[FakeUpstream], tag: str) -> list[Recorded]:
    return [r for e in engines for r in posts(e) if r.json["messages"][-1]["content"] == tag]


async def until(http: httpx.AsyncClient, wanted: Callable[[Any], bool]) -> Any:
    """/readyz, as soon as it is so."""
    deadline = time.monotonic() + 20
    while not wanted(told := (await http.get("/readyz")).json()):
        assert time.monotonic() < deadline, told
        await asyncio.sleep(0.02)
    return told


def health(told: Any) -> list[str]:
    return [row["state"] for row in told["engines"]["many"]["urls"]]


async def test_one_engine_killed_under_load(engines: list[FakeUpstream], start: Start) -> None:
    doomed = FakeUpstream()
    with ExitStack() as stack:
        stack.enter_context(doomed)
        everyone = [doomed, *engines[:2]]
        trimtab = start(file=configured(everyone))
        results: dict[str, str] = {}

        async def one(http: httpx.AsyncClient, tag: str) -> None:
            body = chat(tag, "slow-stream-8-20", stream=True)
            answer = await http.post(PATH, json=body)
            last = events(answer.text)[-1] if answer.status_code == 200 else answer.json()
            results[tag] = "ok" if last == "[DONE]" else last["error"]["code"]

        async with httpx.AsyncClient(base_url=trimtab.url, timeout=20) as http:
            await until(http, lambda told: health(told) == ["up"] * 3)

            async def client(number: int) -> None:
                for turn in range(6):
                    await one(http, f"{number}-{turn}")

            clients = [asyncio.create_task(client(number)) for number in range(12)]
            await asyncio.to_thread(doomed.wait_request, 12)
            await asyncio.to_thread(stack.close)  # the connections break, in mid-stream; then nobody listens
            await asyncio.gather(*clients)
            told = await until(http, lambda told: health(told) == ["ejected", "up", "up"])
            assert told["status"] == "ready"
            assert told["engines"]["many"]["urls"][1] == {
                "url": engines[0].url, "state": "up", "reason": "", "pending": 0,
            }  # fmt: skip
            metrics = (await http.get("/metrics")).text
            assert f'trimtab_engine_ejections_total{{engine="many",url="{doomed.url}"}} 1.0' in metrics
            assert f'trimtab_engine_pending{{engine="many",url="{doomed.url}"}} 0.0' in metrics
            assert re.search(r"^trimtab_tasks [1-9]", metrics, re.MULTILINE)
            lost = {tag for tag, result in results.items() if result != "ok"}
            assert len(results) == 72
            assert lost
            for tag in results:
                reached = reaches(everyone, tag)
                if tag in lost:  # the dead one had it, perhaps not yet as a request, and nobody else
                    assert len(reached) <= 1, tag
                    assert all(record in posts(doomed) and record.window != "done" for record in reached), tag
                else:
                    assert sum(record.window == "done" for record in reached) == 1, tag
                    assert sum(record.sent > 0 for record in reached) == 1, tag
            assert {results[tag] for tag in lost} == {"upstream_failed"}

            with FakeUpstream(doomed.port) as back:
                await until(http, lambda told: health(told) == ["up"] * 3)
                for turn in range(3):
                    await one(http, f"after-{turn}")
                assert len(posts(back)) == 1


async def test_all_down_is_503_by_name_until_one_is_back(start: Start) -> None:
    with FakeUpstream() as one, FakeUpstream() as other:
        trimtab = start(file=configured([one, other]))
        async with httpx.AsyncClient(base_url=trimtab.url, timeout=20) as http:
            assert (await http.post(PATH, json=chat())).status_code == 200
    async with httpx.AsyncClient(base_url=trimtab.url, timeout=20) as http:
        for _ in range(2):
            answer = await http.post(PATH, json=chat())
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (503, "engine_not_ready"), answer.text
            assert "'many'" in error["message"]
            assert "2 URLs" in error["message"]
            assert "127.0.0.1" not in error["message"]
        assert (await http.get("/readyz")).status_code == 503
        with FakeUpstream(other.port):
            told = await until(http, lambda told: told["status"] == "ready")
            assert health(told) == ["ejected", "up"]
            assert (await http.post(PATH, json=chat())).status_code == 200
            listed = (await http.get("/v1/models")).json()["data"]  # asked of the one that is there
            assert [row["id"] for row in listed] == ["echo"]


async def test_a_policys_chats_meet_on_one_engine_and_raw_ones_spread(
    engines: list[FakeUpstream], start: Start
) -> None:
    trimtab = start(file=configured(engines))
    async with httpx.AsyncClient(base_url=trimtab.url, timeout=20) as http:
        for _ in range(6):
            answer = await http.post(PATH, json=chat(), headers={"x-trimtab-policy": "chat"})
            assert answer.headers["x-trimtab-applied"] == "urial=applied(3)"
        assert sorted(served(engines)) == [0, 0, 6]
        for _ in range(6):
            await http.post(PATH, json=chat())
        assert sorted(served(engines)) == [2, 2, 8]


async def test_a_reload_takes_an_engine_in(engines: list[FakeUpstream], start: Start) -> None:
    trimtab = start(file=configured(engines[:2]))
    async with httpx.AsyncClient(base_url=trimtab.url, timeout=20) as http:
        await until(http, lambda told: health(told) == ["up"] * 2)
        text = trimtab.config.read_text()
        trimtab.config.write_text(text.replace("urls = [", f'urls = ["{engines[2].url}", '))
        trimtab.process.send_signal(signal.SIGHUP)
        await until(http, lambda told: health(told) == ["up"] * 3)
        for _ in range(3):
            await http.post(PATH, json=chat())
        assert served(engines) == [1, 1, 1]


async def test_where_keys_are_needed_readyz_names_no_address(engines: list[FakeUpstream], start: Start) -> None:
    digest = hashlib.sha256(SECRETS["house"].encode()).hexdigest()
    trimtab = start(file=configured(engines, f'[[key]]\nid = "house"\nsha256 = "{digest}"'))
    async with httpx.AsyncClient(base_url=trimtab.url, timeout=20) as http:
        told = await until(http, lambda told: health(told) == ["up"] * 3)
        assert told["engines"]["many"]["urls"] == [{"state": "up", "reason": "", "pending": 0}] * 3


async def test_no_client_notices_an_engine_of_three_that_fails_or_hangs(
    engines: list[FakeUpstream], start: Start
) -> None:
    """500 and 429 at once, and nothing at all where requests may be repeated; without and with a prefix."""
    failing = {"500": reply(500), "429": reply(429), "hangs": b""}
    text, stack = 'state_dir = "{state}"\n[server]\ntimeout_s = 2\n', []
    for name, said in failing.items():
        server, url, _ = await bare(lambda line, said=said: said if "POST" in line else reply(200))  # type: ignore[misc]
        stack.append(server)
        urls = json.dumps([url, engines[0].url, engines[1].url])
        text += f"[engine.e{name}]\nurls = {urls}\nidempotent = {str(name == 'hangs').lower()}\n"
        text += f'[policy.plain{name}]\nengine = "e{name}"\nstages = []\n[policy.urial{name}]\nengine = "e{name}"\n'
    trimtab = await asyncio.to_thread(lambda: start(file=text))
    async with httpx.AsyncClient(base_url=trimtab.url, timeout=30) as http:

        async def client(policy: str) -> list[int]:
            headers = {"x-trimtab-policy": policy}
            return [(await http.post(PATH, json=chat(), headers=headers)).status_code for _ in range(8)]

        policies = [f"{kind}{name}" for kind in ("plain", "urial") for name in failing]
        results = await asyncio.gather(*(client(policy) for policy in policies for _ in range(4)))
    assert [status for statuses in results for status in statuses] == [200] * 6 * 4 * 8
    await asyncio.to_thread(trimtab.stop)  # and with it the connections to the bare servers
    for server in stack:
        server.close()
