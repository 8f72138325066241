"""A wire API is a package and a row: a toy one answers, streams and reports errors in its own shape."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.api.routes import DIALECTS
from serve.dialects.anthropic_messages.writer import _complete
from serve.dialects.dialect import BadEvent, Dialect
from serve.dialects.edited import row, rows, string
from serve.dialects.openai_chat.events import ChatReader
from serve.dialects.usage import UsageFilter
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


BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hello"}]},
    "/v1/completions": {"prompt": "hello"},
    "/v1/responses": {"input": "hello"},
    "/v1/messages": {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 9},
}


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.path)
@pytest.mark.parametrize("policy", POLICIES)
async def test_a_trace_keeps_the_conversation_in_one_shape(http: httpx.AsyncClient, dialect: Any, policy: str) -> None:
    """So that answers can be rated whatever API they were asked for in."""
    if policy not in ("raw", *dialect.renders):
        pytest.skip("this dialect does not carry it")
    body = {"model": "echo", **BODIES[dialect.path], "trimtab": {"explain": True}}
    answer = await http.post(dialect.path, json=body, headers={"x-trimtab-policy": policy})
    assert answer.status_code == 200, answer.text
    trace = (await http.get(f"/v1/traces/{answer.headers['x-trimtab-trace']}")).json()
    (turn,) = trace["before"]
    text = turn["content"] if isinstance(turn["content"], str) else "".join(part["text"] for part in turn["content"])
    assert (turn["role"], text) == ("user", "hello")
    assert trace["answer"] is not None
    rating = await http.post("/v1/feedback", json={"trace": trace["id"], "rating": "up"})
    assert rating.status_code == 200, rating.text


async def test_a_prompt_that_is_no_conversation_is_kept_as_it_came(http: httpx.AsyncClient) -> None:
    body = {"model": "echo", "prompt": ["a", "b"], "trimtab": {"explain": True}}
    answer = await http.post("/v1/completions", json=body)
    assert answer.status_code == 200
    trace = (await http.get(f"/v1/traces/{answer.headers['x-trimtab-trace']}")).json()
    assert (trace["before"], trace["params"]["prompt"]) == (None, ["a", "b"])


DEEP = b"[" * 50_000 + b"]" * 50_000


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_engines_answer_that_is_nested_deeply_is_one_that_says_nothing(dialect: Dialect) -> None:
    body = b'{"choices":[{"index":0,"finish_reason":"stop"}],"usage":%s}' % DEEP
    assert dialect.usage(body) is None
    assert dialect.text(body, stream=False) is None
    assert not dialect.ending(b"data: " + body + b"\n\n").usage
    assert dialect.refusal(500, body)


def test_events_that_are_nested_deeply_or_not_utf8_raise_nothing_where_they_pass() -> None:
    body = b'{"choices":[{"index":0,"finish_reason":"stop"}],"usage":%s}' % DEEP
    usage, event = UsageFilter(), b"data: " + body + b"\n\n"
    assert usage.feed(event) + usage.close() == event
    assert row(body) == row(b"[]")
    assert rows(DEEP) == []
    assert string(row(b'{"content":"\xff"}'), "content") == ""
    assert not _complete("[" * 50_000)  # a model may write such arguments
    with pytest.raises(BadEvent):
        ChatReader(1).feed(body)
