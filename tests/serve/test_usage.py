"""Tokens of streams: asked of the engine, counted, and kept from clients that did not ask."""

from __future__ import annotations

import json
import random
from typing import Any

import httpx
import pytest

from serve.config import Server
from serve.dialects import openai_chat, wire
from serve.dialects.usage import UsageFilter, asking
from tests.serve.conftest import Start, chat, events
from tests.upstream import FakeUpstream

LIMITS = Server()


def chunk(choices: list[Any], **more: Any) -> bytes:
    return b"data: " + json.dumps({"id": "c", "choices": choices, **more}).encode() + b"\n\n"


def choice(text: str, finish: str | None = None, index: int = 0) -> dict[str, Any]:
    return {"index": index, "delta": {"content": text}, "finish_reason": finish}


USAGE = chunk([], usage={"prompt_tokens": 1, "completion_tokens": 2})
DONE = b"data: [DONE]\n\n"
TEXT = [chunk([choice("a", index=i % 2)]) for i in range(6)]
STREAMS = {
    "plain": ([*TEXT, chunk([choice("", "stop")])], [USAGE], [DONE]),
    "two choices": ([*TEXT, chunk([choice("", "stop")]), chunk([choice("b", "length", 1)])], [USAGE], [DONE]),
    "usage null elsewhere": ([chunk([choice("a", "stop")], usage=None)], [USAGE], [DONE]),
    "usage with the last choice": ([*TEXT, chunk([choice("", "stop")], usage={"prompt_tokens": 1})], [], [DONE]),
    "none": ([*TEXT, chunk([choice("", "stop")])], [], [DONE]),
    "content filter first": (
        [chunk([], prompt_filter_results=[]), *TEXT, chunk([choice("", "stop")])],
        [USAGE],
        [DONE],
    ),
    "comments": ([b": ping\n\n", *TEXT, chunk([choice("", "stop")]), b": ping\n\n"], [USAGE], [DONE]),
    "error": ([*TEXT, b'data: {"error":{"message":"usage"},"usage":{}}\n\n'], [], [DONE]),
    "ends without a blank line": ([*TEXT, chunk([choice("", "stop")])], [USAGE], [b"data: [DONE]"]),
    "breaks off": ([*TEXT, chunk([choice("", "stop")])], [], [USAGE[:20]]),
    "quotes": (
        [chunk([choice('"finish_reason":"stop","choices":[],"usage":{}')]), chunk([choice("", "x")])],
        [USAGE],
        [],
    ),
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_only_the_usage_chunk_is_taken_out_wherever_the_stream_is_torn(name: str, line_end: bytes) -> None:
    before, usage, after = STREAMS[name]
    stream = b"".join([*before, *usage, *after]).replace(b"\n", line_end)
    wanted = b"".join([*before, *after]).replace(b"\n", line_end)
    for size in (*range(1, 90), 10**6):
        it = UsageFilter()
        out = b"".join([it.feed(stream[at : at + size]) for at in range(0, len(stream), size)])
        assert out + it.close() == wanted


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("torn", range(8))
def test_the_same_where_events_come_one_by_one_and_one_of_them_torn(name: str, torn: int) -> None:
    before, usage, after = STREAMS[name]
    pieces = [*before, *usage, *after]
    cut = pieces[torn % len(pieces)]
    pieces[torn % len(pieces)] = cut[: len(cut) // 2]
    pieces.insert(torn % len(pieces) + 1, cut[len(cut) // 2 :])
    it = UsageFilter()
    assert b"".join([*map(it.feed, pieces), it.close()]) == b"".join([*before, *after])


LINES = [
    chunk([choice("a")]), chunk([choice("a")], usage={"prompt_tokens": 3}), chunk([choice("", "stop")]), USAGE, DONE,
    b": ping\n\n", b'data: {"error": {"message": "x"}}\n\n', b'data: {"error": null}\n\n', b"data: {torn\n\n",
]  # fmt: skip


def test_a_streams_end_is_read_from_behind_as_it_would_be_from_its_front() -> None:
    dice = random.Random(3)
    for _ in range(500):
        rows = dice.choices(LINES, k=dice.randrange(12))
        found = openai_chat.ending(b"".join(rows))
        events = [json.loads(row[6:]) for row in rows if row.startswith(b"data: {") and b"torn" not in row]
        assert found.ended == (DONE in rows)
        assert found.finished == any(c["finish_reason"] for e in events for c in e.get("choices", ()))
        assert found.usage == next((e["usage"] for e in reversed(events) if e.get("usage")), None)
        assert found.failure == next((e["error"] for e in events if e.get("error")), None)


def test_nothing_is_held_back_before_the_end() -> None:
    it = UsageFilter()
    for piece in TEXT:
        assert it.feed(piece[:9]) == piece[:9]
        assert it.feed(piece[9:]) == piece[9:]


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        (b'{"model":"m","stream":true}', b'{"model":"m","stream":true,"stream_options":{"include_usage":true}}'),
        (b'{"model":"m" }\n', b'{"model":"m" ,"stream_options":{"include_usage":true}}'),
        (b'{"stream_options":null}', b'{"stream_options":{"include_usage":true}}'),
        (b'{"stream_options":{"x":1}}', b'{"stream_options":{"x":1,"include_usage":true}}'),
        (b'{"stream_options":{"include_usage":false}}', b'{"stream_options":{"include_usage":true}}'),
        (b'{"stream_options":{"include_usage":true}}', None),
        (b'{"stream_options":3}', None),
    ],
)
def test_usage_is_asked_for_once(body: bytes, asked: bytes | None) -> None:
    assert asking(wire.parse(body, LIMITS), body) == asked


# ---------------------------------------------------------------- behind the server

PATH = "/v1/chat/completions"
COUNTED = {"prompt_tokens", "completion_tokens", "total_tokens"}


@pytest.mark.parametrize(
    ("path", "policy"), [(PATH, "raw"), (PATH, "chat"), (PATH, "base"), ("/v1/completions", "raw")]
)
async def test_streams_are_counted_and_the_client_sees_what_it_asked_for(
    http: httpx.AsyncClient, upstream: FakeUpstream, path: str, policy: str
) -> None:
    said = {"prompt": "hello"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "hello"}]}
    for asked in (False, True):
        body = {"model": "stream-5", "stream": True, "max_tokens": 9, **said}
        body |= {"stream_options": {"include_usage": True}} if asked else {}
        answer = await http.post(path, json=body, headers={"x-trimtab-policy": policy})
        assert upstream.posts[-1].json["stream_options"] == {"include_usage": True}
        last = events(answer.text)
        assert last[-1] == "[DONE]"
        assert [("usage" in e and e["choices"] == []) for e in last[:-1]] == [*[False] * (len(last) - 2), asked]
        trace = (await http.get(f"/v1/traces/{answer.headers['x-trimtab-trace']}")).json()
        assert trace["usage"].keys() >= COUNTED


@pytest.mark.parametrize("model", ["no-stream-options", "strict"])
async def test_an_engine_that_refuses_to_count_streams_is_asked_once(start: Start, model: str) -> None:
    """Whether it says what it refuses or not."""
    with FakeUpstream() as old:
        trimtab = start(file=f'state_dir = "{{state}}"\n[engine.main]\nurl = "{old.url}"\n')
        async with httpx.AsyncClient(base_url=trimtab.url, timeout=20) as http:
            body = chat("hi", model, stream=True)
            for _ in range(3):
                assert events((await http.post(PATH, json=body)).text)[-1] == "[DONE]"
            refused = await http.post(PATH, json={**body, "stream_options": {"include_usage": True}})
            assert refused.status_code == 400  # what the client itself asks for is between it and the engine
        assert ["stream_options" in it.json for it in old.posts] == [True, False, False, False, True]


async def test_a_refusal_before_any_usage_came_is_tried_without_asking(start: Start) -> None:
    with FakeUpstream() as engine:
        trimtab = start(file=f'state_dir = "{{state}}"\n[engine.main]\nurl = "{engine.url}"\n')
        async with httpx.AsyncClient(base_url=trimtab.url, timeout=20) as http:
            assert (await http.post(PATH, json=chat("hi", "error-400", stream=True))).status_code == 400
            await http.post(PATH, json=chat("hi", "echo", stream=True))
            assert (await http.post(PATH, json=chat("hi", "error-400", stream=True))).status_code == 400
        assert ["stream_options" in it.json for it in engine.posts] == [True, False, True, True]


async def test_a_refusal_of_something_else_is_the_clients(http: httpx.AsyncClient, upstream: FakeUpstream) -> None:
    await http.post(PATH, json=chat("hi", "echo", stream=True))  # that it counts is known then
    before = len(upstream.posts)
    answer = await http.post(PATH, json=chat("hi", "error-400", stream=True))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "fake_400")
    assert len(upstream.posts) == before + 1


@pytest.mark.parametrize("stream", [False, True])
def test_images_and_audio_are_counted_under_their_own_names(stream: bool) -> None:
    body = b'{"type":"image_generation.completed","usage":{"input_tokens":7,"output_tokens":9,"total_tokens":16}}'
    found = openai_chat.ending(b"data: " + body + b"\n\n").usage if stream else openai_chat.usage(body)
    assert found is not None
    assert (found["prompt_tokens"], found["completion_tokens"]) == (7, 9)
