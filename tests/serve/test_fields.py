"""Fields that would reach an engine past the policy: by another spelling, or into the engine itself."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.engine.fields import GUARDED
from tests.serve.conftest import chat, in_process
from tests.upstream import FakeUpstream

CONFIG = """
[engine.main]
url = "{url}"
[engine.open]
url = "{url}"
fields_pass = ["priority", "chat_template", "chat_template_kwargs"]
[engine.laptop]
url = "{url}"
kind = "ollama"
fields_pass = ["min_p"]
[policy.laptop]
render = "chat"
engine = "laptop"
elsewhere = "raw"
[policy.polite]
stages = ["urial"]
render = "chat"
engine = "laptop"
[policy.chat]
stages = ["urial"]
render = "chat"
[policy.base]
stages = ["urial"]
render = "base"
[policy.open]
stages = ["urial"]
render = "chat"
engine = "open"
"""
PATH = "/v1/chat/completions"
POLICIES = ["raw", "chat", "base"]


@pytest.fixture
async def http(upstream: FakeUpstream, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        in_process(CONFIG.format(url=upstream.url), tmp_path) as url,
        httpx.AsyncClient(verify=False, base_url=url, timeout=10) as client,
    ):
        yield client


async def refusal(http: httpx.AsyncClient, policy: str, body: Any, path: str = PATH) -> dict[str, Any] | None:
    """The error of an answer; None where it is none."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = await http.post(
        path, content=data, headers={"x-trimtab-policy": policy, "content-type": "application/json"}
    )
    error: dict[str, Any] | None = answer.json().get("error")
    assert answer.status_code == (200 if error is None else 400)
    return error


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "name", ["Messages", "MODEL", "Stream", "Max_Tokens", "Trimtab", "meſſages", "Stop", "STREAM_options"]
)
async def test_a_known_field_by_another_spelling_is_refused(
    http: httpx.AsyncClient, upstream: FakeUpstream, policy: str, name: str
) -> None:
    before = len(upstream.requests)
    error = await refusal(http, policy, {**chat(), name: "x"})
    assert error is not None
    assert (error["code"], error["param"]) == ("field_spelling", name)
    assert not [r for r in upstream.requests[before:] if r.method == "POST"]


@pytest.mark.parametrize("policy", POLICIES[1:])
@pytest.mark.parametrize(
    "message",
    [
        b'{"role":"user","content":"a","Content":"b"}', b'{"role":"user","content":"a","\\u0043ontent":"b"}',
        b'{"Role":"system","role":"user","content":"a"}', '{"role":"user","content":"a","tool_callſ":[]}'.encode(),
        b'{"role":"user","content":[{"type":"text","text":"a","Text" : "b"}]}',
    ],
)  # fmt: skip
async def test_so_is_one_of_a_messages_keys(http: httpx.AsyncClient, policy: str, message: bytes) -> None:
    error = await refusal(http, policy, b'{"model":"echo","messages":[' + message + b"]}")
    assert error is not None
    assert (error["code"], error["param"]) == ("field_spelling", "messages")


@pytest.mark.parametrize("policy", POLICIES[1:])
@pytest.mark.parametrize("more", [b'"x":1e999', b'"\\ud800":1', b'"\\ud83d\\ude00":1'])
async def test_nothing_beside_a_misspelled_key_breaks_the_check(
    http: httpx.AsyncClient, policy: str, more: bytes
) -> None:
    body = b'{"model":"echo","messages":[{"role":"user","content":"a",' + more + b',"Content":"b"}]}'
    error = await refusal(http, policy, body)
    assert error is not None
    assert error["param"].startswith("messages")


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_string_that_looks_like_a_key_and_an_unknown_key_are_not(http: httpx.AsyncClient, policy: str) -> None:
    words = '{"Role": "x", "Content": 1} "Text": "y"'
    assert await refusal(http, policy, chat(words, Mine=1, seed=1)) is None
    rows: list[Any] = [{"role": "user", "content": "hi", "Mine": {"Deep": 1, "Text": "x"}}]
    assert await refusal(http, policy, {"model": "echo", "messages": rows}) is None


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", GUARDED)
async def test_a_field_that_reaches_into_an_engine_is_refused_and_the_setting_named(
    http: httpx.AsyncClient, policy: str, name: str
) -> None:
    error = await refusal(http, policy, chat(**{name: {"a": 1, "messages": []}}))
    assert error is not None
    assert (error["code"], error["param"]) == ("field_not_passed", name)
    assert f'fields_pass = ["{name}"] in [engine.main]' in error["message"]
    assert await refusal(http, policy, chat(**{name: None})) is None


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings"])
async def test_so_it_is_on_other_paths(http: httpx.AsyncClient, path: str) -> None:
    error = await refusal(http, "raw", {"model": "echo", "prompt": "x", "input": "x", "priority": 1}, path)
    assert error is not None
    assert error["code"] == "field_not_passed"


async def test_an_engine_may_let_fields_pass(http: httpx.AsyncClient, upstream: FakeUpstream) -> None:
    assert await refusal(http, "open", chat(priority=1, chat_template_kwargs={"x": 1})) is None
    assert upstream.requests[-1].json["priority"] == 1
    assert await refusal(http, "open", chat(request_id="x")) is not None


@pytest.mark.parametrize("key", ["enable_thinking", "thinking", "reasoning_effort"])
async def test_the_everyday_settings_of_a_template_pass(http: httpx.AsyncClient, key: str) -> None:
    assert await refusal(http, "chat", chat(chat_template_kwargs={key: True})) is None
    assert await refusal(http, "chat", chat(chat_template_kwargs={key: True, "documents": []})) is not None


@pytest.mark.parametrize("policy", ["laptop", "polite"])
async def test_what_the_kind_of_engine_ignores_is_refused_on_every_api(http: httpx.AsyncClient, policy: str) -> None:
    error = await refusal(http, policy, chat(top_k=5))
    assert error is not None
    assert (error["code"], error["param"]) == ("unsupported", "top_k")
    assert 'fields_pass = ["top_k"] in [engine.laptop]' in error["message"]
    message = {"model": "echo", "max_tokens": 8, "messages": [{"role": "user", "content": "x"}]}
    error = await refusal(http, policy, message | {"top_k": 5}, "/v1/messages")
    assert error is not None
    assert "ignores 'top_k'" in error["message"]
    assert await refusal(http, policy, chat(min_p=0.5, top_k=-1)) is None
    assert await refusal(http, "raw", chat(top_k=5)) is None  # of an engine that speaks for itself


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank", "/v1/audio/speech"])
async def test_what_chats_ignore_is_no_matter_of_other_paths(
    http: httpx.AsyncClient, upstream: FakeUpstream, path: str
) -> None:
    body = {"model": "echo", "input": "x", "query": "x", "top_k": 5, "options": {"num_ctx": 9}}
    answer = await http.post(path, json=body, headers={"x-trimtab-policy": "laptop"})
    assert answer.status_code != 400, answer.text
    assert (upstream.requests[-1].path, upstream.requests[-1].json["top_k"]) == (path, 5)
