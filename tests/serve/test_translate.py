"""A text completion's events in, a chat completion's out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prompt_opt.core import Prompt
from serve.dialects.dialect import BadEvent
from serve.dialects.openai_chat.chunks import ChatWriter
from serve.dialects.openai_completions.pieces import TextReader
from serve.dialects.translation import Translation

PROMPT = Prompt((), stops=("\n````\n", "\n## Question\n````"), fence="````")


def translation(
    n: int = 1, stops: tuple[str, ...] = (), logprobs: int | None = None, usage: bool = False
) -> Translation:
    writer = ChatWriter("chatcmpl-1", "m", 1, n, logprobs=logprobs is not None, usage_chunk=usage)
    return Translation(TextReader(PROMPT, stops, n, logprobs), writer)


def event(text: str, index: int = 0, finish: str | None = None, **more: Any) -> bytes:
    return json.dumps({"choices": [{"index": index, "text": text, "finish_reason": finish, **more}]}).encode()


def rows(data: bytes) -> list[Any]:
    return [json.loads(line[6:]) for line in data.split(b"\n\n") if line and line != b"data: [DONE]"]


def text(data: bytes, index: int = 0) -> str:
    return "".join(c["delta"].get("content", "") for row in rows(data) for c in row["choices"] if c["index"] == index)


@settings(max_examples=80, deadline=None)
@given(st.text(alphabet="ab`\n# Question", max_size=60), st.lists(st.integers(1, 6), min_size=1, max_size=30))
def test_streamed_and_whole_answers_are_the_same_however_they_are_cut(answer: str, sizes: list[int]) -> None:
    streamed, whole = translation(), translation()
    at, out = 0, b""
    for i in range(len(answer)):
        size = sizes[i % len(sizes)]
        if at < len(answer):
            out += streamed.feed(event(answer[at : at + size]))
            at += size
    out += streamed.feed(event("", finish="stop")) + streamed.closing({})
    whole.feed(event(answer, finish="stop"))
    assert text(out) == json.loads(whole.reply({}))["choices"][0]["message"]["content"]
    assert [c["finish_reason"] for r in rows(out) for c in r["choices"] if c["finish_reason"]] == ["stop"]
    assert out.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("engine", "ours"),
    [("stop", "stop"), ("length", "length"), ("content_filter", "content_filter"), ("eos_token", "stop")],
)
def test_finish_reasons(engine: str, ours: str) -> None:
    it = translation()
    out = it.feed(event("x", finish=engine))
    assert rows(out)[-1]["choices"][0]["finish_reason"] == ours


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_an_engine_that_gave_up_has_not_finished(reason: str) -> None:
    with pytest.raises(BadEvent, match=reason):
        translation().feed(event("x", finish=reason))


def test_logprobs_have_as_many_alternatives_as_were_asked_for() -> None:
    table = {
        "tokens": ["a", "b"],
        "token_logprobs": [-0.1, None],
        "top_logprobs": [{"z": -3.0, "a": -0.1, "y": None}, None],
    }
    for top, names in ((0, []), (1, ["a"]), (2, ["a", "z"]), (5, ["a", "z", "y"])):
        it = translation(logprobs=top)
        it.feed(event("ab", finish="stop", logprobs=table))
        first, second = json.loads(it.reply({}))["choices"][0]["logprobs"]["content"]
        assert [t["token"] for t in first["top_logprobs"]] == names
        assert second == {"token": "b", "logprob": -9999.0, "bytes": [98], "top_logprobs": []}


def test_an_engine_that_runs_on_gets_a_little_patience_and_then_none() -> None:
    it = translation(n=2, stops=("END",))
    it.feed(event("aEND", 0))
    assert not it.reader.complete
    it.feed(event("bEND", 1))
    assert it.reader.complete
    assert not it.reader.finished
    for _ in range(3):
        assert it.feed(event("more", 0)) == b""
    assert it.reader.cut_off
    assert it.reader.finished


def test_usage_ends_the_waiting_at_once() -> None:
    it = translation(usage=True)
    it.feed(event("a", finish="stop"))
    assert not it.reader.finished
    it.feed(b'{"choices":[],"usage":{"completion_tokens":1}}')
    assert it.reader.finished
    assert rows(it.closing(it.reader.usage or {}))[-1] == {
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [],
        "usage": {"completion_tokens": 1},
    }  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=4),
        lambda c: (
            st.lists(c, max_size=3)
            | st.dictionaries(
                st.sampled_from(["choices", "text", "index", "logprobs", "tokens", "usage", "error"]), c, max_size=4
            )
        ),
        max_leaves=12,
    )
)
def test_whatever_an_engine_sends_is_taken_or_named_bad(value: Any) -> None:
    it = translation(logprobs=1)
    try:
        it.feed(json.dumps(value).encode())
    except BadEvent:
        return
    it.closing({})


def test_what_an_engine_says_of_itself_is_passed_on() -> None:
    its = {"system_fingerprint": "fp_1", "service_tier": "flex"}
    data = json.dumps({"choices": [{"index": 0, "text": "x", "finish_reason": "stop"}], **its}).encode()
    whole = translation()
    whole.feed(data)
    assert json.loads(whole.reply({})).items() >= its.items()
    streamed = rows(translation(usage=True).feed(data))
    assert all(row.items() >= its.items() for row in streamed)
    plain = translation()
    plain.feed(event("x", finish="stop"))
    assert not json.loads(plain.reply({})).keys() & its.keys()
