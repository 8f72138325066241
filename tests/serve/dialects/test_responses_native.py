"""OpenAI's Responses before an engine that has them: the client's own body, edited, and the engine's own answer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from tests.serve.conftest import events, in_process
from tests.upstream import FakeUpstream, Recorded

CONFIG = """
[engine.main]
url = "{url}"
[engine.told]
url = "{url}"
supports = ["tools"]
[policy.chat]
stages = ["urial"]
render = "chat"
[policy.told]
engine = "told"
stages = ["urial"]
render = "chat"
[policy.safe]
stages = ["urial"]
render = "chat"
fallback = ["told"]
[policy.base]
stages = ["urial"]
render = "base"
"""
USAGE = {
    "input_tokens": 11, "input_tokens_details": {"cached_tokens": 3}, "output_tokens": 7,
    "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 18,
}  # fmt: skip
MESSAGE = {
    "type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
    "content": [{"type": "output_text", "text": "native", "annotations": []}],
}  # fmt: skip
RESPONSE = {
    "id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": "m", "output": [MESSAGE],
    "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "usage": USAGE,
}  # fmt: skip


def event(kind: str, number: int, **row: Any) -> bytes:
    data = json.dumps({"type": kind, "sequence_number": number, **row})
    return f"event: {kind}\ndata: {data}\n\n".encode()


BEGUN = [
    event("response.created", 0, response={**RESPONSE, "status": "in_progress", "output": []}),
    event(
        "response.output_text.delta", 1, item_id="msg_1", output_index=0, content_index=0, delta="native", logprobs=[]
    ),
]
ENDED = [event("response.completed", 2, response=RESPONSE)]
STREAMS: dict[str, list[Any]] = {
    "whole": BEGUN + ENDED,
    "silent": BEGUN,
    "die": [*BEGUN, 0.01, None],
    "torn": [*BEGUN, ENDED[0][:40]],
    "failed": [*BEGUN, event("response.failed", 2, response={**RESPONSE, "error": {"code": "server_error"}})],
    "long": [*BEGUN, event("response.completed", 2, response={**RESPONSE, "instructions": "x" * 100_000})],
}  # fmt: skip


def answer(record: Recorded) -> tuple[int, Any]:
    if "model" not in record.json:
        return 400, {"error": {"message": "model is missing", "type": "invalid_request_error"}}
    if record.json.get("stream"):
        return 200, STREAMS[record.json["model"]]
    return 200, RESPONSE


@pytest.fixture
def engine() -> Iterator[FakeUpstream]:
    with FakeUpstream() as upstream:
        upstream.others["/v1/responses"] = answer
        yield upstream


@pytest.fixture
async def client(engine: FakeUpstream, tmp_path: Path) -> AsyncIterator[AsyncOpenAI]:
    config = CONFIG.format(url=engine.url)
    async with (
        in_process(config, tmp_path) as url,
        httpx.AsyncClient(verify=False, base_url=url, timeout=10) as http,
        AsyncOpenAI(base_url=url + "/v1", api_key="sk", max_retries=0, timeout=10, http_client=http) as it,
    ):
        yield it


async def post(client: AsyncOpenAI, policy: str, body: bytes) -> httpx.Response:
    headers = {"x-trimtab-policy": policy, "content-type": "application/json"}
    return await client._client.post("/v1/responses", content=body, headers=headers)


def last(engine: FakeUpstream) -> Recorded:
    return [r for r in engine.posts if r.body != b"{}"][-1]


async def test_raw_passes_every_byte_on(client: AsyncOpenAI, engine: FakeUpstream) -> None:
    body = (
        b'{ "model":"whole","input":[{"type":"reasoning","id":"rs_1","encrypted_content":"zz","summary":[]}], "x": 1.0}'
    )
    assert (await post(client, "raw", body)).json() == RESPONSE
    assert (last(engine).path, last(engine).body) == ("/v1/responses", body)


async def test_the_engine_is_asked_once_whether_it_has_the_api(client: AsyncOpenAI, engine: FakeUpstream) -> None:
    for _ in range(3):
        await client.responses.create(model="m", input="hi")
    assert [r.body for r in engine.posts].count(b"{}") == 1
    assert len(engine.posts) == 4


async def test_a_page_for_every_path_is_no_api(client: AsyncOpenAI, engine: FakeUpstream) -> None:
    engine.pages.add("/v1/responses")
    assert (await client.responses.create(model="echo", input="hi")).output_text == "hi"


async def test_supports_says_so_without_a_question(client: AsyncOpenAI, engine: FakeUpstream) -> None:
    await client.responses.create(model="m", input="hi", extra_headers={"x-trimtab-policy": "told"})
    assert [r.path for r in engine.posts] == ["/v1/chat/completions"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_fallback_without_the_api_gets_a_translation(
    client: AsyncOpenAI, engine: FakeUpstream, stream: bool
) -> None:
    engine.others["/v1/responses"] = lambda record: (
        503 if "model" in record.json else 400,
        {"error": {"message": "no"}},
    )
    body = {"model": "echo", "input": "hi", "stream": stream}
    reply = await post(client, "safe", json.dumps(body).encode())
    assert reply.status_code == 200
    assert engine.posts[-1].path == "/v1/chat/completions"
    last_row = events(reply.text)[-1]["response"] if stream else reply.json()
    assert last_row["output"][0]["content"][0]["text"] == "hi"
    reply = await post(client, "safe", json.dumps({**body, "previous_response_id": "resp_0"}).encode())
    assert reply.status_code in (400, 503)
    assert reply.json()["error"]["message"]


async def test_a_string_input_gets_instructions_and_exemplars(client: AsyncOpenAI, engine: FakeUpstream) -> None:
    reply = await post(client, "chat", b'{"model":"m","input":"hi","instructions":"Be kind.","store":true}')
    assert reply.json()["output"][0]["content"][0]["text"] == "native"
    assert reply.headers["x-trimtab-applied"] == "urial=applied(3)"
    body = last(engine).json
    assert body["instructions"].endswith("\n\nBe kind.")
    assert [item["role"] for item in body["input"]] == ["user", "assistant"] * 3 + ["user"]
    assert body["input"][-1] == {"role": "user", "content": "hi"}
    assert (body["store"], body["model"]) == (True, "m")


async def test_items_keep_their_bytes(client: AsyncOpenAI, engine: FakeUpstream) -> None:
    items = (
        b'{"role":"user","content":[{"type":"input_text","text":"one"}]},'
        b'{"type":"reasoning", "id":"rs_1","summary":[],"encrypted_content":"gAAA"},'
        b'{"type":"function_call","call_id":"a","name":"f","arguments":"{ }","status":"completed"},'
        b'{"type":"function_call_output","call_id":"a","output":"1.0"}'
    )
    await post(client, "chat", b'{"model":"m","input":[' + items + b'],"max_tool_calls":1e2}')
    sent = last(engine).body
    assert items in sent
    assert b'"max_tool_calls":1e2' in sent
    assert last(engine).json["instructions"]
    assert len(last(engine).json["input"]) == 10


async def test_a_developer_item_of_the_client_takes_the_policys_text(client: AsyncOpenAI, engine: FakeUpstream) -> None:
    item = {"role": "developer", "content": [{"type": "input_text", "text": "Be brief."}], "x": 1}
    await post(client, "chat", json.dumps({"model": "m", "input": [item, {"role": "user", "content": "hi"}]}).encode())
    body = last(engine).json
    first = body["input"][0]
    assert "instructions" not in body
    assert (first["role"], first["x"]) == ("system", 1)
    assert [part["type"] for part in first["content"]] == ["input_text", "input_text"]
    assert first["content"][1] == {"type": "input_text", "text": "Be brief."}


@pytest.mark.parametrize("more", [{}, {"instructions": "Be kind."}])
async def test_a_model_without_a_system_role_gets_the_text_in_a_turn(
    client: AsyncOpenAI, engine: FakeUpstream, more: dict[str, str]
) -> None:
    refused = {"error": {"message": "System role not supported", "type": "BadRequestError"}}
    engine.others["/v1/responses"] = lambda record: (
        (400, refused) if record.json.get("instructions") else answer(record)
    )
    reply = await post(client, "chat", json.dumps({"model": "m", "input": "hi", **more}).encode())
    assert reply.status_code == 200
    body = last(engine).json
    assert "instructions" not in body
    assert body["input"][0]["role"] == "user"
    assert more.get("instructions", "") in body["input"][0]["content"]


@pytest.mark.parametrize("state", [{"previous_response_id": "resp_0"}, {"conversation": "conv_1"}])
async def test_a_continued_conversation_gets_the_instruction_only(
    client: AsyncOpenAI, engine: FakeUpstream, state: dict[str, str]
) -> None:
    reply = await post(client, "chat", json.dumps({"model": "m", "input": "and then?", **state}).encode())
    assert reply.headers["x-trimtab-applied"] == "urial=applied(continued: instruction only)"
    body = last(engine).json
    assert body["input"] == "and then?"
    assert body["instructions"]
    assert state.items() <= body.items()


@pytest.mark.parametrize("policy", ["raw", "chat"])
@pytest.mark.parametrize("model", ["whole", "long"])
async def test_a_stream_is_passed_on_and_its_usage_counted(
    client: AsyncOpenAI, engine: FakeUpstream, policy: str, model: str
) -> None:
    reply = await post(client, policy, json.dumps({"model": model, "input": "hi", "stream": True}).encode())
    assert reply.content == b"".join(STREAMS[model])
    trace = (await client._client.get(f"/v1/traces/{reply.headers['x-trimtab-trace']}")).json()
    assert (trace["usage"]["prompt_tokens"], trace["usage"]["completion_tokens"]) == (11, 7)
    assert trace["error"] is None


async def test_the_usage_of_a_whole_answer_is_counted(client: AsyncOpenAI, engine: FakeUpstream) -> None:
    reply = await post(client, "chat", b'{"model":"m","input":"hi"}')
    trace = (await client._client.get(f"/v1/traces/{reply.headers['x-trimtab-trace']}")).json()
    assert trace["usage"]["completion_tokens"] == 7


@pytest.mark.parametrize("policy", ["raw", "chat"])
@pytest.mark.parametrize("model", ["silent", "die", "torn"])
async def test_a_stream_without_its_terminal_event_ends_in_an_error(
    client: AsyncOpenAI, engine: FakeUpstream, policy: str, model: str
) -> None:
    reply = await post(client, policy, json.dumps({"model": model, "input": "hi", "stream": True}).encode())
    tail = reply.text[reply.text.rindex("event: error") :]
    assert events(tail)[-1]["type"] == "error"
    with pytest.raises((openai.APIError, ValueError)):  # ValueError: the torn event is no JSON
        async for _ in await client.responses.create(model=model, input="hi", stream=True):
            pass


async def test_a_failed_response_is_its_own_end(client: AsyncOpenAI, engine: FakeUpstream) -> None:
    reply = await post(client, "raw", b'{"model":"failed","input":"hi","stream":true}')
    assert reply.content == b"".join(STREAMS["failed"])
    trace = (await client._client.get(f"/v1/traces/{reply.headers['x-trimtab-trace']}")).json()
    assert trace["error"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "resp_1"), ("DELETE", "resp_1"), ("GET", "resp_1/input_items"), ("POST", "resp_1/cancel")],
)
async def test_what_the_engine_keeps_is_there(
    client: AsyncOpenAI, engine: FakeUpstream, method: str, path: str
) -> None:
    engine.others[f"/v1/responses/{path}"] = lambda record: (200, {"id": "resp_1", "by": record.method})
    reply = await client._client.request(method, f"/v1/responses/{path}?include=x")
    assert reply.json() == {"id": "resp_1", "by": method}
    assert engine.requests[-1].path == f"/v1/responses/{path}?include=x"
    trace = (await client._client.get(f"/v1/traces/{reply.headers['x-trimtab-trace']}")).json()
    assert trace["path"].startswith("/v1/responses/{id}")
    assert (await client._client.request(method, "/v1/responses/none" + path[6:])).status_code == 404


@pytest.mark.parametrize("path", ["../admin", "%2e%2e/admin", "a/b", "a%2Fcancel%2F..", "resp_1/", "resp_1/cancel"])
async def test_no_other_path_of_the_engine_is_reached(client: AsyncOpenAI, engine: FakeUpstream, path: str) -> None:
    seen = len(engine.posts)
    reply = await client._client.get(f"/v1/responses/{path}")
    assert reply.status_code == 404
    assert len(engine.posts) == seen
    assert not [r.path for r in engine.requests if "admin" in r.path or "cancel" in r.path or "/b" in r.path]


async def test_an_engine_without_the_api_keeps_nothing(client: AsyncOpenAI, engine: FakeUpstream) -> None:
    reply = await client._client.get("/v1/responses/resp_1", headers={"x-trimtab-policy": "told"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "not_translatable")


async def test_tokens_are_counted_with_the_policys_own(client: AsyncOpenAI, engine: FakeUpstream) -> None:
    engine.others["/v1/responses/input_tokens"] = lambda record: (
        200, {"object": "response.input_tokens", "input_tokens": len(record.json["input"])}
    )  # fmt: skip
    count = client.responses.input_tokens.count
    assert (await count(model="m", input="hi", extra_headers={"x-trimtab-policy": "chat"})).input_tokens == 7
    assert engine.requests[-1].json["instructions"]
    del engine.others["/v1/responses/input_tokens"]  # as where the engine counts nothing: then we do
    few = (await count(model="m", input="hi")).input_tokens
    many = (await count(model="m", input="hi", extra_headers={"x-trimtab-policy": "told"})).input_tokens
    assert 0 < few < many


async def test_a_base_render_needs_no_native_api(client: AsyncOpenAI, engine: FakeUpstream) -> None:
    reply = await post(client, "base", b'{"model":"echo","input":"hi"}')
    assert reply.json()["object"] == "response"
    assert [r.path for r in engine.posts] == ["/v1/completions"]
