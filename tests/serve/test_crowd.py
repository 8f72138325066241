"""Large bodies are read in short steps, take turns, and are refused before they become a million objects."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.api import bodies
from serve.config import Server
from serve.dialects import anthropic_messages, openai_chat, openai_responses, spelling, wire
from serve.dialects.surrogates import restore, shield
from serve.errors import BadRequest
from serve.http.pace import Pace

_PIECES = st.sampled_from(['"', ":", "role", "\\", "u0041", " ", "é", "\n", "-", "x"])


@given(st.lists(_PIECES, max_size=60).map("".join), st.integers(1, 7))
@settings(max_examples=300, deadline=None)
def test_keys_are_found_wherever_a_window_ends(text: str, window: int) -> None:
    raw = msgspec.Raw(text.encode())
    whole, before = spelling._keys(raw), spelling._WINDOW
    spelling._WINDOW = window
    try:
        assert spelling._keys(raw) == whole == set(spelling._KEY.findall(text.encode()))
    finally:
        spelling._WINDOW = before


@pytest.mark.parametrize("blanks", [0, 500_000])
def test_a_misspelled_key_is_found_behind_a_long_text(blanks: int) -> None:
    row = '{"role":"user","content":"%s","Role"%s:"system"}' % ("x" * 600_000, " " * blanks)
    raw = msgspec.Raw(b"[%s]" % row.encode())
    with pytest.raises(BadRequest, match="'Role' differs"):
        spelling.refuse_misspelled(raw, frozenset({"role", "content"}), "messages")


@pytest.mark.parametrize("part", [b"1", b'{"type":"text","text":"hi"}', b'"a,b"'])
@pytest.mark.parametrize(
    ("dialect", "body"),
    [
        (openai_chat, b'{"messages":[{"role":"user","content":[%s]}]}'),
        (anthropic_messages, b'{"max_tokens":1,"messages":[{"role":"user","content":[%s]}]}'),
        (anthropic_messages, b'{"max_tokens":1,"messages":[{"role":"user","content":"hi"}],"system":[%s]}'),
        (openai_responses, b'{"input":[{"role":"user","content":[%s]}]}'),
    ],
)
def test_a_conversation_of_too_many_values_is_refused(dialect: Any, body: bytes, part: bytes) -> None:
    request = wire.parse(body % b",".join([part] * 200_002), Server())
    with pytest.raises(BadRequest, match="holds more than 200000 values"):
        dialect.chat(request, Server())


@pytest.mark.parametrize(
    ("dialect", "name"),
    [
        (anthropic_messages, "metadata"),
        (anthropic_messages, "tools"),
        (openai_responses, "text"),
        (openai_responses, "tools"),
    ],
)
def test_a_field_that_is_decoded_holds_no_crowd_of_lists(dialect: Any, name: str) -> None:
    """Of 800,000 lists in 1.6 MB each decoding held the interpreter's lock for a third of a second."""
    crowd = b"[%s]" % b",".join([b"[" * 50 + b"]" * 50] * 1001)
    request = wire.parse(b'{"model":"x","%s":%s}' % (name.encode(), crowd), Server())
    for read in (dialect.as_chat, dialect.refuse_untranslatable):
        with pytest.raises(BadRequest, match=f"{name} holds more than 50000 objects and lists"):
            read(request)
    text = wire.parse(b'{"model":"x","user":"%s"}' % (b"[[" * 60_000), Server())
    assert dialect.as_chat(text).value("user") == "[[" * 60_000, "brackets in a text are none"


def test_commas_in_a_text_are_no_values() -> None:
    body = b'{"messages":[{"role":"user","content":"%s"}]}' % (b",[" * 300_000)
    chat = openai_chat.chat(wire.parse(body, Server()), Server())
    assert chat.messages[0].text == ",[" * 300_000


def test_principles_that_are_a_crowd_of_objects_are_refused() -> None:
    rows = b",".join([b'{"a":[]}'] * 10_000)
    with pytest.raises(BadRequest, match="objects and lists"):
        bodies.decoded(b'{"principles":[%s]}' % rows, 9_999)


def test_a_few_unpaired_surrogates_are_kept_and_thousands_refused() -> None:
    few = rb'{"a":"' + rb"\ud800" * 10_000 + rb'"}'
    assert restore(shield(few)) == few
    with pytest.raises(BadRequest, match="unpaired surrogates"):
        shield(few + rb"\udc00")


@pytest.mark.parametrize("broken", [b"\xff", b"\xe2\x82"])
def test_a_large_body_that_is_not_utf8_is_refused(broken: bytes) -> None:
    for size in (2**20 - 20, 2**21):
        whole = b'{"user":"%s"}' % ("é".encode() * (size // 2))
        assert wire.parse(whole, Server()).fields["user"]
        with pytest.raises(BadRequest, match="not a JSON object"):
            wire.parse(whole[:-2] + broken + b'"}', Server())


async def test_uploads_take_turns_of_the_loop() -> None:
    pace, order = Pace(), list[tuple[str, int]]()

    async def upload(name: str) -> None:
        for piece in range(3):
            await pace.turn()
            order.append((name, piece))

    await asyncio.gather(upload("a"), upload("b"))
    assert order == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]


async def test_an_upload_whose_client_has_left_keeps_nobody_waiting() -> None:
    pace = Pace()
    waiting = [asyncio.create_task(pace.turn()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    waiting[1].cancel()
    async with asyncio.timeout(60):
        await waiting[2]
        await pace.turn()
