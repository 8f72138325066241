"""A client that leaves stops the engine: in each window, streaming or not, whatever the render."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.errors import TooLarge, TooSlow
from serve.http.call import Call, ClientGone
from serve.http.protocol import Protocol
from serve.http.site import Site
from tests.serve.conftest import Served, chat, in_process
from tests.upstream import FakeUpstream

# window -> the model that keeps a client waiting there
WINDOWS = {"headers": "slow-headers-20", "first": "slow-first-20", "stream": "slow-stream-2000-10"}

HEAD = b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"


def request(url: str, path: str, body: dict[str, Any], **headers: str) -> socket.socket:
    """A connection on which a request has been sent and nothing read."""
    host, port = url.removeprefix("http://").split(":")
    data = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", f"host: {host}", "content-type: application/json", f"content-length: {len(data)}"]
    sock = socket.socket()
    sock.settimeout(10)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect((host, int(port)))
    sock.sendall("\r\n".join([*lines, *(f"{k}: {v}" for k, v in headers.items()), "", ""]).encode() + data)
    return sock


def wait_window(upstream: FakeUpstream, since: int, model: str, window: str) -> int:
    """Until the first request for the model from number `since` on is held up where it should be; its number.

    The server's own questions after the engine's models come at any time, so a number alone says nothing.
    """
    deadline = time.monotonic() + 5
    while True:
        mine = [i for i in range(since, len(upstream.requests)) if upstream.requests[i].model == model]
        if mine and upstream.requests[mine[0]].window == window:
            return mine[0]
        assert time.monotonic() < deadline, mine and upstream.requests[mine[0]].window
        time.sleep(0.01)


@pytest.mark.parametrize("policy", ["raw", "chat", "base"])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("window", WINDOWS)
def test_leaving_aborts_the_engine_within_a_second(
    served: Served, upstream: FakeUpstream, policy: str, stream: bool, window: str
) -> None:
    index = len(upstream.requests)
    sock = request(
        served.url, "/v1/chat/completions", chat(model=WINDOWS[window], stream=stream), **{"x-trimtab-policy": policy}
    )
    with sock:
        # An engine that does not stream holds everything back before its headers.
        index = wait_window(upstream, index, WINDOWS[window], window if stream else "headers")
    upstream.wait_abort(index, timeout=1.0)
    assert httpx.post(f"{served.url}/v1/chat/completions", json=chat(), verify=False).status_code == 200


@pytest.mark.parametrize("window", WINDOWS)
def test_leaving_a_relayed_path_aborts_the_engine_too(served: Served, upstream: FakeUpstream, window: str) -> None:
    index = len(upstream.requests)
    body = {"model": WINDOWS[window], "prompt": "x", "stream": True}
    with request(served.url, "/v1/completions", body):
        index = wait_window(upstream, index, WINDOWS[window], window)
    upstream.wait_abort(index, timeout=1.0)


def test_leaving_while_the_answer_is_stuck_in_a_full_socket_aborts_the_engine(
    served: Served, upstream: FakeUpstream
) -> None:
    for path, body in (
        ("/v1/chat/completions", chat(model="stream-200000", stream=True)),
        ("/v1/completions", {"model": "stream-200000", "prompt": "x", "stream": True}),
    ):
        index = len(upstream.requests)
        with request(served.url, path, body):
            index = wait_window(upstream, index, "stream-200000", "stream")
            sent = -1
            while upstream.requests[index].sent != sent:  # until nothing moves any more
                sent = upstream.requests[index].sent
                time.sleep(0.3)
            assert sent < 200_000
        upstream.wait_abort(index, timeout=1.0)


def test_a_client_that_closes_after_its_answer_is_not_one_that_left(served: Served, upstream: FakeUpstream) -> None:
    with request(served.url, "/v1/chat/completions", chat(), connection="close") as sock:
        answer = b""
        while part := sock.recv(65536):
            answer += part
    trace = next(line for line in answer.decode().split("\r\n") if line.startswith("x-trimtab-trace"))
    told = httpx.get(f"{served.url}/v1/traces/{trace.split(': ')[1]}", verify=False).json()
    assert (told["status"], told["error"]) == (200, None)


def test_fds_do_not_grow_with_clients_that_leave(served: Served, upstream: FakeUpstream) -> None:
    worker = Path(f"/proc/{served.workers()[0]}/fd")

    def storm() -> None:
        index = len(upstream.requests)
        socks = [
            request(served.url, "/v1/chat/completions", chat(model=model, stream=True), **{"x-trimtab-policy": policy})
            for model in WINDOWS.values() for policy in ("raw", "base")
        ]  # fmt: skip
        arrived: list[int] = []
        while len(arrived) < len(socks):
            time.sleep(0.01)
            arrived = [
                i for i in range(index, len(upstream.requests)) if upstream.requests[i].model in WINDOWS.values()
            ]
        for sock in socks:
            sock.close()
        for i in arrived:
            upstream.wait_abort(i, timeout=2.0)

    storm()
    time.sleep(0.3)
    before = len(os.listdir(worker))
    for _ in range(5):
        storm()
    time.sleep(0.3)
    assert len(os.listdir(worker)) <= before + 2


# ---------------------------------------------------------------- inside one process


@pytest.fixture
async def inside(upstream: FakeUpstream, tmp_path: Path) -> AsyncIterator[str]:
    """The application in this very event loop, so that its tasks can be counted."""
    async with in_process("", tmp_path, upstream=upstream.url) as url:
        yield url


async def test_no_task_outlives_a_client_that_left(inside: str, upstream: FakeUpstream) -> None:
    async with httpx.AsyncClient(verify=False, base_url=inside) as http:
        assert (await http.post("/v1/chat/completions", json=chat())).status_code == 200
    await asyncio.sleep(0.05)
    before = asyncio.all_tasks()
    for policy in ("raw", "urial"):
        for window, model in WINDOWS.items():
            index = len(upstream.requests)
            sock = request(
                inside, "/v1/chat/completions", chat(model=model, stream=True), **{"x-trimtab-policy": policy}
            )
            with sock:
                index = await asyncio.to_thread(wait_window, upstream, index, model, window)
            await asyncio.to_thread(upstream.wait_abort, index)
    await asyncio.sleep(0.1)
    assert asyncio.all_tasks() <= before


class Client:
    """The other end of a call, under a test's control: our protocol on a transport that only notes things."""

    def __init__(self, keep_alive_s: float = 75) -> None:
        self.sent = b""
        self.closed = self.aborted = self.half = False
        self.stuck = 0  # bytes that nobody takes
        self.calls: list[Call] = []
        self.news, self.over = asyncio.Event(), False
        self.site = Site({("POST", "/x"): self._line}, keep_alive_s=keep_alive_s)
        self.protocol = Protocol(self.site)
        self.protocol.connection_made(self)  # type: ignore[arg-type]

    async def _line(self, call: Call) -> None:
        """Leaves the call to the test."""
        self.calls.append(call)
        while not (call.ended or call.disconnected or self.over):
            self.news.clear()
            await self.news.wait()

    async def call(self, said: bytes = b"", length: int | None = None) -> Call:
        size = len(said) if length is None else length
        head = f"POST /x HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {size}\r\n\r\n"
        self.protocol.data_received(head.encode() + said)
        await asyncio.sleep(0)
        return self.calls[-1]

    def leave(self) -> None:
        self.protocol.connection_lost(ConnectionResetError())
        self.news.set()

    async def end(self) -> None:
        """Have every line return."""
        self.over = True
        self.news.set()
        if (task := self.protocol.task) is not None and self.calls and not self.calls[-1].ended:
            await asyncio.wait_for(task, 60)

    # a transport's
    def write(self, data: bytes) -> None:
        self.sent += data
        self.news.set()

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def get_write_buffer_size(self) -> int:
        return self.stuck

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.half = True

    def is_closing(self) -> bool:
        return self.closed or self.aborted

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    it = Client()
    yield it
    await it.end()
    it.leave()
    await asyncio.gather(*it.site.tasks)


async def test_leaving_cancels_the_block_and_nothing_after_it(client: Client) -> None:
    call = await client.call()
    asyncio.get_running_loop().call_later(0.02, client.leave)
    with pytest.raises(ClientGone), call:
        await asyncio.sleep(5)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0.01)  # would raise if a cancellation were still due


async def test_who_had_left_before_the_block_does_not_enter_it(client: Client) -> None:
    call = await client.call()
    client.leave()
    entered = False
    with pytest.raises(ClientGone), call:
        entered = True
    assert not entered


async def test_leaving_after_the_end_of_an_answer_cancels_nothing() -> None:
    for pauses in range(4):
        client = Client()
        call = await client.call()
        with call:
            call.start(200, [])
            for _ in range(pauses):
                await asyncio.sleep(0)
            call.end(b"x")
            client.leave()
            await asyncio.sleep(0)
        await asyncio.gather(*client.site.tasks)
        assert call.ended
        assert client.sent.endswith(b"1\r\nx\r\n0\r\n\r\n")


@pytest.mark.parametrize("moment", range(5))
async def test_leaving_at_any_moment_raises_in_the_block(client: Client, moment: int) -> None:
    call = await client.call()

    async def block() -> None:
        with call:
            for step in range(6):
                if step == moment:
                    client.leave()
                await asyncio.sleep(0)

    with pytest.raises(ClientGone):
        await block()


async def test_the_servers_own_cancellation_is_not_taken_for_the_clients(client: Client) -> None:
    call = await client.call()

    async def block() -> None:
        with call:
            await asyncio.sleep(5)

    task = asyncio.create_task(block())
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # Both at once: the server's wins.
    task = asyncio.create_task(block())
    await asyncio.sleep(0.01)
    client.leave()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_client_that_takes_nothing_any_more_has_left(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.http.protocol.STUCK_S", 0.2)
    call = await client.call()
    call.start(200, [])
    # One that is slow, but takes something, has not.
    for _ in range(5):
        client.protocol.pause_writing()
        asyncio.get_running_loop().call_later(0.1, client.protocol.resume_writing)
        await call.write(b"x")
    client.protocol.pause_writing()
    with pytest.raises(ClientGone):
        await call.write(b"y")
    assert client.aborted
    assert client.sent.endswith(b"1\r\nx\r\n1\r\ny\r\n")


async def test_a_client_that_takes_no_answers_is_not_given_more(client: Client) -> None:
    """It sends one request after another and reads nothing: their answers would pile up in our memory."""
    first = await client.call(b"{}")
    client.protocol.pause_writing()
    first.reply(200, bytes(99))
    second = await client.call(b"[]")
    await asyncio.sleep(0)
    assert second is first
    client.protocol.resume_writing()
    for _ in range(9):
        await asyncio.sleep(0)
    assert await client.calls[1].read(9) == b"[]"
    client.calls[1].reply(200, b"")


@pytest.mark.parametrize("path", [b"/x", b"/app"])
async def test_a_client_that_never_takes_its_answers_is_dropped(
    client: Client, monkeypatch: pytest.MonkeyPatch, path: bytes
) -> None:
    async def app(scope: object, receive: object, send: Any) -> None:
        client.protocol.pause_writing()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    monkeypatch.setattr("serve.http.protocol.STUCK_S", 0.05)
    client.site.app = app
    first = await client.call(b"{}")
    client.protocol.pause_writing()
    first.reply(200, b"")
    if path == b"/app":
        client.protocol.resume_writing()
    client.protocol.data_received(HEAD.replace(b"/x", path) + b"content-length: 0\r\n\r\n")
    async with asyncio.timeout(60):
        while not client.aborted:
            await asyncio.sleep(0.001)
    assert len(client.calls) == 1


async def test_a_client_that_asks_hundreds_of_times_at_once_is_answered_in_part(client: Client) -> None:
    asked = HEAD + b"content-length: 2\r\n\r\n{}"
    client.protocol.data_received(asked * 1000)
    assert len(client.protocol.due) == 256
    for _ in range(2000):
        await asyncio.sleep(0)
        if client.calls and not client.calls[-1].ended:
            client.calls[-1].reply(200, b"")
    assert client.sent.count(b"HTTP/1.1 200") == 256
    assert client.sent.count(b"connection: close") == 1
    assert client.half  # what it still sends would be answered with a reset, which takes these answers from it
    assert not client.closed


async def test_who_sends_thousands_of_requests_before_it_reads_gets_whole_answers() -> None:
    async def line(call: Call) -> None:
        call.reply(200, b"here it is")

    site = Site({("POST", "/x"): line})
    server = await asyncio.get_running_loop().create_server(lambda: Protocol(site), "127.0.0.1", 0)
    asked = HEAD + b"content-length: 2\r\n\r\n{}"
    async with server, asyncio.timeout(60):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(asked * (2 * 2**20 // len(asked)))
        await writer.drain()
        transport = writer.transport
        transport.pause_reading()
        while transport.get_write_buffer_size():
            await asyncio.sleep(0.01)
        transport.resume_reading()
        answers = await reader.read()
        writer.close()
    assert answers.count(b"here it is") == 256


async def test_a_body_that_does_not_come_is_a_408(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.http.body.BODY_S", 0.05)
    monkeypatch.setattr("serve.http.exchange.BODY_S", 0.05)
    call = await client.call(b"{", 2)
    with pytest.raises(TooSlow) as caught:
        await call.read(100)
    assert caught.value.status == 408


async def test_a_body_that_stops_half_way_is_a_client_that_left(client: Client) -> None:
    call = await client.call(b"{", 2)
    asyncio.get_running_loop().call_later(0.02, client.leave)
    with pytest.raises(ClientGone):
        await call.read(100)


async def test_a_body_without_a_length_is_bounded_too(client: Client) -> None:
    client.protocol.data_received(HEAD + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(client.protocol.data_received, b"3\r\ndef\r\n")
    with pytest.raises(TooLarge):
        await client.calls[-1].read(4)


async def test_the_next_request_waits_for_the_answer_to_the_one_before(client: Client) -> None:
    first = await client.call(b"1")
    await client.call(b"2")
    assert client.calls == [first]  # pipelined
    assert await first.read(9) == b"1"
    first.reply(200, b"one")
    await asyncio.sleep(0)
    second = client.calls[-1]
    assert await second.read(9) == b"2"
    second.reply(204, b"", [])
    assert client.sent.index(b"one") < client.sent.index(b"HTTP/1.1 204")
    assert client.sent.endswith(b" 204 No Content\r\nx-content-type-options: nosniff\r\n\r\n")  # no body, no length


async def test_a_client_that_asks_first_is_told_to_go_on(client: Client) -> None:
    client.protocol.data_received(HEAD + b"expect: 100-continue\r\ncontent-length: 2\r\n\r\n")
    await asyncio.sleep(0)
    reading = asyncio.create_task(client.calls[-1].read(9))
    await asyncio.sleep(0)
    assert client.sent == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.protocol.data_received(b"{}")
    assert await reading == b"{}"


async def test_who_asks_first_and_is_refused_is_not_waited_for(client: Client) -> None:
    """It may send its body now, or its next request in the body's place."""
    client.protocol.data_received(HEAD + b"expect: 100-continue\r\ncontent-length: 60\r\n\r\n")
    await asyncio.sleep(0)
    client.calls[-1].reply(401, b"no")
    assert b"connection: close\r\n" in client.sent
    assert (client.half, client.closed) == (True, False)
    client.protocol.data_received(HEAD + b"\r\n")
    await asyncio.sleep(0)
    assert len(client.calls) == 1


async def test_trailers_are_no_headers(client: Client) -> None:
    client.protocol.data_received(
        b"POST /x HTTP/1.1\r\nhost: a\r\nx-a: 1\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n"
    )
    await asyncio.sleep(0)
    client.protocol.data_received(b"0\r\nauthorization: Bearer late\r\nx-trimtab-policy: late\r\n\r\n")
    call = client.calls[-1]
    assert await call.read(9, json=False) == b"{}"
    assert [name for name, _ in call.headers] == [b"host", b"x-a", b"transfer-encoding"]


async def test_leaving_is_told_to_every_request_of_a_pipeline(client: Client) -> None:
    first = await client.call()
    await client.call()
    await client.call()
    asyncio.get_running_loop().call_later(0.02, client.leave)
    with pytest.raises(ClientGone), first:
        await asyncio.sleep(5)


@pytest.mark.parametrize("body", [None, b"3\r\nab"])
async def test_nothing_is_written_into_an_answer_that_has_begun(client: Client, body: bytes | None) -> None:
    first = await client.call()
    first.start(200, [])
    first.feed(b"one")
    if body is not None:
        client.protocol.data_received(HEAD + b"transfer-encoding: chunked\r\n\r\n" + body)
    client.protocol.data_received(b"no HTTP\r\n\r\n")
    client.protocol.data_received(b"no HTTP\r\n\r\n" * 9999)
    first.end(b"two")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    answer, _, refusal = client.sent.partition(b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert refusal.startswith(b"HTTP/1.1 400")
    assert client.sent.count(b"HTTP/1.1") == 2
    assert client.closed
    assert len(client.calls) == 1


@pytest.mark.parametrize("rest", [b"\r\n", b"x"])
async def test_a_connection_that_asks_nothing_more_is_closed_all_the_same(client: Client, rest: bytes) -> None:
    call = await client.call(b"", 0 if rest == b"\r\n" else 9)
    call.reply(200, b"")
    assert client.protocol.clock.running
    client.protocol.data_received(rest)
    assert client.protocol.clock.running


@pytest.mark.parametrize("close", [b"", b"connection: close\r\n"])
async def test_an_answer_that_nobody_takes_is_dropped_in_the_end(client: Client, close: bytes) -> None:
    client = Client(keep_alive_s=0.02)
    client.protocol.data_received(HEAD + close + b"\r\n")
    await asyncio.sleep(0)
    client.stuck = 99
    client.calls[-1].reply(200, bytes(99))
    async with asyncio.timeout(5):
        while not client.closed:
            await asyncio.sleep(0.001)
        client.stuck = 98  # it takes some yet
        while not client.aborted:
            await asyncio.sleep(0.001)


async def test_a_refused_body_that_breaks_off_gets_no_second_answer(client: Client) -> None:
    client.protocol.data_received(HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\nab\r\n")
    await asyncio.sleep(0)
    client.calls[-1].reply(415, b"no")
    client.protocol.data_received(b"zz\r\n")
    assert client.sent.count(b"HTTP/1.1") == 1
    assert client.closed


async def test_half_a_head_behind_a_request_does_not_cut_its_answer_off(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.http.protocol._HEAD_S", 0.01)
    call = await client.call()
    client.protocol.data_received(b"POST /x HT")
    await asyncio.sleep(0.03)
    assert not client.closed
    call.reply(200, b"")
    client.protocol.data_received(b"TP/1.1\r\n")
    async with asyncio.timeout(5):
        while not client.closed:
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("limit", [2**20, 2**10])
async def test_an_idle_connection_holds_no_body(client: Client, limit: int) -> None:
    call = await client.call(bytes(2**16))
    with contextlib.suppress(TooLarge):
        assert len(await call.read(limit)) == 2**16
    call.reply(200, b"")
    assert client.protocol.requests.receiving is None
    assert not client.protocol.due
    assert not call.body


async def test_a_connection_that_was_reset_leaves_no_timer(client: Client) -> None:
    call = await client.call()
    call.reply(200, b"")
    clock = client.protocol.clock
    assert clock.running
    client.leave()
    assert not clock.running
    assert clock.timer is None


async def test_an_old_client_gets_no_chunks_and_no_end_that_is_none(client: Client) -> None:
    for ends in (True, False):
        it = Client()
        it.protocol.data_received(
            b"POST /x HTTP/1.0\r\ncontent-type: application/json\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n{}"
        )
        await asyncio.sleep(0)
        call = it.calls[-1]
        assert await call.read(9) == b"{}"
        call.start(200, [])
        call.feed(b"one")
        if ends:
            call.end(b"two")
        await it.end()
        head, _, body = it.sent.partition(b"\r\n\r\n")
        assert head == b"HTTP/1.1 200 OK\r\nconnection: close\r\nx-content-type-options: nosniff"
        assert body == b"one" + b"two" * ends
        assert (it.closed, it.aborted) == (ends, not ends)


async def test_a_bug_in_the_head_of_an_answer_is_a_500(client: Client) -> None:
    async def line(call: Call) -> None:
        call.reply(200, b"", [(b"x", b"1\r\nset-cookie: a=b")])

    call = await client.call()
    call.line = line
    await call.run()
    assert client.sent.startswith(b"HTTP/1.1 500 ")


async def test_a_line_that_ends_without_an_answer_breaks_the_connection(client: Client) -> None:
    await client.call()
    await client.end()
    assert (client.sent, client.closed) == (b"", True)


async def test_no_header_can_end_a_head(client: Client) -> None:
    call = await client.call()
    with pytest.raises(ValueError, match="line's end"):
        call.reply(200, b"", [(b"x", b"1\r\nset-cookie: a=b")])


def test_a_server_that_stops_ends_its_streams_with_an_error(start: Any, upstream: FakeUpstream) -> None:
    served = start(server="timeout_s = 30")
    index = len(upstream.requests)
    with request(served.url, "/v1/chat/completions", chat(model="slow-stream-2000-10", stream=True)) as sock:
        wait_window(upstream, index, "slow-stream-2000-10", "stream")
        ended = threading.Thread(target=served.stop)
        ended.start()  # drain_s is 2
        answer = b""
        while part := sock.recv(65536):
            answer += part
        ended.join()
    assert b'"code":"shutting_down"' in answer
    assert b"[DONE]" not in answer


@pytest.mark.parametrize("cut", [None, 20, 120, -1])
async def test_a_client_that_offers_another_protocol_is_answered_in_this_one(client: Client, cut: int | None) -> None:
    """Java's HTTP client offers HTTP/2 with its first requests."""
    offer = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAA\r\n"
    asked = HEAD + offer + b"x-mine: 1\r\ncontent-length: 2\r\n\r\n{}"
    for number in range(2):
        for piece in (asked[:cut], asked[cut:]) if cut else (asked,):
            client.protocol.data_received(piece)
        await asyncio.sleep(0)
        call = client.calls[-1]
        assert await call.read(9) == b"{}"
        assert call.header(b"x-mine") == "1"
        call.reply(200, b"ok")
        assert client.sent.count(b"\r\n\r\nok") == number + 1
        await asyncio.sleep(0)
    client.protocol.data_received(asked + asked)  # the second waits behind the first
    for _ in range(2):
        await asyncio.sleep(0)
        call = client.calls[-1]
        assert await call.read(9) == b"{}"
        call.reply(200, b"ok")
    assert client.sent.count(b"\r\n\r\nok") == 4
    await asyncio.sleep(0)
    last = asked.replace(b"Upgrade, ", b"Upgrade, close, ")
    client.protocol.data_received(last)
    await asyncio.sleep(0)
    client.calls[-1].reply(200, b"ok")
    assert client.sent.count(b"connection: close\r\n") == 1
    assert client.closed


async def test_an_offer_in_a_head_that_is_refused_is_no_bug(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    client.protocol.data_received(b"GET /x HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
    assert client.sent.startswith(b"HTTP/1.1 400")
    assert b"needs a Host header" in client.sent
    assert client.closed
    assert not caplog.records


async def test_a_tunnel_is_refused(client: Client) -> None:
    client.protocol.data_received(b"CONNECT example.com:443 HTTP/1.1\r\nhost: example.com\r\n\r\n")
    assert client.sent.count(b"HTTP/1.1 400") == 1
    assert client.closed
