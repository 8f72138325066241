"""Which policy a request gets: the order of the channels, and who may choose what."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompt_opt.core import Policy
from serve.chat.choose import choose
from serve.chat.keys import ANYBODY, Caller
from serve.config import Alias, Config, Engine, Key, Server
from serve.errors import Forbidden, NotFound

POLICIES = {name: Policy(name) for name in ("raw", "urial", "a", "b")}
CONFIG = Config(
    Server(policy="urial"), {"main": Engine("main", url="http://x")}, {}, POLICIES,
    {"good": Alias("good", "a", "real"), "bare": Alias("bare", "b")},
)  # fmt: skip


def caller(**fields: Any) -> Caller:
    return Caller("t", Key("k", hashlib.sha256(b"x").hexdigest(), tenant="t", **fields))


@pytest.mark.parametrize(
    ("model", "header", "option", "policy", "sent"),
    [
        ("m", None, None, "urial", "m"),
        ("good", None, None, "a", "real"),
        ("bare", None, None, "b", ""),
        ("good", "b", None, "b", "real"),
        ("good", "b", "raw", "raw", "real"),
        ("m", "", None, "urial", "m"),
    ],
)
def test_the_nearest_word_wins(model: str, header: str | None, option: str | None, policy: str, sent: str) -> None:
    options = {} if option is None else {"policy": option}
    chosen, name = choose(CONFIG, ANYBODY, model, header, options)
    assert (chosen.name, name) == (policy, sent)


def test_a_keys_default_stands_before_the_servers() -> None:
    assert choose(CONFIG, caller(policy="b"), "m", None, {})[0].name == "b"
    assert choose(CONFIG, caller(policies=("a",)), "m", None, {})[0].name == "a"  # the only one it may use
    assert choose(CONFIG, caller(policies=("a", "urial")), "m", None, {})[0].name == "urial"


def test_what_a_key_may_not_use_is_refused_by_name() -> None:
    with pytest.raises(Forbidden, match="may use a, b"):
        choose(CONFIG, caller(policies=("a", "b")), "m", "urial", {})
    with pytest.raises(Forbidden):
        choose(CONFIG, caller(), "m", "raw", {})
    with pytest.raises(NotFound, match=r"no policy 'x'; valid are a, b, urial$"):
        choose(CONFIG, caller(), "m", "x", {})


@given(st.text())
def test_no_text_of_a_model_name_or_header_chooses_what_is_not_configured(text: str) -> None:
    who = caller(policies=("a",))
    try:
        assert choose(CONFIG, who, text, text, {})[0].name == "a"
    except (NotFound, Forbidden):
        assert text != "a"
