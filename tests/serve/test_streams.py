"""Streams behind proxies: not held back, and kept alive while an engine thinks."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.serve.bare import serving
from tests.serve.conftest import Served, Start, chat, events
from tests.upstream import FakeUpstream

PATH = "/v1/chat/completions"
BEAT = ": waiting for the engine\n\n"


@pytest.fixture(scope="module")
def beating(start: Start) -> Served:
    return start(server="timeout_s = 30\nheartbeat_s = 0.1")


@pytest.fixture
async def alive(beating: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=beating.url, timeout=20) as client:
        yield client


@pytest.mark.parametrize("model", ["slow-first-0.6", "slow-headers-0.6"])
@pytest.mark.parametrize("policy", ["raw", "chat", "base"])
async def test_a_stream_is_kept_alive_before_its_first_event(alive: httpx.AsyncClient, policy: str, model: str) -> None:
    answer = await alive.post(PATH, json=chat("hi", model, stream=True), headers={"x-trimtab-policy": policy})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-trimtab-policy"] == policy
    assert 2 <= answer.text.count(BEAT) <= 7
    assert answer.text.replace(BEAT, "").startswith("data: ")
    assert events(answer.text)[-1] == "[DONE]"


async def test_comments_stand_between_events_only(alive: httpx.AsyncClient, upstream: FakeUpstream) -> None:
    upstream.scripts["pauses"] = ["a", 0.35, "b", 0.35, "c"]
    answer = await alive.post(PATH, json=chat("hi", "pauses", stream=True))
    assert answer.text.count(BEAT) >= 2
    blocks = answer.text.split("\n\n")
    assert all(block.startswith((": ", "data: ")) and "\n" not in block for block in blocks[:-1])


async def test_an_engine_that_refuses_after_a_heartbeat_is_heard(start: Start) -> None:
    """What a status would have said stands in an event."""

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while b"POST" not in (await reader.readuntil(b"\r\n\r\n")):
            writer.write(b"HTTP/1.1 404 x\r\ncontent-length: 0\r\n\r\n")
        await asyncio.sleep(0.5)
        body = b'{"error":\n{"message": "no such thing", "code": "nothing"}}'
        writer.write(
            b"HTTP/1.1 400 x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
        )
        writer.close()

    async with serving(slow) as port:
        text = f'state_dir = "{{state}}"\n[server]\nheartbeat_s = 0.1\n[engine.main]\nurl = "http://127.0.0.1:{port}"\n'
        trimtab = await asyncio.to_thread(lambda: start(file=text))
        async with httpx.AsyncClient(base_url=trimtab.url, timeout=20) as http:
            answer = await http.post(PATH, json=chat("hi", "m", stream=True))
            trace = (await http.get(f"/v1/traces/{answer.headers['x-trimtab-trace']}")).json()
        await asyncio.to_thread(trimtab.stop)
    assert answer.status_code == 200
    assert answer.text.replace(BEAT, "") == (
        'data: {"error":\ndata: {"message": "no such thing", "code": "nothing"}}\n\n'
    )
    assert trace["error"] == "engine answered 400"


async def test_whole_answers_and_quick_streams_get_no_comment(alive: httpx.AsyncClient) -> None:
    assert (await alive.post(PATH, json=chat("hi", "slow-headers-0.4"))).json()["object"] == "chat.completion"
    assert BEAT not in (await alive.post(PATH, json=chat("hi", "stream-50", stream=True))).text


# ---------------------------------------------------------------- behind nginx

NGINX = """
daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{ }}
http {{ access_log off; client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
server {{ listen unix:{folder}/nginx.sock; location / {{ proxy_pass {url}; }} }} }}
"""


@pytest.fixture
def nginx(served: Served, tmp_path: Path) -> Iterator[httpx.AsyncHTTPTransport]:
    """A real nginx with its defaults before the server."""
    if (command := shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin")) is None:
        pytest.skip("no nginx")
    (config := tmp_path / "nginx.conf").write_text(NGINX.format(folder=tmp_path, url=served.url))
    tmp_path.chmod(0o777)
    process = subprocess.Popen([command, "-c", str(config), "-p", str(tmp_path), "-e", str(tmp_path / "error.log")])
    deadline = time.monotonic() + 10
    while not (tmp_path / "nginx.sock").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield httpx.AsyncHTTPTransport(uds=str(tmp_path / "nginx.sock"))
    process.terminate()
    process.wait(10)


@pytest.mark.parametrize("policy", ["raw", "chat", "base"])
async def test_nginx_with_its_defaults_passes_a_stream_on_as_it_comes(
    nginx: httpx.AsyncHTTPTransport, upstream: FakeUpstream, policy: str
) -> None:
    upstream.scripts["slow"] = ["a", 1.0, "b"]
    body, times = chat("hi", "slow", stream=True), []
    async with (
        httpx.AsyncClient(base_url="http://trimtab", transport=nginx, timeout=20) as http,
        http.stream("POST", PATH, json=body, headers={"x-trimtab-policy": policy, "host": "localhost"}) as answer,
    ):
        assert answer.status_code == 200
        async for _ in answer.aiter_raw():
            times.append(time.monotonic())
    assert times[-1] - times[0] > 0.8
