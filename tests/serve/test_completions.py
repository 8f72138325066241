"""/v1/completions: passed on under raw, its prompt one user turn under a policy of the base render."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

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
