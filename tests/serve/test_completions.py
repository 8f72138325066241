"""/v1/completions: passed on under raw, its prompt one user turn under a policy of the base render."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import AsyncOpenAI

from serve.dialects.dialect import Choice, Piece
from serve.dialects.openai_completions.writer import TextWriter
from tests.serve.conftest import events
from tests.upstream import FakeUpstream, Recorded

Sent = Callable[[], Recorded]
PATH = "/v1/completions"
BASE: Any = {"X-Trimtab-Policy": "base-plain"}


@pytest.fixture(autouse=True)
def scripted(upstream: FakeUpstream) -> None:
    upstream.scripts["baker"] = ["Flour ", "and ", "water.", "\n````\n", "## Question\n"]


async def test_the_prompt_is_a_user_turn(client: AsyncOpenAI, sent: Sent) -> None:
    answer = await client.completions.create(
        model="baker", prompt="What is bread?", max_tokens=50, extra_headers={"X-Trimtab-Policy": "base"}
    )
    assert (answer.object, answer.model, answer.id[:5]) == ("text_completion", "baker", "cmpl-")
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("Flour and water.", "stop")
    assert answer.usage is not None
    assert sent().path == PATH
    assert "What is bread?\n````\n\n## Answer\n````\n" in sent().json["prompt"]
    assert sent().json["max_tokens"] == 50


async def test_a_stream_is_the_same_answer(client: AsyncOpenAI) -> None:
    stream = await client.completions.create(
        model="baker", prompt="What is bread?", stream=True, extra_headers=BASE, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].text for c in chunks if c.choices) == "Flour and water."
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage is not None


async def test_logprobs_come_in_its_own_shape(client: AsyncOpenAI, http: httpx.AsyncClient) -> None:
    asked: dict[str, Any] = {"model": "baker", "prompt": ["What?"], "logprobs": 1, "n": 2}
    answer = await client.completions.create(**asked, extra_headers=BASE)
    for choice in answer.choices:
        table = choice.logprobs
        assert table is not None
        assert table.tokens is not None
        assert "".join(table.tokens) == choice.text
        assert table.text_offset == [0, 6, 10]
        assert [list(row) for row in table.top_logprobs or []] == [[token] for token in table.tokens]
    streamed = await http.post(PATH, json={**asked, "stream": True}, headers=BASE)
    rows = [row["choices"][0] for row in events(streamed.text)[:-1]]
    offsets = [at for row in rows if row["index"] == 0 and row["logprobs"] for at in row["logprobs"]["text_offset"]]
    assert offsets == [0, 6, 10]


@pytest.mark.parametrize(
    "fields",
    [{"echo": True}, {"suffix": "x"}, {"prompt": ["a", "b"]}, {"prompt": [1, 2]}, {"prompt": [[1]]}, {"prompt": ""}],
)
async def test_what_a_turn_has_no_place_for_is_refused_by_name(
    client: AsyncOpenAI, fields: dict[str, Any], upstream: FakeUpstream
) -> None:
    before = len([r for r in upstream.requests if r.method == "POST"])
    asked: dict[str, Any] = {"model": "echo", "prompt": "x", **fields}
    with pytest.raises(openai.BadRequestError) as caught:
        await client.completions.create(**asked, extra_headers=BASE)
    assert caught.value.param == next(iter(fields))
    assert len([r for r in upstream.requests if r.method == "POST"]) == before
    if fields["prompt" if "prompt" in fields else next(iter(fields))]:
        await client.completions.create(**asked)  # which the engine takes raw


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=6), max_size=8), st.booleans())
def test_a_stream_and_a_whole_answer_hold_the_same(texts: list[str], logprobs: bool) -> None:
    entries = [[{"token": text, "logprob": -1.0, "top_logprobs": []}] if text else [] for text in texts]
    choice = Choice(texts=texts, finish="stop", logprobs=[row for rows in entries for row in rows])
    pieces = [Piece(0, text, logprobs=rows) for text, rows in zip(texts, entries, strict=True) if text]
    writer = TextWriter("cmpl-1", "m", 1, logprobs=logprobs, usage_chunk=True)
    stream = b"".join([*map(writer.delta, pieces), writer.end(Piece(0, finish="stop")), writer.close({"x": 1})])
    rows = events(stream.decode())
    assert rows.pop() == "[DONE]"
    assert rows.pop()["usage"] == {"x": 1}
    streamed = [row["choices"][0] for row in rows]
    whole = json.loads(TextWriter("cmpl-1", "m", 1, logprobs=logprobs).whole([choice], {}))["choices"][0]
    assert "".join(row["text"] for row in streamed) == whole["text"]
    assert [row["finish_reason"] for row in streamed if row["finish_reason"]] == [whole["finish_reason"]]
    for name in ("tokens", "text_offset", "token_logprobs") if logprobs else ():
        assert [it for row in streamed if row["logprobs"] for it in row["logprobs"][name]] == whole["logprobs"][name]


async def test_raw_completions_are_untouched(http: httpx.AsyncClient, sent: Sent) -> None:
    body = b'{"model":"echo", "prompt":"def f(", "suffix":")","logprobs":3,"echo":true}'
    answer = await http.post(PATH, content=body, headers={"content-type": "application/json"})
    assert sent().body == body
    assert answer.headers["x-trimtab-policy"] == "raw"


async def test_a_stream_that_breaks_off_ends_with_an_error(http: httpx.AsyncClient) -> None:
    for headers in ({}, BASE):
        body = {"model": "close-without-done-2", "prompt": "x", "stream": True}
        last = events((await http.post(PATH, json=body, headers=headers)).text)[-1]
        assert last["error"]["type"] == "upstream_error"
