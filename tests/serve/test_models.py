"""/v1/models, /v1/policies, health and readiness."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from tests.serve.conftest import Served, Start, chat
from tests.upstream import FakeUpstream


@pytest.fixture(scope="module")
def plain(start: Start) -> str:
    """A server whose only engine is the fake, with an alias."""
    aliases = '[alias]\ngood = { policy = "urial", model = "echo" }\necho = { policy = "urial" }\n'
    return start(file=f'state_dir = "{{state}}"\n[engine.main]\nurl = "{{url}}"\n{aliases}').url


@pytest.fixture(scope="module")
def before_port(start: Start, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, int]:
    """A server before an engine on a port that each test opens anew."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    folder = tmp_path_factory.mktemp("port")
    return start("--upstream", f"http://127.0.0.1:{port}", "--state-dir", str(folder), file="").url, port


async def test_aliases_come_first_and_hide_a_model_of_their_name(plain: str) -> None:
    async with AsyncOpenAI(base_url=f"{plain}/v1", api_key="k", http_client=httpx.AsyncClient(verify=False)) as client:
        rows = [row async for row in client.models.list()]
        assert [row.id for row in rows][:2] == ["good", "echo"]
        assert [row.id for row in rows].count("echo") == 1
        assert (await client.models.retrieve("good")).owned_by == "trimtab"


async def test_an_unknown_model_is_a_404_with_the_known_ones(plain: str) -> None:
    async with httpx.AsyncClient(verify=False, base_url=plain) as http:
        answer = await http.get("/v1/models/other/one")
    assert answer.status_code == 404
    assert answer.json()["error"]["message"].startswith("no model 'other/one'; valid are good, echo")


async def test_an_engine_that_cannot_be_asked_leaves_the_others_listed(served: Served) -> None:
    async with httpx.AsyncClient(verify=False, base_url=served.url) as http:
        ids = [row["id"] for row in (await http.get("/v1/models")).json()["data"]]
    assert ids[:2] == ["gpt-aligned", "gpt-base"]
    assert ids.count("echo") == 1
    served.wait_for("engine dead: The engine cannot be reached")


async def test_the_only_engine_that_cannot_be_asked_is_named(before_port: tuple[str, int]) -> None:
    async with httpx.AsyncClient(verify=False, base_url=before_port[0]) as http:
        answer = await http.get("/v1/models")
    assert answer.status_code == 502
    where = f"http://127.0.0.1:{before_port[1]}"
    assert answer.json()["error"]["message"] == f"engine 'main' at {where}: The engine cannot be reached."


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        ("200 OK", b'{"data":[{"id":"m"},{"no":"id"},{"id":5}]}', 200),
        ("200 OK", b'{"data":5}', 502),
        ("200 OK", b"[]", 502),
        ("200 OK", b"<html>", 502),
        ("200 OK", b'{"data":["m"]}', 502),
        ("404 Not Found", b"", 200),
        ("401 Unauthorized", b'{"error":"sk-part"}', 502),
        ("500 Oops", b"", 502),
        ("302 Found", b"", 502),
    ],
)
async def test_whatever_an_engine_says_of_its_models_is_no_500(
    before_port: tuple[str, int], status: str, body: bytes, expected: int
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    url, port = before_port
    async with await asyncio.start_server(serve, "127.0.0.1", port), httpx.AsyncClient(verify=False) as http:
        answer = await http.get(f"{url}/v1/models")
    assert answer.status_code == expected, answer.text
    assert "sk-part" not in answer.text
    if expected == 200:
        assert [row["id"] for row in answer.json()["data"]] == (["m"] if body else [])


async def test_policies_say_what_they_do(served: Served) -> None:
    async with httpx.AsyncClient(verify=False, base_url=served.url) as http:
        rows = {row["id"]: row for row in (await http.get("/v1/policies")).json()["data"]}
    assert rows["raw"]["stages"] == []
    assert rows["base"]["render"] == "base"
    assert rows["base"]["profile"] == "default"
    assert rows["base"]["digest"] != rows["chat"]["digest"]
    assert [name for name, row in rows.items() if row["default"]] == ["raw"]


async def engines(http: httpx.AsyncClient) -> dict[str, Any]:
    told: dict[str, Any] = (await http.get("/readyz")).json()["engines"]
    return told


async def readiness(http: httpx.AsyncClient, status: int) -> None:
    """Until /readyz has that status."""
    deadline = time.monotonic() + 20
    while (answer := await http.get("/readyz")).status_code != status:
        assert time.monotonic() < deadline, answer.text
        await asyncio.sleep(0.02)


async def test_a_single_engine_is_waited_for_and_missed(start: Start) -> None:
    with FakeUpstream() as engine:
        port, url = engine.port, engine.url
    trimtab = start(file=f'state_dir = "{{state}}"\n[engine.main]\nurl = "{url}/v1"\n')
    assert url in trimtab.wait_for(r"engine main: no answer from \S+: The engine cannot be reached\. \(Connection")
    async with httpx.AsyncClient(base_url=trimtab.url) as http:
        assert (await http.get("/readyz")).status_code == 503
        answer = await http.post("/v1/chat/completions", json=chat())
        assert answer.json()["error"]["message"] == f"engine 'main' at {url}: The engine cannot be reached."
        with FakeUpstream(port):
            await readiness(http, 200)
            trimtab.wait_for(f"engine main: {url} answers")
        assert (await http.post("/v1/chat/completions", json=chat())).status_code == 502
        await readiness(http, 503)  # the failure had it asked again


async def test_health_and_readiness(served: Served) -> None:
    async with httpx.AsyncClient(verify=False, base_url=served.url) as http:
        assert (await http.get("/healthz")).json() == {"status": "ok"}
        deadline = time.monotonic() + 10
        while "unknown" in (states := {name: it["state"] for name, it in (await engines(http)).items()}).values():
            assert time.monotonic() < deadline, states
        assert (await engines(http))["main"] == {"state": "ready", "reason": ""}
        assert (await engines(http))["dead"] == {"state": "down", "reason": "The engine cannot be reached."}
        assert (await http.get("/readyz")).status_code == 503  # for that one
        assert (await http.post("/v1/chat/completions", json=chat())).is_success
