"""Other forms of a laid-out chat say the same."""

from __future__ import annotations

import json

import pytest

from prompt_opt.core import Advice, Chat, Exemplar, Message, Policy
from prompt_opt.layout.forms import FORMS, fold_system, with_reasoning
from prompt_opt.layout.order import lay_out

ADVICE = Advice(instruction="Be kind.", exemplars=(Exemplar("q", "a"),), demos=(Exemplar("d", "e"),), rewrite="better")
CHATS = {
    "alone": [("user", "hi")],
    "system": [("system", "Brief."), ("developer", "Briefer."), ("user", "hi"), ("assistant", "x"), ("user", "ho")],
    "no user": [("system", "Brief."), ("assistant", "x")],
}


@pytest.mark.parametrize("name", CHATS)
def test_every_text_stays_and_the_spans_still_join_to_it(name: str) -> None:
    advice = Advice(instruction="Be kind.") if name == "no user" else ADVICE
    usual = lay_out(Chat(tuple(Message(*row) for row in CHATS[name])), advice, Policy("p"))
    folded = fold_system(usual)
    assert folded.messages is not None
    for i, message in enumerate(folded.messages):
        assert "".join(span.text for span in folded.spans if span.message == i) == message.text
    whole = "\n\n".join(m.text for m in folded.messages)
    assert all(m.text in whole for m in usual.messages or ())
    if name != "no user":
        assert not [m for m in folded.messages if m.role in ("system", "developer")]
        assert fold_system(folded) == folded
    else:
        assert folded == usual


def test_only_our_own_turns_get_an_empty_reasoning() -> None:
    chat = Chat((Message("user", "hi"), Message("assistant", "own", raw=b'{"role":"assistant","content":"own"}')))
    shaped = with_reasoning(lay_out(chat, ADVICE, Policy("p")))
    turns = [json.loads(m.json()) for m in shaped.messages or () if m.role == "assistant"]
    assert [turn.get("reasoning_content") for turn in turns] == ["", "", None]


def test_a_text_has_no_other_form() -> None:
    prompt = lay_out(Chat((Message("user", "hi"),)), ADVICE, Policy("p", render="base"))
    assert all(form(prompt) == prompt for form in FORMS.values())
