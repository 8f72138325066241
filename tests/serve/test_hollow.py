"""A large body is split as a parser splits it, whatever its strings hold and wherever a step ends."""

from __future__ import annotations

import json
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.config import Server
from serve.dialects import hollow, openai_chat, wire
from serve.errors import BadRequest

texts = st.one_of(
    st.text(max_size=30),
    st.builds(str.__mul__, st.sampled_from(["x", '"', "\\", "é", "\n", ' ": {', "😀"]), st.integers(0, 200)),
    st.lists(st.sampled_from(["x" * 90, '"', "\\", "\u2028", ",", "\ud83d"]), max_size=8).map("".join),
)  # fmt: skip
values = st.recursive(
    st.one_of(texts, st.integers(), st.none(), st.booleans()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(texts, values, max_size=5), st.integers(17, 70), st.booleans(), st.sampled_from([None, 1]))
def test_fields_are_those_of_a_parser(value: dict[str, Any], window: int, ascii_only: bool, indent: int | None) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")
    try:
        parsed = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return
    with patch.object(hollow, "_WINDOW", window):
        found = wire._split(body)
    if found is None:  # for a very long name
        assert any(
            len(json.dumps(name, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")) > window - 16
            for name in value
        )
    else:
        assert {name: bytes(raw) for name, raw in found.items()} == {name: bytes(raw) for name, raw in parsed.items()}


def test_an_image_of_megabytes_is_cut_out_and_stays_whole() -> None:
    url = "data:image/png;base64," + "QUJD/+9a" * 2**19
    content = [{"type": "text", "text": 'What "is"\nthis?'}, {"type": "image_url", "image_url": {"url": url}}]
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": content}], "temperature": 0.5}).encode()
    assert len(hollow.Hollow(body, 2**19).text) < 2**18
    request = wire.parse(body, Server())
    assert request.model == "m"
    assert bytes(request.fields["temperature"]) == b"0.5"
    assert openai_chat.chat(request, Server()).messages[0].content == content


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"a": "%s', "invalid_json"), (b'{"a": "%s", "b": \\}', "invalid_json"), (b'["%s"]', "invalid_json"),
        (b'{"a": "%s\xff"}', "invalid_json"), (b'{"a": "%s", "a": 1}', "duplicate_field"),
        (b'{"a": "%s", "Model": 1}', "field_spelling"), (b'{"%s": 1, "%s": 2}', "duplicate_field"),
    ],
)  # fmt: skip
def test_what_is_wrong_beside_a_long_string_is_refused_as_ever(body: bytes, code: str) -> None:
    for size in (10, 2**20):
        with pytest.raises(BadRequest) as refused:
            wire.parse(body.replace(b"%s", b"x" * size), Server())
        assert refused.value.code == code


@pytest.mark.parametrize("raw", [b"\0", b"\t", b"\n", b"\x1f"])
def test_a_raw_control_character_in_a_long_string_is_refused_where_it_stands(raw: bytes) -> None:
    for before in (2**20, 2**20 + 2**16 - 8, 3 * 2**20):
        body = b'{"a": "' + b"x" * before + raw + b"x" * 2**20 + b'"}'
        with pytest.raises(BadRequest) as refused:
            wire.parse(body, Server())
        assert refused.value.code == "invalid_json"
        assert f"invalid character (byte {body.index(raw)})" in str(refused.value)
