"""OpenAI's Responses before an engine that has no such API: the real client, raw and under `urial`, chat and base."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI
from openai.types.responses import Response, ResponseStreamEvent
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
"""
POLICIES = ["raw", "chat", "base"]
_event: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
WEATHER = {"type": "function", "name": "get_weather", "description": "Weather", "parameters": {"type": "object"}}


@pytest.fixture
async def client(upstream: FakeUpstream, tmp_path: Path) -> AsyncIterator[AsyncOpenAI]:
    async with (
        in_process(CONFIG.format(url=upstream.url), tmp_path) as url,
        httpx.AsyncClient(verify=False) as http,
        AsyncOpenAI(base_url=url + "/v1", api_key="sk", max_retries=0, timeout=10, http_client=http) as it,
    ):
        yield it


def under(policy: str) -> dict[str, Any]:
    return {"extra_headers": {"x-trimtab-policy": policy}}


def sent(upstream: FakeUpstream) -> Recorded:
    return next(r for r in reversed(upstream.requests) if r.method == "POST" and r.path != "/v1/responses")


async def streamed(client: AsyncOpenAI, policy: str, **body: Any) -> tuple[str, list[dict[str, Any]]]:
    """A stream's text and its events, each held against the client's own types."""
    body = {"model": "echo", "input": "hello there", "stream": True, **body}
    answer = await client._client.post(
        f"{client.base_url}responses", json=body, headers={"x-trimtab-policy": policy}, timeout=10
    )
    assert answer.status_code == 200, answer.text
    rows = events(answer.text)
    for row in rows:
        if row["type"] != "error":
            _event.validate_python(row)
    numbers = [row["sequence_number"] for row in rows if row["type"] != "error"]
    assert numbers == list(range(len(numbers)))
    return answer.text, rows


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_string_is_answered(client: AsyncOpenAI, upstream: FakeUpstream, policy: str) -> None:
    upstream.scripts["scripted"] = ["hello ", "there"]
    raw = await client.responses.with_raw_response.create(
        model="scripted", input="hello there", instructions="Be kind.", max_output_tokens=40, temperature=0.5,
        **under(policy),
    )  # fmt: skip
    answer = raw.parse()
    Response.model_validate(json.loads(raw.text))
    assert answer.output_text == "hello there"
    assert (answer.status, answer.model, answer.instructions) == ("completed", "scripted", "Be kind.")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens > 0
    assert raw.headers["x-trimtab-policy"] == policy
    assert raw.headers["x-trimtab-applied"] == ("none" if policy == "raw" else "urial=applied(3)")
    body = sent(upstream).json
    assert (body["max_tokens"], body["temperature"]) == (40, 0.5)
    assert not {"input", "instructions", "max_output_tokens"} & body.keys()
    if policy == "base":
        assert sent(upstream).path == "/v1/completions"
        assert "Be kind." in body["prompt"]
    else:
        assert sent(upstream).path == "/v1/chat/completions"
        assert body["messages"][0]["role"] == "system"
        assert body["messages"][0]["content"].endswith("Be kind.")
        assert body["messages"][-1] == {"role": "user", "content": "hello there"}
        assert len(body["messages"]) == (2 if policy == "raw" else 8)


@pytest.mark.parametrize("policy", POLICIES)
async def test_every_event_comes_in_order(client: AsyncOpenAI, policy: str) -> None:
    _, rows = await streamed(client, policy, model="stream-3")
    kinds = [row["type"].removeprefix("response.") for row in rows]
    deltas = [kind for kind in kinds if kind == "output_text.delta"]
    assert kinds == [
        "created", "in_progress", "output_item.added", "content_part.added", *deltas, "output_text.done",
        "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    text = "".join(row["delta"] for row in rows if row["type"].endswith("text.delta"))
    assert text.strip() == "0 1 2"
    last = rows[-1]["response"]
    assert last["output"][0]["content"][0]["text"] == text
    assert last["usage"]["output_tokens"] > 0
    assert rows[0]["response"]["id"] == last["id"]


async def test_text_arrives_token_by_token(client: AsyncOpenAI) -> None:
    stream = await client.responses.create(
        model="slow-stream-40-50", input="hi", stream=True, **under("chat"), timeout=10
    )
    seen = 0
    async for event in stream:
        if event.type == "response.output_text.delta":
            seen += 1
            if seen == 2:  # long before the fortieth
                await stream.close()
                break
    assert seen == 2


@pytest.mark.parametrize("policy", POLICIES)
async def test_an_answer_cut_at_the_limit_is_incomplete(client: AsyncOpenAI, policy: str) -> None:
    _, rows = await streamed(client, policy, model="stream-9", max_output_tokens=2)
    assert rows[-1]["type"] == "response.incomplete"
    assert rows[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert rows[-2]["item"]["status"] == "incomplete"


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("model", ["die-mid-stream-2", "close-without-done-2", "error-mid-stream-2"])
async def test_a_stream_that_breaks_ends_in_an_error_event(client: AsyncOpenAI, policy: str, model: str) -> None:
    text, rows = await streamed(client, policy, model=model)
    assert "event: error" in text
    assert rows[-1]["type"] == "error"
    assert rows[-1]["message"]
    assert not any(row["type"] == "response.completed" for row in rows)
    with pytest.raises(openai.APIError):
        async for _ in await client.responses.create(model=model, input="hi", stream=True, **under(policy)):
            pass


@pytest.mark.parametrize("policy", ["raw", "chat"])
async def test_tools_make_a_round_trip(client: AsyncOpenAI, upstream: FakeUpstream, policy: str) -> None:
    tool: Any = WEATHER
    items: list[Any] = [{"role": "user", "content": [{"type": "input_text", "text": "Weather in Paris?"}]}]
    answer = await client.responses.create(model="tools", input=items, tools=[tool], **under(policy))
    call = answer.output[0]
    assert call.type == "function_call"
    assert (call.name, call.status) == ("get_weather", "completed")
    assert sent(upstream).json["tools"] == [
        {"type": "function", "function": {k: v for k, v in WEATHER.items() if k != "type"}}
    ]
    items += [row.model_dump(exclude_none=True) for row in answer.output]
    items += [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]
    answer = await client.responses.create(model="tools", input=items, tools=[tool], **under(policy))
    assert answer.output_text == "sunny"
    *_, user, asked, told = sent(upstream).json["messages"]
    assert user == {"role": "user", "content": [{"type": "text", "text": "Weather in Paris?"}]}
    assert asked["tool_calls"] == [
        {"id": call.call_id, "type": "function", "function": {"name": "get_weather", "arguments": call.arguments}}
    ]
    assert told == {"role": "tool", "tool_call_id": call.call_id, "content": "sunny"}


@pytest.mark.parametrize("policy", ["raw", "chat"])
async def test_tool_calls_are_streamed(client: AsyncOpenAI, policy: str) -> None:
    _, rows = await streamed(client, policy, model="tools", tools=[WEATHER, {**WEATHER, "name": "get_time"}])
    done = [row["item"] for row in rows if row["type"] == "response.output_item.done"]
    assert [item["name"] for item in done] == ["get_weather", "get_time"]
    for item in done:
        pieces = [row["delta"] for row in rows if row.get("item_id") == item["id"] and "delta" in row]
        assert "".join(pieces) == item["arguments"]
    assert rows[-1]["response"]["output"] == done


async def test_a_base_model_is_given_no_tools(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        await client.responses.create(model="echo", input="hi", tools=[WEATHER], **under("base"))  # type: ignore[list-item]
    assert raised.value.code == "no_place_in_base_render"


async def test_a_turn_of_the_model_becomes_one_message(client: AsyncOpenAI, upstream: FakeUpstream) -> None:
    items: list[Any] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "one"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
         "content": [{"type": "output_text", "text": "Looking.", "annotations": []}]},
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "b", "name": "g", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_text", "text": "1"}]},
        {"type": "function_call_output", "call_id": "b", "output": "2"},
        {"role": "user", "content": [
            {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"},
            {"type": "input_text", "text": "and this?"},
        ]},
    ]  # fmt: skip
    await client.responses.create(model="echo", input=items, instructions="Be kind.", **under("raw"))
    system, user, turn, first, second, last = sent(upstream).json["messages"]
    assert system == {"role": "system", "content": "Be kind.\n\nBe brief."}
    assert user == {"role": "user", "content": "one"}
    assert (turn["content"], turn["reasoning_content"]) == ("Looking.", "hm")
    assert [call["id"] for call in turn["tool_calls"]] == ["a", "b"]
    assert [first["content"], second["content"]] == ["1", "2"]
    assert last["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
        {"type": "text", "text": "and this?"},
    ]


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_trace_keeps_the_conversation_as_a_chats(client: AsyncOpenAI, policy: str) -> None:
    body = {"model": "echo", "input": "hi", "instructions": "Be kind.", "trimtab": {"explain": True}}
    answer = await client._client.post(f"{client.base_url}responses", json=body, headers={"x-trimtab-policy": policy})
    url = str(client.base_url).removesuffix("/v1/")
    trace = (await client._client.get(f"{url}/v1/traces/{answer.headers['x-trimtab-trace']}")).json()
    assert trace["before"] == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}]
    assert trace["answer"] == answer.json()["output"][0]["content"][0]["text"]


async def test_a_conversation_with_reasoning_reaches_a_base_model(client: AsyncOpenAI, upstream: FakeUpstream) -> None:
    items: list[Any] = [
        {"role": "user", "content": "one"},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"role": "assistant", "content": [{"type": "output_text", "text": "first", "annotations": []}]},
        {"role": "user", "content": "two"},
    ]
    await client.responses.create(model="echo", input=items, **under("base"))
    prompt = sent(upstream).json["prompt"]
    assert prompt.index("one") < prompt.index("first") < prompt.index("two")
    assert prompt.count("\n## Answer\n") == 5  # three exemplars, one turn, the open one


async def test_parameters_find_their_names(client: AsyncOpenAI, upstream: FakeUpstream) -> None:
    schema = {"type": "object", "properties": {}}
    await client.responses.create(
        model="echo", input="hi", text={"format": {"type": "json_schema", "name": "n", "schema": schema}},
        reasoning={"effort": "low", "summary": "auto"}, tool_choice={"type": "function", "name": "get_weather"},
        tools=[WEATHER], top_logprobs=2, include=["message.output_text.logprobs"], metadata={"a": "b"}, store=False,
        parallel_tool_calls=False, truncation="disabled", extra_body={"top_k": 5}, **under("raw"),
    )  # type: ignore[call-overload]  # fmt: skip
    body = sent(upstream).json
    assert body["response_format"] == {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    assert body["reasoning_effort"] == "low"
    assert body["tool_choice"] == {"type": "function", "function": {"name": "get_weather"}}
    assert (body["logprobs"], body["top_logprobs"], body["top_k"]) == (True, 2, 5)
    assert body["parallel_tool_calls"] is False
    assert not {"text", "reasoning", "include", "store", "metadata", "truncation"} & body.keys()


async def test_log_probabilities_come_with_the_text(client: AsyncOpenAI) -> None:
    answer = await client.responses.create(
        model="echo", input="hello there", include=["message.output_text.logprobs"], **under("raw")
    )
    part: Any = answer.output[0].content[0]  # type: ignore[union-attr]
    assert [row.token for row in part.logprobs] == ["hello", " there"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("previous_response_id", "resp_1"),
        ("conversation", "conv_1"),
        ("background", True),
        ("store", True),
        ("tools", [{"type": "web_search"}]),
        ("tool_choice", {"type": "web_search"}),
        ("n", 2),
        ("input", [{"type": "item_reference", "id": "msg_1"}]),
        ("input", [{"type": "computer_call_output", "call_id": "a", "output": {}}]),
        ("input", [{"role": "user", "content": [{"type": "input_image", "file_id": "file_1"}]}]),
    ],
)
@pytest.mark.parametrize("policy", POLICIES)
async def test_what_cannot_be_translated_is_refused_by_name(
    client: AsyncOpenAI, policy: str, field: str, value: Any
) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        await client.responses.create(model="echo", input="hi", extra_body={field: value}, **under(policy))
    assert raised.value.code in ("not_translatable", "no_place_in_base_render")
    if field != "input" or policy != "base":
        assert field in (raised.value.param or raised.value.message)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"input": []},
        {"input": 3},
        {"input": [3]},
        {"input": [{"content": "hi"}]},
        {"text": 1, "input": "a"},
        {"max_output_tokens": "3", "input": "a"},
    ],
)
async def test_a_malformed_body_is_named(client: AsyncOpenAI, body: dict[str, Any]) -> None:
    answer = await client._client.post(f"{client.base_url}responses", json={"model": "echo", **body})
    assert answer.status_code == 400
    assert next(iter(body), "input") in answer.json()["error"]["message"]


@pytest.mark.parametrize("status", [404, 429, 500])
@pytest.mark.parametrize("policy", POLICIES)
async def test_an_error_of_the_engine_keeps_its_status(client: AsyncOpenAI, policy: str, status: int) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        await client.responses.create(model=f"error-{status}", input="hi", **under(policy))
    assert raised.value.status_code == status
