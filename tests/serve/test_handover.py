"""Requests with a large body are answered by a process of their own, as a worker would answer them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable

import httpx
import psutil
import pytest

from tests.serve.conftest import Served, Start, chat
from tests.upstream import FakeUpstream

PATH = "/v1/chat/completions"
LARGE = "x" * 1_200_000
FILE = """
state_dir = "{state}"
[engine.main]
url = "{url}"
[policy.aligned]
stages = ["urial"]
render = "chat"
"""
METRICS = re.compile(r"^trimtab_requests_total\{.*status=\"200\"\} (\S+)$", re.MULTILINE)


def until(met: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def apart(url: str, text: str = LARGE, **fields: object) -> bool:
    """Send a large body; whether the process for them answered, which closes the connection."""
    answer = httpx.post(url + PATH, json=chat(text, **fields), timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == text
    return answer.headers.get("connection") == "close"


def of_large(served: Served) -> list[psutil.Process]:
    return [it for it in map(psutil.Process, served.workers()) if it.nice() > psutil.Process().nice()]


@pytest.fixture(scope="module")
def lane(start: Start) -> Served:
    """A server that has its process for large bodies."""
    served = start(file=FILE)
    assert not of_large(served)
    until(lambda: apart(served.url))
    return served


def test_the_first_large_body_starts_the_process_and_is_answered_before_it_is_there(lane: Served) -> None:
    assert len(of_large(lane)) == 1
    assert len(lane.workers()) == 2


def test_the_engine_gets_the_same_body_and_small_requests_stay(lane: Served, upstream: FakeUpstream) -> None:
    body = json.dumps(chat("y" * 3_000_000, user="Zoë")).encode()
    with httpx.Client(base_url=lane.url, timeout=60, headers={"content-type": "application/json"}) as http:
        large = http.post(PATH, content=body, headers={"x-request-id": "large-1"})
        assert upstream.posts[-1].body == body
        small = [http.post(PATH, json=chat("hello")) for _ in range(2)]
    assert (large.status_code, large.headers["connection"], large.headers["x-request-id"]) == (200, "close", "large-1")
    assert [it.status_code for it in small] == [200, 200]
    assert "connection" not in small[0].headers


def test_policies_hold_and_streams_flow_there(lane: Served) -> None:
    body = chat(user=LARGE, stream=True, trimtab={"policy": "aligned"})
    with httpx.stream("POST", lane.url + PATH, json=body, timeout=60) as answer:
        assert answer.headers["connection"] == "close"
        assert "urial=applied" in answer.headers["x-trimtab-applied"]
        text = "".join(answer.iter_text())
    assert text.rstrip().endswith("data: [DONE]")


def test_a_head_that_comes_in_pieces_or_waits_for_100_is_answered(lane: Served) -> None:
    body = json.dumps(chat("z" * 1_200_000)).encode()
    head = b"POST %s HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
    top = head % (PATH.encode(), len(body))
    host, port = lane.url.removeprefix("http://").split(":")
    for first, second in ((top + b"expect: 100-continue\r\n\r\n", b""), (top[:40], top[40:] + b"\r\n")):
        with socket.create_connection((host, int(port)), timeout=60) as client:
            client.sendall(first)
            if second:
                time.sleep(0.1)
                client.sendall(second)
            else:
                assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.sendall(body)
            assert client.recv(12) == b"HTTP/1.1 200"


def test_requests_behind_one_another_are_answered_in_their_order(lane: Served) -> None:
    bodies = [json.dumps(chat(text)).encode() for text in ("first", LARGE)]
    head = b"POST %s HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
    host, port = lane.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as client:
        client.sendall(b"".join([head % (PATH.encode(), len(body), body) for body in bodies]))
        came = b""
        while came.count(b"HTTP/1.1 200") < 2 or came.count(LARGE[:1000].encode()) < 1:
            came += client.recv(2**20)
    assert came.index(b'"first"') < came.index(LARGE[:1000].encode())


def test_metrics_of_a_single_worker_count_both(lane: Served) -> None:
    def count() -> float:
        return sum(map(float, METRICS.findall(httpx.get(lane.url + "/metrics").text)))

    def settled() -> bool:  # the process for large bodies writes its counts once a second
        before = count()
        time.sleep(1.5)
        return count() == before

    until(settled)
    before = count()
    assert [apart(lane.url) for _ in range(3)] == [True] * 3
    httpx.post(lane.url + PATH, json=chat())
    until(lambda: count() == before + 4)


async def until_asked(upstream: FakeUpstream, model: str, before: int) -> None:
    """Wait until the engine has been asked for a model, by a request after the first `before`."""
    while not any(model.encode() in it.body for it in upstream.requests[before:]):
        await asyncio.sleep(0.05)


def test_a_worker_that_is_started_again_hands_over_as_the_one_before(start: Start) -> None:
    served = start(file=FILE)
    until(lambda: apart(served.url))
    [worker] = [it for it in map(psutil.Process, served.workers()) if it not in of_large(served)]
    worker.kill()
    assert served.wait_for(r"worker 0: was killed by SIGKILL; starting again")
    until(lambda: _answers(served.url) and apart(served.url))
    assert len(of_large(served)) == 1


def _answers(url: str) -> bool:
    try:
        return httpx.post(url + PATH, json=chat(), timeout=60).status_code == 200
    except httpx.TransportError:
        return False


def test_a_killed_process_costs_its_own_requests_and_comes_back(start: Start, upstream: FakeUpstream) -> None:
    served = start(file=FILE)
    until(lambda: apart(served.url))

    async def kill() -> None:
        async with httpx.AsyncClient(base_url=served.url, timeout=60) as http:
            before = len(upstream.requests)
            held = asyncio.create_task(http.post(PATH, json=chat(LARGE, model="slow-headers-30")))
            await until_asked(upstream, "slow-headers-30", before)
            of_large(served)[0].send_signal(signal.SIGKILL)
            small = await http.post(PATH, json=chat())
            next_one = await http.post(PATH, json=chat(LARGE))  # by a worker, or when there is a new process
            assert (small.status_code, next_one.status_code) == (200, 200)
            with pytest.raises(httpx.TransportError):
                await held

    asyncio.run(kill())
    assert served.wait_for(r"worker for large bodies: was killed by SIGKILL; starting again")
    until(lambda: of_large(served) and apart(served.url))


def test_running_answers_end_before_the_server_does_and_nothing_is_left(start: Start, upstream: FakeUpstream) -> None:
    served = start(file=FILE)
    until(lambda: apart(served.url))

    async def drain() -> None:
        async with httpx.AsyncClient(base_url=served.url, timeout=60) as http:
            before = len(upstream.requests)
            held = asyncio.create_task(http.post(PATH, json=chat(LARGE, model="slow-headers-2")))
            await until_asked(upstream, "slow-headers-2", before)
            processes = [psutil.Process(pid) for pid in served.workers()]
            served.ask_to_stop()
            assert (await held).status_code == 200
            assert not psutil.wait_procs(processes, timeout=60)[1]

    asyncio.run(drain())


def test_kill_9_of_the_parent_leaves_nothing(start: Start) -> None:
    served = start(file=FILE)
    until(lambda: apart(served.url))
    processes = [psutil.Process(pid) for pid in served.workers()]
    assert len(processes) == 2
    served.process.kill()
    assert not psutil.wait_procs(processes, timeout=60)[1]


def test_a_reload_reaches_it(start: Start) -> None:
    served = start(file=FILE)
    until(lambda: apart(served.url))
    with served.config.open("a") as file:
        file.write('[policy.later]\nstages = []\nrender = "chat"\n')
    served.process.send_signal(signal.SIGHUP)
    served.wait_for("trimtab: reloaded")
    answer = httpx.post(served.url + PATH, json=chat(LARGE, trimtab={"policy": "later"}), timeout=60)
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")


def test_connections_wait_for_the_next_process_where_one_dies_before_it_takes_them(start: Start) -> None:
    served = start(file=FILE)
    until(lambda: apart(served.url))
    process = of_large(served)[0]
    process.suspend()

    async def wait() -> None:
        async with httpx.AsyncClient(base_url=served.url, timeout=60) as http:
            waiting = [asyncio.create_task(http.post(PATH, json=chat(LARGE))) for _ in range(4)]
            await asyncio.sleep(1)
            process.kill()
            assert [(await it).status_code for it in waiting] == [200] * 4

    asyncio.run(wait())


def test_no_descriptor_is_left_behind(lane: Served) -> None:
    def count() -> int:
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in lane.workers())

    for _ in range(3):
        apart(lane.url)
    before = count()
    for _ in range(20):
        assert apart(lane.url)
    until(lambda: count() <= before)


def test_a_body_without_a_length_is_the_workers(lane: Served) -> None:
    def pieces() -> object:
        yield json.dumps(chat(LARGE)).encode()

    with contextlib.closing(httpx.Client(timeout=60)) as http:
        headers = {"content-type": "application/json"}
        answer = http.post(lane.url + PATH, content=pieces(), headers=headers)  # type: ignore[arg-type]
    assert (answer.status_code, answer.headers.get("connection")) == (200, None)
