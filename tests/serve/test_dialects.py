"""A wire API is a package and a row: a toy one answers, streams and reports errors in its own shape."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.api.routes import DIALECTS
from tests.serve import toy_dialect
from tests.serve.conftest import events, in_process
from tests.upstream import FakeUpstream

CONFIG = """
[engine.main]
url = "{url}"
[policy.chat]
stages = ["urial"]
render = "chat"
[policy.base]
stages = ["urial"]
render = "base"
{more}
"""
KEY = '[[key]]\nid = "a"\nsha256 = "{}"\nrights = ["raw"]'
POLICIES = ["raw", "chat", "base"]


@pytest.fixture
async def http(upstream: FakeUpstream, tmp_path: Path, request: Any) -> AsyncIterator[httpx.AsyncClient]:
    more = getattr(request, "param", "")
    config = CONFIG.format(url=upstream.url, more=more)
    async with (
        in_process(config, tmp_path, dialects=(*DIALECTS, toy_dialect)) as url,
        httpx.AsyncClient(verify=False, base_url=url, timeout=10) as client,
    ):
        yield client


async def ask(http: httpx.AsyncClient, policy: str, **body: Any) -> httpx.Response:
    body = {"model": "echo", "say": "hello there", **body}
    return await http.post("/v1/toy", json=body, headers={"x-trimtab-policy": policy})


@pytest.mark.parametrize("policy", POLICIES)
async def test_it_answers(http: httpx.AsyncClient, policy: str, upstream: FakeUpstream) -> None:
    upstream.scripts["scripted"] = ["hello ", "there"]
    before = len(upstream.requests)
    answer = await ask(http, policy, max=50, model="scripted")
    body = answer.json()
    assert (answer.status_code, body["why"]) == (200, "stop")
    assert body["toy"] == "hello there"
    assert body["used"] > 0
    assert answer.headers["x-trimtab-policy"] == policy
    assert answer.headers["x-trimtab-applied"] == ("none" if policy == "raw" else "urial=applied(3)")
    sent = upstream.requests[-1]
    assert len(upstream.requests) == before + 1
    assert sent.path == ("/v1/completions" if policy == "base" else "/v1/chat/completions")
    assert sent.json["max_tokens"] == 50
    assert "say" not in sent.json


@pytest.mark.parametrize("policy", POLICIES)
async def test_it_streams(http: httpx.AsyncClient, policy: str) -> None:
    answer = await ask(http, policy, stream=True, model="stream-3")
    assert answer.headers["content-type"].startswith("text/event-stream")
    first, *words, why, used = events(answer.text)
    assert first == {"begin": True}
    assert "".join(row["word"] for row in words).strip() == "0 1 2"
    assert why == {"why": "stop"}
    assert used["used"] > 0


@pytest.mark.parametrize("policy", POLICIES)
async def test_it_reports_errors(http: httpx.AsyncClient, policy: str) -> None:
    answer = await ask(http, policy, say="")
    assert (answer.status_code, answer.json()) == (400, {"oops": "say something", "code": None})
    answer = await ask(http, policy, stream=True, model="die-mid-stream-2")
    assert answer.status_code == 200
    assert "broke" in events(answer.text)[-1]["oops"]
    answer = await ask(http, "nothing")
    assert (answer.status_code, answer.json()["code"]) == (404, "policy_not_found")


@pytest.mark.parametrize("http", [KEY.format(hashlib.sha256(b"toys").hexdigest())], indirect=True)
async def test_it_says_where_a_key_is(http: httpx.AsyncClient) -> None:
    assert (await ask(http, "raw")).json()["code"] == "missing_api_key"
    http.headers["x-toy-key"] = "toys"
    assert (await ask(http, "raw")).status_code == 200


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("status", [429, 500])
async def test_an_error_of_the_engine_keeps_its_status(http: httpx.AsyncClient, policy: str, status: int) -> None:
    answer = await ask(http, policy, model=f"error-{status}")
    assert answer.status_code == status
    assert answer.json().keys() == {"oops", "code"}
