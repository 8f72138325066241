"""Anthropic's Messages before an engine that has no such API: the real client, raw and under `urial`, chat and base."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest
from anthropic import AsyncAnthropic
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from tests.serve.conftest import events, in_process
from tests.upstream import FakeUpstream, Recorded

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
_event: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
WEATHER = {"name": "get_weather", "description": "Weather", "input_schema": {"type": "object"}}


@pytest.fixture
async def client(upstream: FakeUpstream, tmp_path: Path, request: Any) -> AsyncIterator[AsyncAnthropic]:
    config = CONFIG.format(url=upstream.url, more=getattr(request, "param", ""))
    async with (
        in_process(config, tmp_path) as url,
        httpx.AsyncClient(verify=False, base_url=url, timeout=10) as http,
        AsyncAnthropic(base_url=url, api_key="sk-mine", max_retries=0, timeout=10) as it,
    ):
        it.http = http  # type: ignore[attr-defined]
        yield it


def under(policy: str) -> dict[str, Any]:
    return {"extra_headers": {"x-trimtab-policy": policy}}


def sent(upstream: FakeUpstream) -> Recorded:
    return next(r for r in reversed(upstream.requests) if r.method == "POST" and r.path != "/v1/messages")


async def ask(client: AsyncAnthropic, policy: str = "raw", **body: Any) -> Message:
    body = {"model": "echo", "max_tokens": 50, "messages": [{"role": "user", "content": "hello there"}], **body}
    return await client.messages.create(**body, **under(policy))


async def post(client: Any, policy: str = "raw", **body: Any) -> httpx.Response:
    body = {"model": "echo", "max_tokens": 50, "messages": [{"role": "user", "content": "hello there"}], **body}
    answer: httpx.Response = await client.http.post("/v1/messages", json=body, headers={"x-trimtab-policy": policy})
    return answer


async def streamed(client: AsyncAnthropic, policy: str, **body: Any) -> list[dict[str, Any]]:
    """A stream's events, each held against the client's own types; pings left out."""
    answer = await post(client, policy, stream=True, **body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    rows = [row for row in events(answer.text) if row["type"] != "ping"]
    for row in rows:
        if row["type"] != "error":
            _event.validate_python(row)
    named = [line[7:] for line in answer.text.splitlines() if line.startswith("event: ")]
    assert [name for name in named if name != "ping"] == [row["type"] for row in rows]
    return rows


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_message_is_answered(client: AsyncAnthropic, upstream: FakeUpstream, policy: str) -> None:
    upstream.scripts["scripted"] = ["hello ", "there"]
    raw = await client.messages.with_raw_response.create(
        model="scripted", max_tokens=40, system="Be kind.", stop_sequences=["END"], extra_body={"temperature": 0.5},
        messages=[{"role": "user", "content": "hello there"}], **under(policy),
    )  # fmt: skip
    body = await raw.json()
    Message.model_validate(body)
    assert body["content"] == [{"type": "text", "text": "hello there"}]
    assert (body["stop_reason"], body["model"], body["role"]) == ("end_turn", "scripted", "assistant")
    assert body["usage"]["input_tokens"] > 0 < body["usage"]["output_tokens"]
    assert raw.headers["x-trimtab-policy"] == policy
    assert raw.headers["x-trimtab-applied"] == ("none" if policy == "raw" else "urial=applied(3)")
    asked = sent(upstream).json
    assert (asked["max_tokens"], asked["temperature"]) == (40, 0.5)
    assert "END" in asked["stop"]
    assert not {"system", "stop_sequences"} & asked.keys()
    if policy == "base":
        assert sent(upstream).path == "/v1/completions"
        assert "Be kind." in asked["prompt"]
    else:
        assert sent(upstream).path == "/v1/chat/completions"
        assert asked["messages"][0]["role"] == "system"
        assert asked["messages"][0]["content"].endswith("Be kind.")
        assert asked["messages"][-1] == {"role": "user", "content": "hello there"}
        assert len(asked["messages"]) == (2 if policy == "raw" else 8)


@pytest.mark.parametrize("policy", POLICIES)
async def test_every_event_comes_in_order(client: AsyncAnthropic, policy: str) -> None:
    rows = await streamed(client, policy, model="stream-3")
    deltas = [row["delta"]["text"] for row in rows if row["type"] == "content_block_delta"]
    assert [row["type"] for row in rows] == [
        "message_start", "content_block_start", *["content_block_delta"] * len(deltas), "content_block_stop",
        "message_delta", "message_stop",
    ]  # fmt: skip
    assert "".join(deltas).strip() == "0 1 2"
    assert rows[-2]["delta"]["stop_reason"] == "end_turn"
    assert rows[-2]["usage"]["input_tokens"] > 0 < rows[-2]["usage"]["output_tokens"]


@pytest.mark.parametrize("policy", POLICIES)
async def test_the_clients_own_stream_gathers_the_message(client: AsyncAnthropic, policy: str) -> None:
    body: Any = {"model": "stream-3", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}
    async with client.messages.stream(**body, **under(policy)) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        message = await stream.get_final_message()
    assert text.strip() == "0 1 2"
    assert message.content[0].type == "text"
    assert message.stop_reason == "end_turn"


async def test_text_arrives_token_by_token(client: AsyncAnthropic) -> None:
    body: Any = {"model": "slow-stream-40-50", "max_tokens": 90, "messages": [{"role": "user", "content": "hi"}]}
    seen = 0
    async with client.messages.stream(**body, **under("chat")) as stream:
        async for _ in stream.text_stream:
            seen += 1
            if seen == 2:  # long before the fortieth
                break
    assert seen == 2


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_stop_sequence_is_named(client: AsyncAnthropic, upstream: FakeUpstream, policy: str) -> None:
    upstream.scripts["stopped"] = ["one ", "two ", "three"]
    message = await ask(client, policy, model="stopped", stop_sequences=["two"])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "two")
    assert message.content[0].type == "text"
    assert message.content[0].text == "one "
    rows = await streamed(client, policy, model="stopped", stop_sequences=["two"])
    assert rows[-2]["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "two"}


@pytest.mark.parametrize("policy", POLICIES)
async def test_an_answer_cut_at_the_limit_says_so(client: AsyncAnthropic, policy: str) -> None:
    assert (await ask(client, policy, model="stream-9", max_tokens=2)).stop_reason == "max_tokens"


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("model", ["die-mid-stream-2", "close-without-done-2", "error-mid-stream-2"])
async def test_a_stream_that_breaks_ends_in_an_error_event(client: AsyncAnthropic, policy: str, model: str) -> None:
    rows = await streamed(client, policy, model=model)
    assert rows[-1]["type"] == "error"
    assert rows[-1]["error"]["type"] == "api_error"
    body: Any = {"model": model, "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}
    with pytest.raises(anthropic.APIStatusError):
        async with client.messages.stream(**body, **under(policy)) as stream:
            await stream.get_final_message()


@pytest.mark.parametrize("policy", ["raw", "chat"])
async def test_tools_make_a_round_trip(client: AsyncAnthropic, upstream: FakeUpstream, policy: str) -> None:
    messages: list[Any] = [{"role": "user", "content": "Weather in Paris?"}]
    answer = await ask(client, policy, model="tools", messages=messages, tools=[WEATHER], tool_choice={"type": "any"})
    call = answer.content[0]
    assert call.type == "tool_use"
    assert (call.name, answer.stop_reason) == ("get_weather", "tool_use")
    function = {"name": "get_weather", "description": "Weather", "parameters": {"type": "object"}}
    assert sent(upstream).json["tools"] == [{"type": "function", "function": function}]
    assert sent(upstream).json["tool_choice"] == "required"
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "sunny"}]}
    messages += [{"role": "assistant", "content": [block.model_dump() for block in answer.content]}]
    messages += [{"role": "user", "content": [result]}]
    answer = await ask(client, policy, model="tools", messages=messages, tools=[WEATHER])
    assert answer.content[0].type == "text"
    assert answer.content[0].text == "sunny"
    *_, user, asked, told = sent(upstream).json["messages"]
    assert user == {"role": "user", "content": "Weather in Paris?"}
    assert asked["content"] is None
    assert json.loads(asked["tool_calls"][0]["function"]["arguments"]) == call.input
    assert told == {"role": "tool", "tool_call_id": call.id, "content": "sunny"}


@pytest.mark.parametrize("policy", ["raw", "chat"])
async def test_calls_are_streamed_one_block_after_the_other(client: AsyncAnthropic, policy: str) -> None:
    rows = await streamed(client, policy, model="tools", tools=[WEATHER, {**WEATHER, "name": "get_time"}])
    kinds = [row["type"] for row in rows if "block" in row["type"] and "delta" not in row["type"]]
    assert kinds == ["content_block_start", "content_block_stop"] * 2
    starts = [row["content_block"] for row in rows if row["type"] == "content_block_start"]
    assert [block["name"] for block in starts] == ["get_weather", "get_time"]
    assert rows[-2]["delta"]["stop_reason"] == "tool_use"


async def test_blocks_find_their_places(client: AsyncAnthropic, upstream: FakeUpstream) -> None:
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
    messages: list[Any] = [
        {"role": "user", "content": [picture, {"type": "text", "text": "what?", "cache_control": {"type": "x"}}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": ""},
            {"type": "redacted_thinking", "data": "zz"},
            {"type": "text", "text": "Looking."},
            {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1.0}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "no file"}, picture],
             "is_error": True},
            {"type": "text", "text": "go on"},
        ]},
    ]  # fmt: skip
    system: Any = [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]
    await ask(client, messages=messages, system=system, metadata={"user_id": "u"}, extra_body={"top_k": 5})
    first, user, turn, told, last = sent(upstream).json["messages"]
    url = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    assert first == {"role": "system", "content": "One.\n\nTwo."}
    assert user["content"] == [url, {"type": "text", "text": "what?"}]
    assert (turn["content"], turn["reasoning_content"]) == ("Looking.", "hm")
    assert turn["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"x":1.0}'}
    assert told == {"role": "tool", "tool_call_id": "a", "content": "Error: no file"}
    assert last["content"] == [url, {"type": "text", "text": "go on"}]
    assert (sent(upstream).json["user"], sent(upstream).json["top_k"]) == ("u", 5)


async def test_what_claude_code_sends_beside_the_reference_is_taken(client: Any, upstream: FakeUpstream) -> None:
    body = {
        "model": "echo", "max_tokens": 5, "thinking": {"type": "adaptive"}, "context_management": {"edits": []},
        "messages": [
            {"role": "ctx", "content": [{"type": "text", "text": "files"}]}, {"role": "user", "content": "hi"},
        ],
    }  # fmt: skip
    answer = await client.http.post("/v1/messages?beta=true", json=body, headers={"x-trimtab-policy": "chat"})
    assert answer.status_code == 200
    assert sent(upstream).path == "/v1/chat/completions"
    assert sent(upstream).json["messages"][-2] == {"role": "user", "content": "files"}
    assert not {"thinking", "context_management"} & sent(upstream).json.keys()


async def test_thinking_reaches_no_base_model(client: AsyncAnthropic, upstream: FakeUpstream) -> None:
    thought = {"type": "thinking", "thinking": "secret plan", "signature": "sig"}
    messages: list[Any] = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": [thought, {"type": "text", "text": "first"}]},
        {"role": "user", "content": "two"},
    ]
    await ask(client, "base", messages=messages)
    prompt = sent(upstream).json["prompt"]
    assert "secret plan" not in prompt
    assert prompt.index("one") < prompt.index("first") < prompt.index("two")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("container", "c"),
        ("mcp_servers", [{"type": "url"}]),
        ("tools", [{"type": "web_search_20250305", "name": "web_search"}]),
        ("messages", [{"role": "user", "content": [{"type": "search_result", "source": "x"}]}]),
        ("messages", [{"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}]),
        ("messages", [{"role": "assistant", "content": [{"type": "server_tool_use", "id": "a"}]}]),
    ],
)
@pytest.mark.parametrize("policy", POLICIES)
async def test_what_cannot_be_translated_is_refused_by_name(
    client: AsyncAnthropic, policy: str, field: str, value: Any
) -> None:
    answer = await post(client, policy, **{field: value})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
    assert error["code"] in ("not_translatable", "no_place_in_base_render")
    assert field in error["message"]


@pytest.mark.parametrize(
    "body",
    [{"messages": None}, {"messages": []}, {"messages": 3}, {"messages": [3]}, {"messages": [{"role": "user"}]},
     {"messages": [{"role": "user", "Content": "x", "content": "hi"}]}, {"system": 3},
     {"stop_sequences": "x"}],
)  # fmt: skip
async def test_a_malformed_body_is_named(client: AsyncAnthropic, body: dict[str, Any]) -> None:
    answer = await post(client, **body)
    assert answer.status_code == 400
    assert answer.json()["type"] == "error"
    assert next(iter(body)) in answer.text


@pytest.mark.parametrize(("status", "kind"), [(404, "NotFoundError"), (429, "RateLimitError"), (500, "ServerError")])
@pytest.mark.parametrize("policy", POLICIES)
async def test_an_error_of_the_engine_has_anthropics_shape(
    client: AsyncAnthropic, policy: str, status: int, kind: str
) -> None:
    with pytest.raises(anthropic.APIStatusError) as raised:
        await ask(client, policy, model=f"error-{status}")
    assert kind in type(raised.value).__name__
    assert raised.value.status_code == status
    assert f"made up error {status}" in str(raised.value)


@pytest.mark.parametrize("client", [KEY.format(hashlib.sha256(b"mine").hexdigest())], indirect=True)
async def test_a_key_comes_in_either_header(client: Any) -> None:
    body = {"model": "echo", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
    for headers, status in (
        ({}, 401),
        ({"x-api-key": "other"}, 401),
        ({"x-api-key": "mine"}, 200),
        ({"authorization": "Bearer mine"}, 200),
    ):
        answer = await client.http.post("/v1/messages", json=body, headers=headers)
        assert answer.status_code == status
        if status == 401:
            assert answer.json()["error"]["type"] == "authentication_error"


async def test_the_clients_own_key_reaches_an_engine_as_a_bearer_token(
    client: AsyncAnthropic, upstream: FakeUpstream
) -> None:
    await ask(client)
    assert sent(upstream).header("authorization") == "Bearer sk-mine"
    assert sent(upstream).header("x-api-key") is None
    assert sent(upstream).header("anthropic-version")
