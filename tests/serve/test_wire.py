"""Bodies taken apart and put together: what no policy names comes out as the bytes that went in."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prompt_opt.core import Prompt
from serve.config import Server
from serve.dialects import openai_chat, wire
from serve.dialects.openai_chat import conversation
from serve.dialects.spelling import KNOWN
from serve.errors import BadRequest

LIMITS = Server()
SPACE = st.text(" \t\n\r", max_size=2)
NUMBERS = st.sampled_from(["0", "-0", "1.0", "1e5", "1E+05", "-0.10e-3", "12345678901234567890123", "0.1000"])
STRINGS = st.one_of(
    st.text(max_size=8).map(json.dumps),
    st.text(max_size=8).filter(str.isprintable).map(lambda t: json.dumps(t, ensure_ascii=False)),
    st.sampled_from(['"\\u0041\\/"', '"{[\\"}]"', '"\\\\"', '"[[[[[[[[[[[[[[[[[[[[["']),
)


def text_of(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Lists and objects as somebody might write them, blanks and all."""
    lists = st.tuples(st.lists(children, max_size=3), SPACE).map(lambda p: f"[{p[1]}" + f"{p[1]},".join(p[0]) + "]")
    pairs = st.lists(st.tuples(STRINGS, children), max_size=3)
    objects = st.tuples(pairs, SPACE).map(lambda p: "{" + ",".join(f"{p[1]}{k}{p[1]}:{v}" for k, v in p[0]) + "}")
    return lists | objects


VALUES = st.recursive(STRINGS | NUMBERS | st.sampled_from(["true", "false", "null"]), text_of, max_leaves=8)
# What the server itself reads has a type of its own, and tests of its own.
READ = {"model", "messages", "stream", "n", "best_of", "trimtab", "role", "content", "tool_calls", "function_call"}
READ |= {"prompt", "input"}  # another API's conversation, which is refused
NAMES = st.text(min_size=1, max_size=8).filter(
    lambda n: n.isprintable() and n not in READ and (n in KNOWN or n.casefold() not in KNOWN)
)
FIELDS = st.dictionaries(NAMES, VALUES, max_size=5)


def written(fields: dict[str, str], gap: str) -> bytes:
    return (
        "{" + gap + f"{gap},".join(f"{json.dumps(k)}{gap}:{gap}{v}" for k, v in fields.items()) + gap + "}"
    ).encode()


@settings(max_examples=100, deadline=None)
@given(FIELDS, SPACE)
def test_a_body_that_nothing_changes_is_sent_as_it_came(fields: dict[str, str], gap: str) -> None:
    body = written({"model": '"m"', **fields, "messages": "[]"}, gap)
    assert wire.raw_body(wire.parse(body, LIMITS), "m") == body
    assert wire.raw_body(wire.parse(body, LIMITS), "") == body


@settings(max_examples=100, deadline=None)
@given(FIELDS, SPACE, st.dictionaries(NAMES, VALUES, max_size=3))
def test_fields_and_messages_survive_byte_for_byte_what_changes_beside_them(
    fields: dict[str, str], gap: str, extra: dict[str, str]
) -> None:
    message = written({"role": '"user"', "content": '"h\\u0069"', **extra}, gap)
    body = written({"trimtab": "{}", **fields, "model": '"alias"', "messages": f"[{gap}{message.decode()}{gap}]"}, gap)
    request = wire.parse(body, LIMITS)
    chat = openai_chat.chat(request, LIMITS)
    assert chat.messages[0].raw == message
    for sent in (
        wire.raw_body(request, "real"),
        openai_chat.native(request, Prompt((), messages=chat.messages), "real"),
    ):
        for name, value in fields.items():
            assert f":{value}".encode() in sent
            assert json.loads(sent)[name] == json.loads(value)
        assert message in sent
        assert json.loads(sent)["model"] == "real"
        assert "trimtab" not in json.loads(sent)


@settings(max_examples=80, deadline=None)
@given(FIELDS, FIELDS, SPACE)
def test_a_field_that_stands_twice_is_always_found(fields: dict[str, str], more: dict[str, str], gap: str) -> None:
    once = written(fields, gap)
    both = once[:-1] + (b"," if fields and more else b"") + written(more, gap)[1:]
    repeated = set(fields) & set(more)
    if repeated:
        with pytest.raises(BadRequest, match="duplicate field"):
            wire.parse(both, LIMITS)
    else:
        assert set(wire.parse(both, LIMITS).fields) == set(fields) | set(more)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40) | VALUES.map(str.encode) | FIELDS.map(lambda f: written(f, "")))
def test_any_bytes_are_parsed_or_refused(body: bytes) -> None:
    try:
        request = wire.parse(body, LIMITS)
        for name in request.fields:
            request.value(name)
        openai_chat.chat(request, LIMITS)
        conversation.stops(request), conversation.max_tokens(request), conversation.logprobs(request)
    except BadRequest:
        return


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max((depth(v) for v in value.values()), default=0)
    return 1 + max((depth(v) for v in value), default=0) if isinstance(value, list) else 0


@settings(max_examples=100, deadline=None)
@given(VALUES, st.integers(0, 20))
def test_depth_is_counted_as_a_parser_does(value: str, more: int) -> None:
    nested = "[" * more + value + "]" * more
    limit = Server(max_depth=12)
    body = f'{{"x":{nested}}}'.encode()
    brackets = nested.count("[") + nested.count("{")
    if depth(json.loads(nested)) > 12:
        with pytest.raises(BadRequest, match="deeper than 12"):
            wire.parse(body, limit)
    elif brackets > 16 or brackets <= 12:  # between them the cheap bound, which counts those in strings, decides
        assert wire.parse(body, limit).fields


@pytest.mark.parametrize(
    "body",
    [
        b'{"x":"' + b"a" * 20_000_000 + b'"}',
        b'{"x":"' + b"[" * 20_000_000 + b'"}',
        b'{"x":"' + b'\\"' * 8_000_000 + b"[" * 20 + b'"}',
        b'{"x":[' + b"[]," * 5_000_000 + b"[]]}",
        b'{"x":' + b"[" * 5_000_000 + b"]" * 5_000_000 + b"}",
        b'{"x":' + b'{"a":' * 2_000_000,
        b"{" + b",".join(b'"k%d":[[]]' % i for i in range(200_000)) + b"}",
    ],
)
def test_large_bodies_cost_linear_time_and_little_memory(body: bytes) -> None:
    started = time.process_time()
    with contextlib.suppress(BadRequest):
        wire.parse(body, LIMITS)
    assert time.process_time() - started < 2.5


def test_options_are_taken_out_and_the_rest_stays_in_order() -> None:
    request = wire.parse(b'{"b":1,"trimtab":{"policy":"x","skip":["urial"]},"a":2}', LIMITS)
    assert request.options == {"policy": "x", "skip": ["urial"]}
    assert wire.raw_body(request, "") == b'{"b":1,"a":2}'


def test_both_names_of_the_token_limit_are_known() -> None:
    def parsed(body: bytes) -> wire.Request:
        return wire.parse(body, LIMITS)

    assert conversation.max_tokens(parsed(b'{"max_tokens":5}')) == 5
    assert conversation.max_tokens(parsed(b'{"max_tokens":5,"max_completion_tokens":6}')) == 6
    assert conversation.max_tokens(parsed(b'{"max_tokens":null}')) is None
    assert conversation.loose_max_tokens(parsed(b'{"max_tokens":-1}')) == 1
    assert conversation.loose_max_tokens(parsed(b'{"max_tokens":"x","max_completion_tokens":9}')) == 9
