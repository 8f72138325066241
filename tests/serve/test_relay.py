"""The relay against a recording fake engine, and against raw sockets where the engine breaks HTTP itself."""

from __future__ import annotations

import asyncio
import gzip
import json
import select
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import uvloop

from serve.engine import relay as serve_relay
from serve.engine.connection import Closed, Connection, Malformed
from serve.engine.relay import Relay
from serve.engine.upstream import (
    FAILURES,
    Died,
    Oversized,
    Refused,
    TimedOut,
    Unconnected,
    Upstream,
    UpstreamError,
    upstream_error,
)
from serve.http.headers import request_headers, response_headers
from serve.http.pace import PIECE, Pace
from tests.upstream import FakeUpstream

JSON = {"content-type": "application/json"}


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as fake:
        yield fake


@pytest.fixture
async def relay() -> AsyncIterator[Relay]:
    client = Relay(connect_s=2, timeout_s=5)
    yield client
    await client.close()


def ask(model: str, text: str = "hello world", *, stream: bool = True, **fields: Any) -> bytes:
    messages = [{"role": "user", "content": text}]
    return json.dumps({"model": model, "messages": messages, "stream": stream, **fields}).encode()


async def chat(relay: Relay, upstream: FakeUpstream, body: bytes) -> Upstream:
    return await relay.send("POST", upstream.url + "/v1/chat/completions", JSON, body)


def texts(body: bytes) -> list[str]:
    events = [line[6:] for line in body.decode().splitlines() if line.startswith("data: {")]
    choices = [choice for event in events for choice in json.loads(event).get("choices", [])]
    return [c["delta"]["content"] for c in choices if c["delta"].get("content")]


async def until_died(reply: Upstream, pause: float = 0.0) -> tuple[bytes, Died]:
    """All that comes before the body breaks off, and how it does."""
    seen = b""
    try:
        async for chunk in reply.chunks():
            seen += chunk
            await asyncio.sleep(pause)
    except Died as died:
        return seen, died
    pytest.fail("the body ended well")


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def wire(serve: Serve) -> AsyncIterator[str]:
    """A bare server: `serve` gets each connection and does what no HTTP library would."""

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.transport.close()

    server = await asyncio.start_server(connection, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/models"
    finally:
        server.close()


def replies(raw: bytes, *, reset: bool = False, hold: float = 0.0) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        await writer.drain()
        await asyncio.sleep(hold)
        if reset:
            await asyncio.sleep(0.05)
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    return serve


async def test_answer_and_request_arrive_whole(relay: Relay, upstream: FakeUpstream) -> None:
    body = ask("echo", "Grüße 🎈", stream=False, unknown={"a": [1, 2.50]})
    reply = await chat(relay, upstream, body)
    answer = json.loads(await reply.read(10**6))
    assert (reply.status, answer["choices"][0]["message"]["content"]) == (200, "Grüße 🎈")
    assert reply.headers["content-type"] == "application/json"
    assert upstream.requests[0].body == body


async def test_engine_sees_no_header_that_we_did_not_give(relay: Relay, upstream: FakeUpstream) -> None:
    await (await chat(relay, upstream, ask("echo"))).read(10**6)
    assert {name.lower() for name, _ in upstream.requests[0].headers} == {
        "host", "accept-encoding", "content-type", "content-length",
    }  # fmt: skip
    assert upstream.requests[0].header("accept-encoding") == "identity"


async def test_errors_of_the_engine_are_answers(relay: Relay, upstream: FakeUpstream) -> None:
    for model, status in (("error-429", 429), ("error-html-502", 502), ("error-500", 500)):
        reply = await chat(relay, upstream, ask(model))
        assert reply.status == status
        assert str(status).encode() in await reply.read(10**6)


async def test_bodies_above_a_mebibyte_go_both_ways(relay: Relay, upstream: FakeUpstream) -> None:
    body = ask("huge-3000000", "x" * 3_000_000, stream=False)
    reply = await chat(relay, upstream, body)
    assert len(await reply.read(10**7)) > 3_000_000
    assert upstream.requests[0].body == body


async def test_answer_above_the_limit_is_oversized_and_closed(relay: Relay, upstream: FakeUpstream) -> None:
    reply = await chat(relay, upstream, ask("huge-30000000", stream=False))
    with pytest.raises(Oversized):
        await reply.read(100_000)
    await asyncio.to_thread(upstream.wait_abort)


async def test_first_chunk_arrives_before_the_second_is_sent(relay: Relay, upstream: FakeUpstream) -> None:
    reply = await chat(relay, upstream, ask("slow-stream-2-300"))
    seen = b""
    async for chunk in reply.chunks():
        seen += chunk
        if texts(seen) == ["0 "]:
            assert upstream.requests[0].sent == 1
    assert texts(seen) == ["0 ", "1 "]


async def test_two_hundred_streams_keep_their_order(relay: Relay, upstream: FakeUpstream) -> None:
    async def one() -> list[str]:
        return texts(await (await chat(relay, upstream, ask("slow-stream-20-5"))).read(10**6))

    whole = [f"{i} " for i in range(20)]
    assert await asyncio.gather(*[one() for _ in range(200)]) == [whole] * 200


async def test_connection_is_used_again_after_a_complete_answer(relay: Relay, upstream: FakeUpstream) -> None:
    for _ in range(3):
        await (await chat(relay, upstream, ask("stream-3"))).read(10**6)
    reply = await chat(relay, upstream, ask("stream-3"))
    seen = b""
    async for chunk in reply.chunks():
        seen += chunk
        if b"[DONE]" in seen:
            break
    await reply.done()
    await (await chat(relay, upstream, ask("stream-3"))).read(10**6)
    assert {request.connection for request in upstream.requests} == {0}


async def test_done_closes_a_stream_that_goes_on(relay: Relay, upstream: FakeUpstream) -> None:
    reply = await chat(relay, upstream, ask("slow-stream-1000-20"))
    await reply.done(within_s=0.1)
    await asyncio.to_thread(upstream.wait_abort)


# The client that leaves, in the three windows.


@pytest.mark.parametrize("stream", [True, False])
async def test_cancelled_before_headers_aborts(relay: Relay, upstream: FakeUpstream, stream: bool) -> None:
    task = asyncio.create_task(chat(relay, upstream, ask("slow-headers-30", stream=stream)))
    await asyncio.to_thread(upstream.wait_request)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await asyncio.to_thread(upstream.wait_abort)).window == "headers"


async def test_cancelled_before_the_first_token_aborts(relay: Relay, upstream: FakeUpstream) -> None:
    reply = await chat(relay, upstream, ask("slow-first-30"))
    task = asyncio.create_task(reply.read(10**6))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await asyncio.to_thread(upstream.wait_abort)).window == "first"


async def test_abort_in_mid_stream_is_seen_by_the_engine_and_the_reader(relay: Relay, upstream: FakeUpstream) -> None:
    reply = await chat(relay, upstream, ask("slow-stream-1000-20"))
    chunks = reply.chunks()
    while texts(await anext(chunks)) != ["2 "]:
        pass
    reply.abort()
    with pytest.raises(Died):
        await anext(chunks)
    assert (await asyncio.to_thread(upstream.wait_abort)).window == "stream"
    reply.abort()
    await (await chat(relay, upstream, ask("echo"))).read(10**6)
    assert upstream.requests[1].connection == 1


async def test_cancelled_upload_that_the_engine_does_not_read_closes_at_once(relay: Relay) -> None:
    arrived, over = asyncio.Event(), asyncio.Event()

    async def deaf(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        arrived.set()
        await over.wait()

    def open_to(url: str) -> int:
        port = int(url.split(":")[2].split("/", maxsplit=1)[0])
        return sum(1 for c in psutil.Process().net_connections("tcp4") if c.raddr and c.raddr.port == port)

    async with wire(deaf) as url:
        task = asyncio.create_task(relay.send("POST", url, JSON, bytes(50_000_000)))
        try:
            await asyncio.wait_for(arrived.wait(), 10)
            assert open_to(url) == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with asyncio.timeout(2):
                while open_to(url):
                    await asyncio.sleep(0.01)
        finally:
            task.cancel()
            over.set()


async def test_engine_that_stops_reading_times_out() -> None:
    async def deaf(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(1)

    relay = Relay(connect_s=0.2, timeout_s=0.2)
    async with wire(deaf) as url:
        with pytest.raises(TimedOut):
            await relay.send("POST", url, JSON, bytes(50_000_000))
    await relay.close()


def test_uvloop_closes_at_once_too() -> None:
    async def windows() -> None:
        for window in (
            lambda relay, fake: test_cancelled_before_headers_aborts(relay, fake, stream=True),
            test_cancelled_before_the_first_token_aborts,
            test_abort_in_mid_stream_is_seen_by_the_engine_and_the_reader,
            lambda relay, _: test_cancelled_upload_that_the_engine_does_not_read_closes_at_once(relay),
        ):
            relay = Relay(connect_s=2, timeout_s=5)
            with FakeUpstream() as fake:
                await window(relay, fake)
            await relay.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(windows())


# What is on the wire.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of its own for localhost, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-out", str(cert), "-keyout", str(key)]
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(("host", "trusted"), [("localhost", True), ("localhost", False), ("127.0.0.1", True)])
def test_tls_is_spoken_with_who_can_prove_its_name(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, host: str, trusted: bool, loop: str
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()

    async def talk() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        relay = Relay(connect_s=5, timeout_s=5)
        url = f"https://{host}:{server.sockets[0].getsockname()[1]}/"
        if trusted and host == "localhost":
            assert await (await relay.send("POST", url, {}, b"{}")).read(9) == b"ok"
        else:
            with pytest.raises(Refused):
                await relay.send("POST", url, {}, b"{}")
        await relay.close()
        server.close()
        await asyncio.sleep(0.05)  # for asyncio's own shutdown of TLS

    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]) if trusted else "/dev/null")
    serve_relay._tls.cache_clear()
    factory = uvloop.new_event_loop if loop == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(talk())
    serve_relay._tls.cache_clear()


async def test_a_name_with_a_dead_address_is_reached_by_another(
    relay: Relay, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(upstream.url.rpartition(":")[2])
    dead, alive = ((socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in ("127.0.0.9", "127.0.0.1"))

    async def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        return [dead, alive]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    reply = await relay.send("GET", f"http://engine.internal:{port}/v1/models", {}, None)
    assert reply.status == 200
    await reply.read(10**6)


async def test_no_header_ends_a_requests_head(relay: Relay, upstream: FakeUpstream) -> None:
    for value in ("a\r\nx: b", "a\nb", "a\rb", "a\0b"):
        with pytest.raises(Refused):
            await relay.send("GET", upstream.url + "/v1/models", {"authorization": value}, None)
    with pytest.raises(Refused):
        await relay.send("GET", upstream.url + "/v1/models HTTP/1.1\r\nx: y", {}, None)
    assert not upstream.requests


async def test_word_in_advance_is_not_the_answer_and_what_follows_it_is_nobodys(relay: Relay) -> None:
    connections = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged")
        await reader.read()

    async with wire(serve) as url:
        for _ in range(2):
            reply = await relay.send("GET", url, {}, None)
            assert (reply.status, await reply.read(10)) == (200, b"ok")
            assert dict(reply.raw_headers) == {b"content-length": b"2"}
        assert len(connections) == 2


async def test_an_unused_connection_is_closed_after_a_while(
    upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.engine.connection._IDLE_S", 0.1)
    monkeypatch.setattr("serve.engine.connection._TICK_S", 0.05)
    relay = Relay(connect_s=2, timeout_s=5)
    await (await chat(relay, upstream, ask("echo"))).read(10**6)
    assert len(relay._open) == 1
    async with asyncio.timeout(5):
        while relay._open or any(relay._idle.values()):
            await asyncio.sleep(0.02)
    await relay.close()


async def test_a_closed_relay_sends_nothing(upstream: FakeUpstream) -> None:
    relay = Relay(connect_s=2, timeout_s=5)
    await relay.close()
    with pytest.raises(Refused):
        await chat(relay, upstream, ask("echo"))
    assert not upstream.requests


async def test_a_pumped_body_waits_for_a_taker_that_is_behind(relay: Relay, upstream: FakeUpstream) -> None:
    reply = await chat(relay, upstream, ask("stream-20000"))
    taken: list[bytes] = []
    waits = 0

    def take(chunk: bytes) -> bool:
        taken.append(chunk)
        return len(taken) % 3 != 0

    async def ready() -> None:
        nonlocal waits
        waits += 1
        before = len(taken)
        await asyncio.sleep(0.01)
        assert len(taken) == before  # nothing comes in the meantime

    await reply.pump(take, ready)
    assert texts(b"".join(taken)) == [f"{i} " for i in range(20_000)]
    assert waits == len(taken) // 3 > 0


async def test_a_pumped_body_that_breaks_off_is_given_as_far_as_it_came(relay: Relay, upstream: FakeUpstream) -> None:
    taken: list[bytes] = []
    reply = await chat(relay, upstream, ask("die-mid-stream-5"))

    def take(chunk: bytes) -> bool:
        taken.append(chunk)
        return True

    async def ready() -> None:
        raise AssertionError("it was never behind")

    with pytest.raises(Died):
        await reply.pump(take, ready)
    assert texts(b"".join(taken)) == [f"{i} " for i in range(5)]


# The engine that fails.


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("how", ["die", "reset"])
async def test_engine_that_dies_mid_body_is_died_after_what_came(
    relay: Relay, upstream: FakeUpstream, how: str, stream: bool
) -> None:
    reply = await chat(relay, upstream, ask(f"{how}-mid-stream-5", stream=stream))
    seen, died = await until_died(reply, pause=0.1)  # a slow reader: the death is known before the last piece is read
    assert died.cause is not None
    if stream:
        assert texts(seen) == [f"{i} " for i in range(5)]


async def test_clean_end_without_done_is_an_end(relay: Relay, upstream: FakeUpstream) -> None:
    body = await (await chat(relay, upstream, ask("close-without-done-2"))).read(10**6)
    assert texts(body) == ["0 ", "1 "]
    assert b"[DONE]" not in body


async def test_nobody_listening_is_refused_and_names_no_address(relay: Relay) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(Refused) as raised:
            await relay.send("GET", f"http://127.0.0.1:{port}/v1/models", {}, None)
    assert str(raised.value) == "The engine cannot be reached."
    assert isinstance(raised.value.cause, ConnectionRefusedError)


@pytest.mark.parametrize("url", ["http://no-such-host.invalid/v1", "ftp://127.0.0.1/", "http:///v1"])
async def test_address_that_cannot_be_reached_is_refused(relay: Relay, url: str) -> None:
    with pytest.raises(Refused):
        await relay.send("GET", url, {}, None)


async def test_engine_without_tls_is_refused(relay: Relay) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with wire(plain) as url:
        with pytest.raises(Refused):
            await relay.send("GET", url.replace("http:", "https:"), {}, None)


async def test_connecting_is_bounded() -> None:
    relay = Relay(connect_s=0.2, timeout_s=30)
    with socket.socket() as full:  # a listener whose backlog is full drops further SYNs
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        others = [socket.socket() for _ in range(3)]
        for other in others:
            other.setblocking(False)
            other.connect_ex(("127.0.0.1", port))
        with pytest.raises(TimedOut, match="reached in time"):
            await relay.send("GET", f"http://127.0.0.1:{port}/", {}, None)
        for other in others:
            other.close()
    await relay.close()


@pytest.mark.parametrize("model", ["slow-headers-30", "slow-first-30", "slow-stream-5-30000"])
async def test_silence_times_out_and_closes_the_connection(upstream: FakeUpstream, model: str) -> None:
    relay = Relay(connect_s=2, timeout_s=0.2)
    with pytest.raises(TimedOut, match="nothing for too long"):
        await (await chat(relay, upstream, ask(model))).read(10**6)
    await asyncio.to_thread(upstream.wait_abort)
    await relay.close()


async def test_stream_may_last_longer_than_the_timeout(upstream: FakeUpstream) -> None:
    relay = Relay(connect_s=0.2, timeout_s=0.3)
    reply = await chat(relay, upstream, ask("slow-stream-10-100"))
    assert len(texts(await reply.read(10**6))) == 10
    await relay.close()


BROKEN = {
    "no http": b"hello\r\n\r\n",
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\ncontent-ty",
    "bad length": b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    "endless header": b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n",
    "short body": b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc",
    "chunked, unfinished": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
    "chunked, bad size": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
}


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("raw", BROKEN.values(), ids=BROKEN)
async def test_broken_http_is_died(relay: Relay, raw: bytes, reset: bool) -> None:
    async with wire(replies(raw, reset=reset)) as url:
        with pytest.raises(Died):
            await (await relay.send("POST", url, {}, b"{}")).read(1000)


@pytest.mark.parametrize("status", ["000", "099"])
async def test_a_status_that_is_none_is_died_at_once(relay: Relay, status: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status} Odd\r\ncontent-length: 2\r\n\r\nok".encode())
        await reader.read()

    async with wire(serve) as url:
        with pytest.raises(Died, match="not valid HTTP"):
            await relay.send("GET", url, {}, None)


async def test_bad_chunk_after_a_pause_is_died(relay: Relay) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await asyncio.sleep(0.1)
        writer.write(b"zz\r\n")
        await asyncio.sleep(0.5)

    async with wire(serve) as url:
        seen, _ = await until_died(await relay.send("POST", url, {}, b"{}"))
        assert seen == b"abc"


async def test_body_until_close_ends_with_the_connection_but_not_with_its_reset(relay: Relay) -> None:
    raw = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\ndata: 1\n\n"
    async with wire(replies(raw)) as url:
        assert await (await relay.send("POST", url, {}, b"{}")).read(1000) == b"data: 1\n\n"
    async with wire(replies(raw, reset=True)) as url:
        with pytest.raises(Died):
            await (await relay.send("POST", url, {}, b"{}")).read(1000)


async def test_slow_reader_gets_all_of_a_body_whose_connection_has_closed(relay: Relay) -> None:
    chunks = b"".join(b"8000\r\n" + bytes(0x8000) + b"\r\n" for _ in range(64))
    async with wire(replies(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")) as url:
        reply = await relay.send("POST", url, {}, b"{}")
        await asyncio.sleep(0.3)
        assert len(await reply.read(10**7)) == 64 * 0x8000


# The pooled connection that the engine has closed.


async def test_request_on_a_stale_connection_is_sent_again(relay: Relay) -> None:
    with FakeUpstream(close_reused=True) as upstream:
        first = await asyncio.gather(*[chat(relay, upstream, ask("slow-headers-0.3")) for _ in range(5)])
        for reply in first:
            await reply.read(10**6)
        for _ in range(3):  # five stale connections in the pool, one of them met by each request
            reply = await chat(relay, upstream, ask("echo", "again"))
            assert "".join(texts(await reply.read(10**6))) == "again"
        assert len(upstream.requests) == 8
        assert upstream.dropped == 3


async def test_request_on_a_new_connection_is_sent_once(relay: Relay) -> None:
    seen = []

    async def serve(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))

    async with wire(serve) as url:
        with pytest.raises(Died):
            await relay.send("POST", url, {}, b"{}")
    assert len(seen) == 1


@pytest.mark.parametrize("unread", [False, True])
async def test_request_that_crosses_its_connections_end_is_sent_again(relay: Relay, unread: bool) -> None:
    """The engine closes before the request reaches it, or upon a request that it has not read."""
    ok, seen = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", []
    answered = threading.Event()

    def serve(listener: socket.socket) -> None:
        for number in range(2):
            sock, _ = listener.accept()
            seen.append(sock.recv(65536))
            sock.sendall(ok)
            if not number and unread:
                select.select([sock], [], [], 5)
            sock.close()
            answered.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        engine = threading.Thread(target=serve, args=(listener,))
        engine.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
        assert await (await relay.send("POST", url, {}, b"{}")).read(10) == b"ok"
        if not unread:
            answered.wait(5)  # on the loop's own thread, which must not see the end before it sends again
        assert await (await relay.send("POST", url, {}, b"{}")).read(10) == b"ok"
        engine.join()
    assert len(seen) == 2


async def test_a_refusal_before_all_was_sent_ends_the_connection(relay: Relay) -> None:
    """What stands in it still would be before the next request."""
    connections = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        await asyncio.sleep(1.5)  # longer than what counts as closed before

    async with wire(serve) as url:
        for _ in range(2):
            answer = await relay.send("POST", url, {}, bytes(2**24))
            assert (answer.status, await answer.read(10)) == (413, b"no")
    assert len(connections) == 2


async def test_long_urls_are_not_remembered(relay: Relay, upstream: FakeUpstream) -> None:
    before = relay._known.cache_info().currsize
    answer = await relay.send("GET", f"{upstream.url}/v1/models?{'x' * 9000}", {}, None)
    assert answer.status == 200
    assert relay._known.cache_info().currsize == before
    answer.abort()


@pytest.mark.parametrize(("pause", "part"), [(1.2, b""), (0.2, b""), (0.0, b""), (0.0, b"HTTP/1.1 200 OK\r\nx-")])
async def test_reused_connection_that_worked_on_the_request_is_not_retried(
    relay: Relay, pause: float, part: bytes
) -> None:
    requests = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"{}"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        requests.append(await reader.readuntil(b"{}"))
        await asyncio.sleep(pause)
        writer.write(part)

    async with wire(serve) as url:
        assert await (await relay.send("POST", url, {}, b"{}")).read(10) == b"ok"
        with pytest.raises(Died):
            await relay.send("POST", url, {}, b"{}")
    assert len(requests) == 2


# What the relay leaves alone.


async def test_compressed_body_passes_as_it_is(relay: Relay) -> None:
    packed = gzip.compress(b"hello")
    head = f"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {len(packed)}\r\n\r\n"
    async with wire(replies(head.encode() + packed)) as url:
        reply = await relay.send("GET", url, {}, None)
        assert await reply.read(1000) == packed
        assert (b"content-encoding", b"gzip") in response_headers(reply.raw_headers)


async def test_redirect_is_an_answer_and_cookies_are_forgotten(relay: Relay) -> None:
    seen = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 307 x\r\nlocation: http://127.0.0.1:1/\r\nset-cookie: a=b\r\ncontent-length: 0\r\n\r\n")
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 x\r\n\r\n")

    async with wire(serve) as url:
        first = await relay.send("GET", url, {}, None)
        assert (first.status, await first.read(10)) == (307, b"")
        second = await relay.send("GET", url, {}, None)
        assert (second.status, await second.read(10)) == (204, b"")
    assert b"cookie" not in seen[1].lower()


async def test_an_engine_on_this_machine_is_reached_without_a_proxy(
    upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    later = Relay(connect_s=5, timeout_s=5)
    assert (await chat(later, upstream, ask("echo"))).status == 200
    await later.close()


async def test_slow_reader_pauses_the_engine(relay: Relay, upstream: FakeUpstream) -> None:
    reply = await chat(relay, upstream, ask("stream-200000"))
    started = time.monotonic()
    while time.monotonic() - started < 0.5:
        await asyncio.sleep(0.1)
    assert upstream.requests[0].sent < 200_000
    reply.abort()


# Errors and headers, as data.


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError(), TimedOut),
        (Unconnected(), TimedOut),
        (Closed("10.0.0.7"), Died),
        (socket.gaierror(-2, "no engine.internal at 10.0.0.7"), Refused),
        (ssl.SSLCertVerificationError("10.0.0.7"), Refused),
        (ConnectionRefusedError(111, "10.0.0.7"), Refused),
        (ConnectionResetError(104, "10.0.0.7"), Died),
        (BrokenPipeError(), Died),
        (OSError(113, "no route to 10.0.0.7"), Died),
        (ssl.SSLError("10.0.0.7"), Died),
        (Malformed("10.0.0.7"), Died),
    ],
)
def test_errors_of_sockets_are_mapped_and_say_nothing(error: Exception, kind: type[UpstreamError]) -> None:
    mapped = upstream_error(error)
    assert isinstance(error, FAILURES)
    assert type(mapped) is kind
    assert "10.0.0.7" not in str(mapped)


CLIENT = [
    (b"Host", b"me"), (b"cookie", b"a=b"), (b"authorization", b"Bearer mine"), (b"X-Trimtab-Policy", b"raw"),
    (b"content-type", b"application/json"), (b"accept", b"text/event-stream"), (b"accept-encoding", b"br"),
    (b"connection", b"keep-alive"), (b"content-length", b"3"), (b"x-forwarded-for", b"10.0.0.7"),
    (b"OpenAI-Project", b"p"), (b"traceparent", b"00-1"), (b"x-request-id", b"http://10.0.0.7/"),
    (b"user-agent", b"test"), (b"accept", b"*/*"),
]  # fmt: skip


def test_request_headers_are_an_allow_list() -> None:
    sent = {
        "content-type": "application/json", "accept": "text/event-stream, */*", "openai-project": "p",
        "traceparent": "00-1", "user-agent": "test",
    }  # fmt: skip
    assert request_headers(CLIENT) == sent
    assert request_headers(CLIENT, authorization=True) == sent | {"authorization": "Bearer mine"}
    sent.pop("openai-project")  # which is the client's account, and the key is not
    assert request_headers(CLIENT, "sk-1") == sent | {"authorization": "Bearer sk-1"}
    assert request_headers(CLIENT, "sk-1", authorization=True) == sent | {"authorization": "Bearer sk-1"}
    assert request_headers([(b"x-request-id", b"a-1.b_2:3")]) == {}


def test_response_headers_drop_what_concerns_the_connection_and_the_host() -> None:
    engine = [
        (b"Content-Type", b"text/event-stream"), (b"Connection", b"keep-alive, X-Hop"), (b"X-Hop", b"1"),
        (b"Transfer-Encoding", b"chunked"), (b"Set-Cookie", b"a=b"), (b"Server", b"uvicorn"), (b"Date", b"now"),
        (b"Content-Length", b"3"), (b"openai-processing-ms", b"7"), (b"X-Trimtab-Applied", b"forged"),
        (b"Access-Control-Allow-Origin", b"*"), (b"x-ratelimit-remaining", b"1"), (b"retry-after", b"7"),
    ]  # fmt: skip
    kept = [
        (b"content-type", b"text/event-stream"), (b"openai-processing-ms", b"7"), (b"x-engine-applied", b"forged"),
        (b"x-ratelimit-remaining", b"1"), (b"retry-after", b"7"),
    ]  # fmt: skip
    assert response_headers(engine) == kept
    assert (b"content-length", b"3") in response_headers(engine, length=True)


class Sink(asyncio.Transport):
    """Takes everything and keeps nothing."""

    sent = 0

    def write(self, data: Any) -> None:
        self.sent += len(data)


async def test_a_connection_lets_go_of_a_large_body_once_it_is_sent() -> None:
    connection, sink, body = Connection(5.0, lambda _: None, lambda _: None, Pace()), Sink(), bytes(3 * PIECE)
    connection.connection_made(sink)
    held = sys.getrefcount(body)
    connection.ask(b"", body, Upstream(connection))
    async with asyncio.timeout(30):
        while sink.sent < len(body):
            await asyncio.sleep(0.01)
    assert sys.getrefcount(body) == held
    connection.connection_lost(None)
