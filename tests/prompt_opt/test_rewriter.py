"""Templates: byte-equal to what a rewriter was trained on, and no user text gets out of them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prompt_opt.rewriter.settings import DECODINGS, rewriter, shielded
from prompt_opt.rewriter.template import BPO, INSTRUCT, BadAnswer, unwrapped
from tests.prompt_opt.scripted import answer

RELEASED = (  # the model card of THUDM/BPO, "Prompt Template"
    "[INST] You are an expert prompt engineer. Please help me improve this prompt to get a more helpful and harmless "
    "response:\n{} [/INST]"
)
TOKENS = ["[INST]", "[/INST]", "<s>", "</s>", "<<SYS>>", "<</SYS>>", "<|im_end|>", "<|endoftext|>", "<unk>"]
bpo = rewriter("r", "e", "bpo", "stable")
instruct = rewriter("r", "e", "instruct", "greedy")


@pytest.mark.parametrize("text", ["Tell me about Harry Potter", "{} {prompt} %s", "two\nlines", "", "请解释"])
def test_the_bpo_template_is_the_released_one(text: str) -> None:
    head, tail = RELEASED.split("{}")
    assert BPO.text(text) == head + text + tail
    assert bpo.body(text, "replace")["prompt"] == BPO.text(text)


def test_stable_is_decoded_as_published() -> None:
    assert bpo.body("Hi", "replace") == {
        "model": "", "prompt": BPO.text("Hi"), "max_tokens": 1024, "temperature": 0.6, "top_p": 0.9,
    }  # fmt: skip


def test_aggressive_is_decoded_as_published() -> None:
    body = rewriter("r", "e", "bpo", "aggressive").body("x" * 400, "replace")
    assert (body["temperature"], body["top_p"], body["n"], body["stop"]) == (0.9, 0.9, 5, ["\n"])
    assert body["bad_words"] == ["[PROTECT]", "\n\n[PROTECT]", "[KEEP", "[INSTRUCTION]"]
    assert body["min_tokens"] == 105


def test_greedy_sends_no_sampling() -> None:
    assert DECODINGS["greedy"].fields("x") == {"max_tokens": 1024, "temperature": 0.0}


@pytest.mark.parametrize("token", TOKENS)
def test_no_special_token_of_a_user_reaches_the_rewriter(token: str) -> None:
    text = f"What is {token} for? {token}"
    prompt = bpo.body(text, "replace")["prompt"]
    inner = prompt.removeprefix(BPO.before).removesuffix(BPO.after)
    assert token not in inner
    assert bpo.candidates(answer(inner, chat=False), text)[0].text == text
    messages = instruct.body(text, "replace", [("user", token)])["messages"]
    assert token not in messages[1]["content"]


def test_the_engines_own_special_tokens_are_escaped_too() -> None:
    own = rewriter("r", "e", "bpo", specials=("◁stop▷",))
    assert "◁stop▷" not in own.body("a ◁stop▷ b", "replace")["prompt"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*TOKENS, "\n", " ", "\\", "a", "[", "/INST]", "<", "s>", "~~~~", "```"]), max_size=12))
def test_no_text_opens_or_closes_the_instruction(pieces: list[str]) -> None:
    text = "".join(pieces)
    prompt = bpo.body(text, "replace")["prompt"]
    assert prompt.count("[INST]") == prompt.count("[/INST]") == 1
    assert not re.search(r"</?s>|<</?SYS>>|<\|im_end\|>", prompt)
    content = instruct.body(text, "replace")["messages"][1]["content"]
    lines = content.splitlines()
    fence = lines[-1]
    assert lines.index(fence) == 1
    assert fence not in "\n".join(lines[2:-1]).split("\n")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80))
def test_what_a_rewriter_copies_comes_back_as_the_user_wrote_it(text: str) -> None:
    shown = shielded(text)
    (candidate,) = bpo.candidates(answer(shown, chat=False), text)
    if not any(mark in text for mark in ("[KE", "[INS", "[PRO", "\0")):
        assert candidate.text == text.strip()


def test_aggressive_samples_are_cut_where_the_authors_cut_them() -> None:
    texts = ["Do it. [PROTECT] no", "Do it.\n[KEEP this]", "Do it. [INSTRUCTION]"]
    assert [c.text for c in bpo.candidates(answer(*texts, chat=False), "x")] == ["Do it."] * 3


def test_a_cut_off_candidate_is_not_complete() -> None:
    assert not bpo.candidates(answer("Do", chat=False, finish="length"), "x")[0].complete


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("How do I sleep better?", "You edit prompts"), ("Wie schlafe ich besser?", "Du überarbeitest"),
        ("Comment mieux dormir la nuit ?", "Tu améliores"), ("¿Cómo puedo dormir mejor?", "Mejoras prompts"),
        ("怎样才能睡得更好？", "你负责修改"), ("Come posso dormire meglio di notte?", "You edit prompts"),
    ],
)  # fmt: skip
def test_the_instruction_is_in_the_language_of_the_prompt(text: str, word: str) -> None:
    system, user = INSTRUCT.fields(text, "replace")["messages"]
    assert system["content"].startswith(word)
    assert text in user["content"]
    assert text not in INSTRUCT.fields(text, "complement")["messages"][0]["content"]


def test_history_stands_before_the_prompt_and_apart_from_it() -> None:
    user = INSTRUCT.fields("And in winter?", "replace", [("user", "What to wear?"), ("assistant", "A coat.")])
    content = user["messages"][1]["content"]
    assert content.index("user: What to wear?") < content.index("assistant: A coat.") < content.index("And in winter?")


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ('"Do it."', "Do it."), ("“Do it.”", "Do it."), ("Improved prompt: Do it.", "Do it."),
        ("```\nDo it.\n```", "Do it."),
        ("Here's a better version:\n\nDo it.", "Do it."), ("<think>hm</think>Do it.", "Do it."),
        ('"A" and "B"', '"A" and "B"'), ("Do it: now.", "Do it: now."),
        ("**Rewritten prompt:**\nDo it.", "Do it."),
    ],
)  # fmt: skip
def test_what_chat_models_wrap_around_a_text(said: str, meant: str) -> None:
    assert unwrapped(said) == meant


@pytest.mark.parametrize(
    "said",
    [{}, {"choices": []}, {"choices": [1]}, {"choices": [{}]}, {"choices": [{"message": None}]}, {"choices": None}],
)
@pytest.mark.parametrize("template", ["bpo", "instruct"])
def test_what_is_no_completion_is_a_bad_answer(said: dict[str, Any], template: str) -> None:
    with pytest.raises(BadAnswer):
        rewriter("r", "e", template).candidates(said, "x")


def test_unknown_names_fail_listing_valid_ones() -> None:
    with pytest.raises(ValueError, match="valid are bpo, instruct"):
        rewriter("r", "e", "bop")
    with pytest.raises(ValueError, match="valid are stable, aggressive, greedy"):
        rewriter("r", "e", decoding="calm")
