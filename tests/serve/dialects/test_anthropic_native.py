"""Anthropic's Messages before an engine that has them: the client's own body, edited, and the engine's own answer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest
from anthropic import AsyncAnthropic

from tests.serve.conftest import events, in_process
from tests.upstream import FakeUpstream, Recorded

CONFIG = """
[engine.main]
url = "{url}"
key_header = "x-api-key"
[engine.vllm]
url = "{url}"
kind = "vllm"
warm_up = false
[policy.chat]
stages = ["urial"]
render = "chat"
[policy.apart]
engine = "vllm"
stages = ["urial"]
render = "chat"
cache_salt = "tenant"
"""
USAGE = {"input_tokens": 8, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 3, "output_tokens": 7}
MESSAGE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "m",
    "content": [{"type": "text", "text": "native"}], "stop_reason": "end_turn", "stop_sequence": None, "usage": USAGE,
}  # fmt: skip


def event(kind: str, **row: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **row})}\n\n".encode()


BEGUN = [
    event("message_start", message={**MESSAGE, "content": [], "usage": {**USAGE, "output_tokens": 1}}),
    event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    event("content_block_delta", index=0, delta={"type": "text_delta", "text": "native"}),
]
LONG = [event("content_block_delta", index=0, delta={"type": "text_delta", "text": "x" * 500})] * 200
ENDED = [
    event("content_block_stop", index=0),
    event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 7}),
    event("message_stop"),
]
STREAMS: dict[str, list[Any]] = {
    "whole": BEGUN + ENDED,
    "long": BEGUN + LONG + ENDED,
    "silent": BEGUN,
    "die": [*BEGUN, 0.01, None],
    "overloaded": [*BEGUN, event("error", error={"type": "overloaded_error", "message": "Overloaded"})],
}


def answer(record: Recorded) -> tuple[int, Any]:
    if "model" not in record.json:
        return 400, {"type": "error", "error": {"type": "invalid_request_error", "message": "model: Field required"}}
    return (200, STREAMS[record.json["model"]]) if record.json.get("stream") else (200, MESSAGE)


@pytest.fixture
def engine() -> Iterator[FakeUpstream]:
    with FakeUpstream() as upstream:
        upstream.others["/v1/messages"] = answer
        yield upstream


@pytest.fixture
async def client(engine: FakeUpstream, tmp_path: Path) -> AsyncIterator[AsyncAnthropic]:
    config = CONFIG.format(url=engine.url)
    async with (
        in_process(config, tmp_path) as url,
        httpx.AsyncClient(verify=False, base_url=url, timeout=10) as http,
        AsyncAnthropic(base_url=url, api_key="sk-mine", max_retries=0, timeout=10) as it,
    ):
        it.http = http  # type: ignore[attr-defined]
        yield it


async def post(client: Any, policy: str, body: bytes) -> httpx.Response:
    headers = {"x-trimtab-policy": policy, "content-type": "application/json", "x-api-key": "sk-mine"}
    reply: httpx.Response = await client.http.post("/v1/messages", content=body, headers=headers)
    return reply


def last(engine: FakeUpstream) -> Recorded:
    return [r for r in engine.posts if r.body != b"{}"][-1]


async def test_raw_passes_every_byte_on(client: AsyncAnthropic, engine: FakeUpstream) -> None:
    body = b'{ "model":"m","max_tokens":5,"messages":[{"role":"user","content":[{"type":"new_block"}]}], "x": 1.0}'
    assert (await post(client, "raw", body)).json() == MESSAGE
    assert (last(engine).path, last(engine).body) == ("/v1/messages", body)
    assert last(engine).header("x-api-key") == "sk-mine"
    assert last(engine).header("authorization") is None


async def test_blocks_keep_their_bytes_and_cache_marks(client: AsyncAnthropic, engine: FakeUpstream) -> None:
    block = b'{"type":"text", "text":"Long manual.","cache_control":{"type":"ephemeral","ttl":"1h"}}'
    turn = (
        b'{"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":"EqQB\\/"},'
        b'{"type":"tool_use","id":"a","name":"f","input":{"Content":1.0}}]}'
    )
    result = b'{"role":"user","content":[{"type":"tool_result","tool_use_id":"a","content":"1"}]}'
    body = (
        b'{"model":"m","max_tokens":5,"system":[%s],"thinking":{"type":"enabled","budget_tokens":1024},'
        b'"messages":[{"role":"user","content":"one"},%s,%s]}'
    ) % (block, turn, result)
    reply = await post(client, "chat", body)
    assert reply.headers["x-trimtab-applied"] == "urial=applied(3)"
    sent = last(engine)
    assert block in sent.body
    assert turn + b"," + result in sent.body
    assert b'"thinking":{"type":"enabled","budget_tokens":1024}' in sent.body
    assert [part["type"] for part in sent.json["system"]] == ["text", "text"]
    assert "cache_control" not in sent.json["system"][0]
    assert [row["role"] for row in sent.json["messages"][:7]] == ["user", "assistant"] * 3 + ["user"]


@pytest.mark.parametrize(("system", "ends"), [("Be kind.", "\n\nBe kind."), (None, ""), ([], "")])
async def test_the_policys_text_stands_in_system(
    client: AsyncAnthropic, engine: FakeUpstream, system: Any, ends: str
) -> None:
    row = {"model": "m", "max_tokens": 5, "system": system, "messages": [{"role": "user", "content": "hi"}]}
    await post(client, "chat", json.dumps(row).encode())
    sent = last(engine).json
    assert len(sent["system"]) > 100
    assert sent["system"].endswith(ends)
    assert len(sent["messages"]) == 7
    assert sent["messages"][-1] == {"role": "user", "content": "hi"}


@pytest.mark.parametrize("system", [None, "Be kind.", [{"type": "text", "text": "Be kind."}]])
async def test_a_model_without_a_system_role_gets_the_text_in_a_turn(
    client: AsyncAnthropic, engine: FakeUpstream, system: Any
) -> None:
    refused = {"type": "error", "error": {"type": "invalid_request_error", "message": "System role not supported"}}
    engine.others["/v1/messages"] = lambda record: (400, refused) if record.json.get("system") else answer(record)
    row = {"model": "m", "max_tokens": 5, "system": system, "messages": [{"role": "user", "content": "hi"}]}
    assert (await post(client, "chat", json.dumps(row).encode())).status_code == 200
    first = last(engine).json["messages"][0]
    assert first["role"] == "user"
    assert ("Be kind." in first["content"]) is bool(system)


@pytest.mark.parametrize("policy", ["raw", "chat"])
@pytest.mark.parametrize("model", ["whole", "long"])
async def test_a_stream_is_passed_on_and_its_usage_counted(
    client: Any, engine: FakeUpstream, policy: str, model: str
) -> None:
    row = {"model": model, "max_tokens": 5, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    reply = await post(client, policy, json.dumps(row).encode())
    assert reply.content == b"".join(STREAMS[model])
    trace = (await client.http.get(f"/v1/traces/{reply.headers['x-trimtab-trace']}")).json()
    assert (trace["usage"]["prompt_tokens"], trace["usage"]["completion_tokens"]) == (11, 7)
    assert trace["error"] is None


@pytest.mark.parametrize("policy", ["raw", "chat"])
@pytest.mark.parametrize("model", ["silent", "die"])
async def test_a_stream_without_message_stop_ends_in_an_error(
    client: AsyncAnthropic, engine: FakeUpstream, policy: str, model: str
) -> None:
    row: Any = {"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
    reply = await post(client, policy, json.dumps({**row, "stream": True}).encode())
    assert events(reply.text)[-1]["error"]["type"] == "api_error"
    with pytest.raises(anthropic.APIStatusError):
        async with client.messages.stream(**row) as stream:
            await stream.get_final_message()


async def test_an_error_event_of_the_engine_is_its_own_end(client: Any, engine: FakeUpstream) -> None:
    row = {"model": "overloaded", "max_tokens": 5, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    reply = await post(client, "raw", json.dumps(row).encode())
    assert reply.content == b"".join(STREAMS["overloaded"])
    assert (await client.http.get(f"/v1/traces/{reply.headers['x-trimtab-trace']}")).json()["error"]


async def test_tokens_are_counted_with_the_policys_own(client: AsyncAnthropic, engine: FakeUpstream) -> None:
    engine.others["/v1/messages/count_tokens"] = lambda record: (200, {"input_tokens": len(record.json["messages"])})
    row: Any = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    chat: Any = {"extra_headers": {"x-trimtab-policy": "chat"}}
    assert (await client.messages.count_tokens(**row, **chat)).input_tokens == 7
    assert engine.requests[-1].json["system"]
    del engine.others["/v1/messages/count_tokens"]  # as where the engine counts nothing: then we do
    few = (await client.messages.count_tokens(**row)).input_tokens
    assert 0 < few < (await client.messages.count_tokens(**row, **chat)).input_tokens


async def test_tenants_kept_apart_in_a_cache_get_the_path_that_knows_the_salt(
    client: AsyncAnthropic, engine: FakeUpstream
) -> None:
    await post(client, "apart", b'{"model":"echo","max_tokens":5,"messages":[{"role":"user","content":"hi"}]}')
    assert last(engine).path == "/v1/chat/completions"
    assert last(engine).json["cache_salt"]
