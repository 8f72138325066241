"""What a dialect writes it reads again, and nothing that a client sends is more than a refusal."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from anthropic.types import RawMessageStreamEvent
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from prompt_opt.core import Advice, Message, Policy
from prompt_opt.layout.order import NoPlace, lay_out
from serve.config import Server
from serve.dialects import anthropic_messages, openai_responses, wire
from serve.dialects.dialect import Choice, Piece, ToolCall, Writer
from serve.dialects.openai_chat.conversation import max_tokens, stops
from serve.errors import BadRequest

LIMITS = Server()
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
RAW = Policy("raw")
_openai_event: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
_anthropic_event: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def request(**fields: Any) -> wire.Request:
    return wire.parse(json.dumps({"model": "m", **fields}).encode(), LIMITS)


def split(text: str, draw: Any) -> list[str]:
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    return [part for part in parts if part]


@st.composite
def answers(draw: Any) -> tuple[Choice, list[Piece]]:
    """A choice as engines write one, reasoning, text, calls, and the pieces of its stream."""
    choice, pieces = Choice(), []
    choice.reasoning, text = draw(st.text(max_size=20)), draw(st.text(max_size=20))
    choice.texts.append(text)
    pieces += [Piece(0, reasoning=part) for part in split(choice.reasoning, draw)]
    pieces += [Piece(0, part) for part in split(text, draw)]
    inputs = draw(st.lists(st.dictionaries(st.text(max_size=5), st.integers(), max_size=2), max_size=3))
    calls = [ToolCall(i, f"call_{i}", f"f{i}", json.dumps(given)) for i, given in enumerate(inputs)]
    parts: list[list[Piece]] = []
    for call in calls:
        choice.tools.append(call)
        head = Piece(0, tools=[call._replace(arguments="")])
        rest = [Piece(0, tools=[ToolCall(call.number, arguments=part)]) for part in split(call.arguments, draw)]
        parts.append([head, *rest])
    if draw(st.booleans()):  # one call after the other, as nearly all engines send them, or all at once
        pieces += [piece for part in parts for piece in part]
    else:
        while any(parts):
            pieces.append(draw(st.sampled_from([part for part in parts if part])).pop(0))
    choice.finish = "tool_calls" if calls else draw(st.sampled_from(["stop", "length"]))
    return choice, [*pieces, Piece(0, finish=choice.finish)]


def written(writer: Writer, pieces: list[Piece]) -> list[dict[str, Any]]:
    out = writer.start() + b"".join(writer.end(p) if p.finish else writer.delta(p) for p in pieces)
    lines = (out + writer.close(USAGE)).decode().split("\n")
    return [json.loads(line[6:]) for line in lines if line.startswith("data: ")]


def as_message(choice: Choice) -> dict[str, Any]:
    """What a chat completion's client would send back."""
    calls = [
        {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}} for c in choice.tools
    ]
    row: dict[str, Any] = {"role": "assistant", "content": choice.text or (None if calls else "")}
    row |= {"tool_calls": calls} if calls else {}
    return row | ({"reasoning_content": choice.reasoning} if choice.reasoning else {})


def loose(message: Message) -> dict[str, Any]:
    """A message whose calls' arguments may be spelled in another way."""
    row = json.loads(message.json())
    for call in row.get("tool_calls", ()):
        call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return row


def expected(choice: Choice) -> dict[str, Any]:
    return loose(Message("assistant", None, raw=json.dumps(as_message(choice)).encode()))


@given(answers())
@settings(deadline=None)
def test_a_response_written_as_a_stream_comes_back_as_it_was(answer: tuple[Choice, list[Piece]]) -> None:
    choice, pieces = answer
    rows = written(openai_responses.writer(request(input="hi"), "0" * 32, "m", 1), pieces)
    for row in rows:
        _openai_event.validate_python(row)
    assert [row["sequence_number"] for row in rows] == list(range(len(rows)))
    output = rows[-1]["response"]["output"]
    done = [row for row in rows if row["type"] == "response.output_item.done"]
    assert [row["item"] for row in sorted(done, key=lambda row: row["output_index"])] == output
    for item in output:
        deltas = [row["delta"] for row in rows if row.get("item_id") == item["id"] and "delta" in row]
        kept = item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
        assert "".join(deltas) == kept
    writer = openai_responses.writer(request(input="hi"), "0" * 32, "m", 1)
    assert json.loads(writer.whole([choice], USAGE))["output"] == output or _interleaved(pieces)
    chat = openai_responses.chat(request(input=output), LIMITS)
    (back,) = openai_responses.messages(chat.messages)
    assert _sorted(loose(back)) == _sorted(expected(choice))


def _sorted(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"tool_calls": sorted(row.get("tool_calls", ()), key=lambda call: call["id"])}


def _interleaved(pieces: list[Piece]) -> bool:
    numbers = [call.number for piece in pieces for call in piece.tools]
    return numbers != sorted(numbers)


@given(answers())
@settings(deadline=None)
def test_a_message_written_as_a_stream_comes_back_as_it_was(answer: tuple[Choice, list[Piece]]) -> None:
    choice, pieces = answer
    rows = written(anthropic_messages.writer(request(messages=[], max_tokens=5), "0" * 32, "m", 1), pieces)
    for row in rows:
        if row["type"] != "ping":
            _anthropic_event.validate_python(row)
    opened = [row["index"] for row in rows if row["type"] == "content_block_start"]
    closed = [row["index"] for row in rows if row["type"] == "content_block_stop"]
    assert opened == closed == list(range(len(opened)))
    blocks = _gathered(rows)
    writer = anthropic_messages.writer(request(messages=[], max_tokens=5), "0" * 32, "m", 1)
    whole = json.loads(writer.whole([choice], USAGE))["content"]
    assert sorted(map(_bare, blocks)) == sorted(map(_bare, whole))
    chat = anthropic_messages.chat(request(messages=[{"role": "assistant", "content": blocks}]), LIMITS)
    (back,) = anthropic_messages.messages(chat.messages)
    assert _sorted(loose(back)) == _sorted(expected(choice))


def _gathered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks of a stream, as a client gathers them."""
    blocks = [dict(row["content_block"]) for row in rows if row["type"] == "content_block_start"]
    for row in rows:
        if row["type"] == "content_block_delta":
            delta, block = row["delta"], blocks[row["index"]]
            name = {"text_delta": "text", "thinking_delta": "thinking"}.get(delta["type"], "json")
            block[name] = block.get(name, "") + delta.get("partial_json", delta.get(name, ""))
    for block in blocks:
        if block["type"] == "tool_use":
            block["input"] = json.loads(block.pop("json", "{}"))
    return blocks


def _bare(block: dict[str, Any]) -> str:
    return json.dumps(
        {k: block[k] for k in ("type", "text", "thinking", "name", "input") if k in block}, sort_keys=True
    )


# ---------------------------------------------------------------- whatever a client sends

_scalar = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text(max_size=5)
_KINDS = [
    "message", "function_call", "function_call_output", "reasoning", "input_text", "input_image", "input_file", "text",
    "image", "document", "tool_use", "tool_result", "thinking", "base64", "url", "function", "custom", "json_schema",
]  # fmt: skip
_NAMES = [
    "type", "role", "content", "text", "output", "call_id", "name", "arguments", "summary", "image_url", "source",
    "data", "input", "tool_use_id", "signature", "thinking", "format", "schema", "effort", "function",
]  # fmt: skip
_json = st.recursive(
    _scalar | st.sampled_from([*_KINDS, "user", "assistant", "system", "developer", "tool"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_NAMES), inner, max_size=4),
    max_leaves=5,
)
_part = st.fixed_dictionaries(
    {"type": st.sampled_from(_KINDS)}, optional={name: st.text(max_size=5) | _json for name in _NAMES[2:]}
)
_item = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system"]),
        "content": st.text(max_size=5) | st.lists(_part, max_size=3),
    },
    optional={"type": st.sampled_from(_KINDS), "output": _json, "name": _json, "arguments": _json, "call_id": _json},
)
_SHAPED = {
    "input": st.lists(_item, min_size=1, max_size=4), "messages": st.lists(_item, min_size=1, max_size=4),
    "tools": st.lists(_part, max_size=3),
    "system": st.lists(_part, max_size=3), "text": st.fixed_dictionaries({"format": _part}), "tool_choice": _part,
    "instructions": st.text(max_size=5), "stop_sequences": st.lists(st.text(max_size=5)),
}  # fmt: skip


@st.composite
def bodies(draw: Any, dialect: Any) -> bytes:
    """A body that is nearly one, and one that is any."""
    names = draw(st.sets(st.sampled_from(_FIELDS[dialect]), max_size=4)) | {_FIELDS[dialect][0]}
    fields = {name: draw(_SHAPED.get(name, _json) if draw(st.integers(0, 4)) else _json) for name in sorted(names)}
    return msgspec.json.encode({"model": "m", **fields})


_FIELDS = {
    openai_responses: [
        "input", "instructions", "text", "reasoning", "tools", "tool_choice", "include", "top_logprobs", "metadata",
        "max_output_tokens", "previous_response_id", "store",
    ],
    anthropic_messages: [
        "messages", "system", "tools", "tool_choice", "metadata", "output_config", "output_format", "stop_sequences",
        "thinking", "max_tokens", "container",
    ],
}  # fmt: skip


@pytest.mark.parametrize("dialect", list(_FIELDS), ids=lambda dialect: dialect.path)
@given(data=st.data())
@settings(deadline=None, max_examples=100)
def test_whatever_a_client_sends_is_taken_or_refused(dialect: Any, data: st.DataObject) -> None:
    body = data.draw(bodies(dialect))
    advice = Advice("Be kind.", rewrite=data.draw(st.none() | st.just("better")), complement="Briefly.")
    try:
        asked = dialect.parse(body, LIMITS)
        chat, plain = dialect.chat(asked, LIMITS), dialect.as_chat(asked)
        max_tokens(plain), stops(plain)
        prompt = lay_out(chat, advice, RAW)
        assert msgspec.json.decode(dialect.native(asked, prompt, "other", ""))["model"] == "other"
        assert prompt.messages is not None
        dialect.refuse_untranslatable(asked)
        for message in dialect.messages(prompt.messages):
            assert "role" in msgspec.json.decode(message.json())
    except (BadRequest, NoPlace):
        return


@pytest.mark.parametrize("output", [False, 5, {"type": "input_text", "text": "x"}])
def test_an_output_of_a_tool_that_is_no_text_is_refused(output: Any) -> None:
    item = {"type": "function_call_output", "call_id": "a", "output": output}
    asked = openai_responses.parse(msgspec.json.encode({"model": "m", "input": [item]}), LIMITS)
    with pytest.raises(BadRequest, match="a tool's output that is neither a string nor a list"):
        openai_responses.messages(openai_responses.chat(asked, LIMITS).messages)


@pytest.mark.parametrize("dialect", list(_FIELDS), ids=lambda dialect: dialect.path)
@given(data=st.data())
@settings(deadline=None, max_examples=50)
def test_a_body_without_advice_stays_what_it_was(dialect: Any, data: st.DataObject) -> None:
    try:
        asked = dialect.parse(data.draw(bodies(dialect)), LIMITS)
        chat = dialect.chat(asked, LIMITS)
    except BadRequest:
        return
    native = msgspec.json.decode(dialect.native(asked, lay_out(chat, Advice(), RAW), "", ""))
    assert {k: v for k, v in native.items() if v != []} == {
        k: v for k, v in msgspec.json.decode(asked.body).items() if v != []
    }
