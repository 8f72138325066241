"""OpenAI's own client through the real command: what reaches the engine, and what comes back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from tests.serve.conftest import Served, chat, events
from tests.upstream import FakeUpstream, Recorded

Sent = Callable[[], Recorded]
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)
IMAGE: list[Any] = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}},
        ],
    }
]
SCHEMA: Any = {
    "type": "json_schema",
    "json_schema": {
        "name": "answer",
        "strict": True,
        "schema": {"type": "object", "properties": {"x": {"type": "number"}}},
    },
}
RESULT: list[Any] = [
    {"role": "user", "content": "weather in Paris?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "call_0", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "call_0", "content": "18 degrees, sunny"},
]
TURNS: list[Any] = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": "one", "name": "ann"},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": "two"},
]
REQUESTS: dict[str, dict[str, Any]] = {
    "tools": {"messages": TURNS, "tools": TOOLS, "tool_choice": "auto", "parallel_tool_calls": False},
    "tool result": {"messages": RESULT, "tools": TOOLS},
    "n": {"messages": TURNS, "n": 2},
    "logprobs": {"messages": TURNS, "logprobs": True, "top_logprobs": 2},
    "image": {"messages": IMAGE},
    "schema": {"messages": TURNS, "response_format": SCHEMA},
    "unknown fields": {"messages": TURNS, "extra_body": {"guided_choice": ["a"], "chat_template_kwargs": {"x": 1e-7}}},
    "stop and seed": {"messages": TURNS, "stop": ["five", "six"], "seed": 42, "temperature": 0.5},
    "max tokens": {"messages": TURNS, "max_completion_tokens": 7, "metadata": {"a": "b"}, "user": "ü"},
}  # fmt: skip


def under(policy: str, **extra: str) -> dict[str, str]:
    return {"X-Trimtab-Policy": policy, **extra}


# ---------------------------------------------------------------- what reaches the engine


@pytest.mark.parametrize("name", REQUESTS)
async def test_raw_request_reaches_the_engine_byte_for_byte(
    client: AsyncOpenAI, upstream: FakeUpstream, sent: Sent, name: str
) -> None:
    raw = AsyncOpenAI(
        base_url=upstream.url + "/v1", api_key="k", max_retries=0, http_client=httpx.AsyncClient(verify=False)
    )
    async with raw:
        await raw.chat.completions.create(model="echo", **REQUESTS[name])
    direct = sent().body
    await client.chat.completions.create(model="echo", extra_headers=under("raw"), **REQUESTS[name])
    assert sent().body == direct


@pytest.mark.parametrize("name", REQUESTS)
async def test_chat_render_changes_nothing_but_the_messages_that_it_names(
    client: AsyncOpenAI, sent: Sent, name: str
) -> None:
    request = REQUESTS[name]
    await client.chat.completions.create(model="echo", extra_headers=under("raw"), **request)
    direct = sent()
    answer = await client.chat.completions.with_raw_response.create(
        model="echo", extra_headers=under("chat"), **request
    )
    assert answer.headers["x-trimtab-applied"] == "urial=applied(3)"
    body, raw = sent().json, direct.json
    assert {k: v for k, v in body.items() if k != "messages"} == {k: v for k, v in raw.items() if k != "messages"}
    # Behind the one system message and three exemplars, the client's own messages, as its own bytes.
    system, exemplars = body["messages"][0], body["messages"][1:7]
    assert [m["role"] for m in exemplars] == ["user", "assistant"] * 3
    own = raw["messages"]
    assert system["role"] == "system"
    if own[0]["role"] == "developer":
        assert system["content"].endswith("\n\n" + own[0]["content"])
        own = own[1:]
    assert body["messages"][7:] == own
    for message in own:
        assert json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode() in sent().body
    for field, value in raw.items():
        if field != "messages":
            pair = json.dumps({field: value}, separators=(",", ":"), ensure_ascii=False)[1:-1].encode()
            assert pair in direct.body
            assert pair in sent().body


async def test_number_formats_key_order_and_escapes_survive_in_untouched_parts(
    http: httpx.AsyncClient, sent: Sent
) -> None:
    odd = b'{"x":1.0e-07,"big":123456789012345678901234567890,"esc":"\\u00e9\\/","z":{"b":1,"a":[ 1,2 ]}}'
    message = b'{"content": "h\\u0069", "role":"user", "odd": ' + odd + b"}"
    body = b'{"messages":[' + message + b'],"model":"echo","odd":' + odd + b',"trimtab":{"policy":"chat"},"seed":7.0}'
    answer = await http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 200
    assert message in sent().body
    assert b'"odd":' + odd in sent().body
    assert b'"seed":7.0' in sent().body


@pytest.mark.parametrize("policy", ["raw", "chat", "base"])
async def test_our_own_field_and_headers_stay_here(client: AsyncOpenAI, sent: Sent, policy: str) -> None:
    await client.chat.completions.create(
        model="echo",
        messages=[{"role": "user", "content": "hi"}],
        extra_body={"trimtab": {"policy": policy, "language": "en"}},
        extra_headers=under(
            policy, **{"X-Trimtab-Extra": "1", "X-Api-Key": "secret", "Cookie": "a=b", "X-Request-Id": "mine-1"}
        ),
    )
    assert "trimtab" not in sent().json
    names = {name.lower() for name, _ in sent().headers}
    assert not {name for name in names if name.startswith("x-trimtab")}
    assert not names & {"x-api-key", "cookie"}
    assert sent().header("x-request-id") is None


async def test_the_body_field_wins_over_the_header_and_the_header_over_the_alias(client: AsyncOpenAI) -> None:
    async def policy(model: str, header: str | None, field: str | None) -> str:
        answer = await client.chat.completions.with_raw_response.create(
            model=model, messages=[{"role": "user", "content": "hi"}],
            extra_headers=under(header) if header else {}, extra_body={"trimtab": {"policy": field}} if field else {},
        )  # fmt: skip
        return str(answer.headers["x-trimtab-policy"])

    assert await policy("echo", None, None) == "raw"
    assert await policy("gpt-aligned", None, None) == "chat"
    assert await policy("gpt-aligned", "base", None) == "base"
    assert await policy("gpt-aligned", "base", "raw") == "raw"


async def test_a_skipped_stage_is_skipped_and_named(client: AsyncOpenAI, sent: Sent) -> None:
    answer = await client.chat.completions.with_raw_response.create(
        model="echo", messages=[{"role": "user", "content": "hi"}], extra_headers=under("chat"),
        extra_body={"trimtab": {"skip": ["urial"]}},
    )  # fmt: skip
    assert answer.headers["x-trimtab-applied"] == "urial=skipped(request)"
    assert sent().json["messages"] == [{"role": "user", "content": "hi"}]


async def test_fields_of_chats_alone_are_not_sent_to_a_base_model_and_the_trace_says_so(
    http: httpx.AsyncClient, sent: Sent
) -> None:
    fields: dict[str, Any] = {"store": True, "metadata": {"a": "b"}, "verbosity": "low", "prompt_cache_key": "k"}
    answer = await http.post(
        "/v1/chat/completions", json=chat(**fields, seed=1, top_k=5), headers={"x-trimtab-policy": "base"}
    )
    assert not sent().json.keys() & fields.keys()
    assert (sent().json["seed"], sent().json["top_k"]) == (1, 5)
    trace = (await http.get(f"/v1/traces/{answer.headers['x-trimtab-trace']}")).json()
    assert {note.split(" ")[0] for note in trace["notes"] if "not sent: a base" in note} == fields.keys()
    refused = await http.post(
        "/v1/chat/completions", json=chat(web_search_options={"a": 1}), headers={"x-trimtab-policy": "base"}
    )
    assert refused.json()["error"]["param"] == "web_search_options"


async def test_the_query_string_goes_along(http: httpx.AsyncClient, sent: Sent) -> None:
    await http.post("/v1/chat/completions?api-version=2024-10-21&x=%2F", json=chat())
    assert sent().path == "/v1/chat/completions?api-version=2024-10-21&x=%2F"


# ---------------------------------------------------------------- what comes back


async def test_tool_calls_come_back_whole_and_streamed(client: AsyncOpenAI) -> None:
    for policy in ("raw", "chat"):
        ask: dict[str, Any] = {
            "model": "tools", "messages": [{"role": "user", "content": "weather?"}], "tools": TOOLS,
            "extra_headers": under(policy),
        }  # fmt: skip
        whole = await client.chat.completions.create(**ask)
        assert whole.choices[0].message.tool_calls[0].function.arguments == '{"city": "Paris"}'
        parts = [chunk async for chunk in await client.chat.completions.create(**ask, stream=True)]
        calls = [c for chunk in parts for choice in chunk.choices for c in choice.delta.tool_calls or ()]
        assert calls[0].function.name == "get_weather"
        assert "".join(call.function.arguments for call in calls) == '{"city": "Paris"}'
        assert parts[-1].choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("policy", ["raw", "chat"])
@pytest.mark.parametrize("model", ["echo", "stream-50", "torn-7", "ping", "tools"])
async def test_stream_is_the_engines_byte_for_byte(
    http: httpx.AsyncClient, upstream: FakeUpstream, policy: str, model: str
) -> None:
    body = chat("ein schöner Tag 🌞", model, stream=True)
    if model != "torn-7":  # which takes a millisecond a byte
        body |= {"n": 2, "logprobs": True, "stream_options": {"include_usage": True}}
    answer = await http.post("/v1/chat/completions", json=body, headers=under(policy))
    if policy == "chat":  # the usage counts the prompt that the engine got: compare with just that
        body = upstream.posts[-1].json
    if model == "torn-7":  # the usage is asked for by us, and not for the client
        body.pop("stream_options", None)
    async with httpx.AsyncClient(verify=False) as plain:
        direct = await plain.post(f"{upstream.url}/v1/chat/completions", json=body)
    strip = lambda text: [e if e == "[DONE]" else {**e, "created": 0} for e in events(text)]  # noqa: E731
    assert strip(answer.text) == strip(direct.text)
    assert len(answer.content) == len(direct.content)
    assert answer.headers["content-type"] == direct.headers["content-type"]


@pytest.mark.parametrize("policy", ["raw", "chat", "base"])
async def test_first_chunk_arrives_before_the_second_is_sent(
    client: AsyncOpenAI, upstream: FakeUpstream, policy: str
) -> None:
    upstream.scripts["paused"] = ["one ", 0.4, "two", " three"]
    stream = await client.chat.completions.create(
        model="paused", messages=[{"role": "user", "content": "hi"}], stream=True, extra_headers=under(policy)
    )
    started, arrived = time.monotonic(), []
    async for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            arrived.append((chunk.choices[0].delta.content, time.monotonic() - started))
    assert arrived[0][0].strip() == "one"
    assert arrived[0][1] < 0.3 < arrived[-1][1]
    assert "".join(text for text, _ in arrived) == "one two three"


@pytest.mark.parametrize("policy", ["raw", "chat", "base", "base-vllm"])
@pytest.mark.parametrize("asked", [True, False, None])
async def test_usage_chunk_comes_if_and_only_if_it_is_asked_for(
    client: AsyncOpenAI, policy: str, asked: bool | None
) -> None:
    options: Any = {} if asked is None else {"stream_options": {"include_usage": asked}}
    stream = await client.chat.completions.create(
        model="echo", messages=[{"role": "user", "content": "hi"}], stream=True, extra_headers=under(policy), **options
    )
    chunks = [chunk async for chunk in stream]
    told = [chunk for chunk in chunks if chunk.usage]
    assert len(told) == (1 if asked else 0)
    if asked:
        assert chunks[-1] is told[0]
        assert told[0].choices == []
        assert told[0].usage is not None
        assert told[0].usage.completion_tokens > 0
    else:
        assert all(chunk.choices for chunk in chunks)


async def test_a_model_name_that_is_left_out_is_left_to_the_engine(http: httpx.AsyncClient, sent: Sent) -> None:
    for policy in ("raw", "chat", "base"):
        body = chat()
        del body["model"]
        assert (await http.post("/v1/chat/completions", json=body, headers=under(policy))).status_code == 200
        assert "model" not in sent().json


# ---------------------------------------------------------------- the base render


async def test_base_render_sends_one_prompt_and_answers_as_a_chat(client: AsyncOpenAI, sent: Sent) -> None:
    answer = await client.chat.completions.create(
        model="echo",
        messages=TURNS,
        extra_headers=under("base"),
        extra_body={"top_k": 5, "logit_bias": {"5": 1}},
        seed=3,
    )
    request = sent()
    body = request.json
    assert request.path == "/v1/completions"
    assert body["prompt"].rstrip("`\n").endswith("## Answer")
    assert body["prompt"].index("Be brief.") < body["prompt"].index("one") < body["prompt"].index("two")
    assert body["max_tokens"] == 1024
    assert body["seed"] == 3
    assert body["logit_bias"] == {"5": 1}
    assert "messages" not in body
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage is not None


async def test_profile_decoding_is_a_default_that_the_client_overrides(client: AsyncOpenAI, sent: Sent) -> None:
    ask: dict[str, Any] = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}
    await client.chat.completions.create(**ask, extra_headers=under("base-vllm"))
    assert (sent().json["temperature"], sent().json["repetition_penalty"]) == (0.0, 1.15)
    await client.chat.completions.create(
        **ask, extra_headers=under("base-vllm"), temperature=0.9, max_tokens=5, extra_body={"repetition_penalty": 1.0}
    )
    assert (sent().json["temperature"], sent().json["repetition_penalty"], sent().json["max_tokens"]) == (0.9, 1.0, 5)
    await client.chat.completions.create(**ask, extra_headers=under("base-vllm"), temperature=None)
    assert sent().json["temperature"] == 0.0  # null says nothing
    await client.chat.completions.create(**ask, extra_headers=under("base-vllm"), max_completion_tokens=6)
    assert sent().json["max_tokens"] == 6
    assert "max_completion_tokens" not in sent().json


async def test_an_extension_goes_only_to_an_engine_that_knows_it_and_the_trace_says_so(
    client: AsyncOpenAI, http: httpx.AsyncClient, sent: Sent
) -> None:
    ask: dict[str, Any] = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}
    answer = await client.chat.completions.with_raw_response.create(**ask, extra_headers=under("base"))
    assert "repetition_penalty" not in sent().json
    trace = (await http.get(f"/v1/traces/{answer.headers['x-trimtab-trace']}")).json()
    assert trace["notes"] == ["decoding: repetition_penalty not sent, the engine does not know it"]
    await client.chat.completions.create(**ask, extra_headers=under("base-hf"))
    assert "repetition_penalty" not in sent().json
    assert json.loads(sent().json["generation_config"])["repetition_penalty"] == 1.15


async def test_stops_beyond_the_engines_limit_are_enforced_here(
    client: AsyncOpenAI, upstream: FakeUpstream, sent: Sent
) -> None:
    upstream.scripts["runs on"] = ["alpha beta ", "gamma ST", "OP delta"]
    for stream in (False, True):
        text, finish = await said(client, "runs on", "base-narrow", stream=stream, stop=["never", "nor this", "STOP"])
        assert len(sent().json["stop"]) == 1
        assert (text, finish) == ("alpha beta gamma ", "stop")
    answer = await client.chat.completions.create(
        model="max-stop-4", messages=[{"role": "user", "content": "hi"}], stop=["a!", "b!", "c!", "d!"],
        extra_headers=under("base"),
    )  # fmt: skip
    assert len(sent().json["stop"]) == 4
    assert answer.choices[0].finish_reason


async def said(client: AsyncOpenAI, model: str, policy: str, *, stream: bool, **fields: Any) -> tuple[str, str | None]:
    ask: dict[str, Any] = {
        "model": model, "messages": [{"role": "user", "content": "hi"}], "extra_headers": under(policy), **fields,
    }  # fmt: skip
    if not stream:
        choice = (await client.chat.completions.create(**ask)).choices[0]
        return choice.message.content, choice.finish_reason
    chunks = [chunk async for chunk in await client.chat.completions.create(**ask, stream=True)]
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert choices[0].delta.role == "assistant"
    assert [c.finish_reason for c in choices if c.finish_reason] == [choices[-1].finish_reason]
    return "".join(c.delta.content or "" for c in choices), choices[-1].finish_reason


SCRIPTS: dict[str, tuple[list[str], str]] = {
    "marker": (["An answer.", "\n````\n", "\n## Question\n````\nmore"], "An answer."),
    "torn fence": (["An answer.", "\n`", "``", "`", "\n", "\n## Que"], "An answer."),
    "torn marker": (["An answer.", "\n#", "# Ques", "tion", "\n````\nWhy?"], "An answer."),
    "code": (["Look:\n```py", "thon\nx = 1\n", "```\nDone", ".\n````\nnoise"], "Look:\n```python\nx = 1\n```\nDone."),
    "comment": (["```\nx  # ## Question\n```", "\nok", "\n````"], "```\nx  # ## Question\n```\nok"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", SCRIPTS)
async def test_an_answer_ends_where_it_does_whatever_the_chunks_are(
    client: AsyncOpenAI, upstream: FakeUpstream, name: str, stream: bool
) -> None:
    pieces, expected = SCRIPTS[name]
    upstream.scripts[name] = list(pieces)
    upstream.scripts[f"{name} by character"] = list("".join(pieces))
    for model in (name, f"{name} by character"):
        assert await said(client, model, "base", stream=stream) == (expected, "stop")


@pytest.mark.parametrize("stream", [False, True])
async def test_max_tokens_ends_an_answer_as_length(client: AsyncOpenAI, upstream: FakeUpstream, stream: bool) -> None:
    upstream.scripts["words"] = ["a ", "b ", "c ", "d"]
    assert await said(client, "words", "base", stream=stream, max_tokens=2) == ("a b ", "length")


@pytest.mark.parametrize("stream", [False, True])
async def test_n_choices_are_told_apart(client: AsyncOpenAI, stream: bool) -> None:
    ask: dict[str, Any] = {
        "model": "echo", "messages": [*TURNS, {"role": "assistant", "content": "and so on, " * 9}], "n": 2,
        "extra_headers": under("base"),
    }  # fmt: skip
    if not stream:
        answer = await client.chat.completions.create(**ask)
        texts = [choice.message.content for choice in answer.choices]
        assert [choice.index for choice in answer.choices] == [0, 1]
    else:
        parts: dict[int, list[str]] = {0: [], 1: []}
        ends = []
        async for chunk in await client.chat.completions.create(**ask, stream=True):
            for choice in chunk.choices:
                parts[choice.index].append(choice.delta.content or "")
                ends += [choice.index] if choice.finish_reason else []
        texts = ["".join(parts[0]), "".join(parts[1])]
        assert sorted(ends) == [0, 1]
    assert texts[1] == texts[0] + " (1)"


@pytest.mark.parametrize("stream", [False, True])
async def test_logprobs_are_translated_and_cut_where_the_answer_is(
    client: AsyncOpenAI, upstream: FakeUpstream, stream: bool
) -> None:
    upstream.scripts["tokens"] = ["An", " answer", ".", "\n", "````", "\n", "more"]
    ask: dict[str, Any] = {
        "model": "tokens", "messages": [{"role": "user", "content": "hi"}], "logprobs": True, "top_logprobs": 0,
        "extra_headers": under("base"),
    }  # fmt: skip
    if stream:
        chunks = [chunk async for chunk in await client.chat.completions.create(**ask, stream=True)]
        tokens = [t for c in chunks for o in c.choices if o.logprobs for t in o.logprobs.content or ()]
    else:
        tokens = (await client.chat.completions.create(**ask)).choices[0].logprobs.content
    assert [token.token for token in tokens] == ["An", " answer", "."]
    assert {token.logprob for token in tokens} == {-0.5}
    assert all(token.top_logprobs == [] for token in tokens)
    assert tokens[1].bytes == list(b" answer")


async def test_an_engine_that_runs_on_is_cut_off(client: AsyncOpenAI, upstream: FakeUpstream) -> None:
    upstream.scripts["for ever"] = ["fine", "\nSTOP", *["x", 0.1] * 1000]
    # The narrow engine is told one stop only, the layout's; the client's is ours to enforce.
    started = time.monotonic()
    assert await said(client, "for ever", "base-narrow", stream=True, stop="STOP") == ("fine\n", "stop")
    assert time.monotonic() - started < 50  # of 100 seconds
    index = max(i for i, r in enumerate(upstream.requests) if r.model == "for ever")
    upstream.wait_abort(index)


# ---------------------------------------------------------------- the context


async def test_a_prompt_that_we_made_too_long_is_sent_again_without_our_part(
    client: AsyncOpenAI, upstream: FakeUpstream, sent: Sent
) -> None:
    for policy, path in (("chat", "/v1/chat/completions"), ("base", "/v1/completions")):
        for stream in (False, True):
            answer = await client.chat.completions.with_raw_response.create(
                model="context-600", messages=[{"role": "user", "content": "short question"}], stream=stream,
                extra_headers=under(policy),
            )  # fmt: skip
            assert answer.headers["x-trimtab-applied"] == "urial=skipped(context)"
            assert sent().path == path
            if policy == "chat":
                assert sent().json["messages"] == [{"role": "user", "content": "short question"}]
            await answer.http_response.aread() if stream else None


async def test_advice_is_dropped_beforehand_where_the_context_is_known(
    client: AsyncOpenAI, served: Served, sent: Sent
) -> None:
    # The fake says max_model_len 8192; its tokens are estimated at three bytes each.
    long = "word " * 4300
    answer = await client.chat.completions.with_raw_response.create(
        model="echo", messages=[{"role": "user", "content": long}], extra_headers=under("chat"), max_tokens=300
    )
    applied = answer.headers["x-trimtab-applied"]
    assert applied in (
        "urial=applied(2 of 3, context)",
        "urial=applied(1 of 3, context)",
        "urial=applied(0 of 3, context)",
    )
    assert len(sent().json["messages"]) < 8
    assert sent().json["messages"][-1]["content"] == long


async def test_what_is_too_long_without_us_gets_the_engines_own_answer(http: httpx.AsyncClient) -> None:
    for policy in ("raw", "chat", "base"):
        answer = await http.post("/v1/chat/completions", json=chat("x" * 700, "context-600"), headers=under(policy))
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "context_length_exceeded"
