"""Bodies are sized up in short steps, and what is too much is refused before it becomes objects."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.config import Server
from serve.dialects import outline, wire
from serve.errors import BadRequest

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
TEXTS = st.text(st.sampled_from('a"\\[]{}:, é'), max_size=12)
JSON = st.recursive(TEXTS | st.integers(), lambda it: st.lists(it) | st.dictionaries(TEXTS, it), max_leaves=20)


@given(st.dictionaries(TEXTS, JSON, max_size=6), st.integers(1, 9))
@settings(max_examples=300, deadline=None)
def test_strings_count_for_nothing_wherever_a_step_ends(value: dict[str, Any], step: int) -> None:
    body = json.dumps(value, ensure_ascii=False).encode()
    before, outline._SLICE = outline._SLICE, step
    try:
        bare = _STRING.sub(b"", body)
        assert outline.brackets(body) == sum(bare.count(c) for c in b"[]{}")
        assert outline.fields(body, 100) == len(value)
        assert outline.depth(body) >= _depth(value)
        if body.count(b"[") + body.count(b"{") > 16:
            assert outline.depth(body) == _depth(value)
    finally:
        outline._SLICE = before


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


@pytest.mark.parametrize("number", [1001, 200_000])
def test_a_body_of_very_many_fields_is_refused(number: int) -> None:
    body = b"{" + b", ".join(b'"k%d":1' % i for i in range(number)) + b"}"
    with pytest.raises(BadRequest, match="more than 1000 fields"):
        wire.parse(body, Server())


def test_the_count_of_fields_stops_early() -> None:
    """It must not read on: the rest of this body is not even JSON."""
    body = b"{" + b'"k":1,' * 50_000 + b"]" * 1_000_000
    assert outline.fields(body, 10) == 11


def test_a_text_that_holds_json_is_no_crowd_of_fields() -> None:
    text = json.dumps({f"k{i}": i for i in range(60_000)})
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()
    assert wire.parse(body, Server()).model == "m"
