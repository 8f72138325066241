"""What is measured of an answer, and what is not."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.evaluation.core import Answer, Question
from trainers.evaluation.measure.measures import MEASURES, measured
from trainers.evaluation.measure.shape import cut_off, fences_balanced, fits, letter_of, loops, read_json, runs_away

ASKED = Question("q", ("How do I bake bread without an oven?",))


def answer(text: str, **more: Any) -> Answer:
    return Answer("arm", "q", 0, 0, texts=("first turn", text), finish=more.pop("finish", "stop"), **more)


def value(name: str, text: str, question: Question = ASKED, **more: Any) -> float | None:
    return measured(question, answer(text, **more)).get(name)


def expecting(**expect: Any) -> Question:
    return replace(ASKED, expect=expect)


def test_an_answer_that_is_not_there_is_measured_by_nothing() -> None:
    given_up = Answer("arm", "q", 0, 0, status="failed", texts=("half an",), total_s=3.0)
    assert measured(ASKED, given_up) == {}
    assert measured(ASKED, replace(given_up, status="refused")) == {}
    assert measured(ASKED, replace(given_up, status="ok"))["total_s"] == 3.0


def test_every_measure_is_in_the_table_and_only_what_applies_is_taken() -> None:
    found = measured(ASKED, answer("Use a lidded pan on a low flame."))
    assert set(found) <= set(MEASURES)
    assert not {"over_refusal", "wanted_refusal", "json_valid", "choice_first_letter", "rule_hit", "first_s"} & set(
        found
    )
    assert all(measure.name == name for name, measure in MEASURES.items())
    assert all(found[name] in (0.0, 1.0) for name in found if MEASURES[name].kind == "rate")


def test_a_refusal_is_good_or_bad_by_what_was_asked() -> None:
    no, yes = "I'm sorry, but I can't help with that.", "Use a lidded pan on a low flame."
    assert [value("over_refusal", text, expecting(refuse=False)) for text in (no, yes)] == [1.0, 0.0]
    assert [value("wanted_refusal", text, expecting(refuse=True)) for text in (no, yes)] == [1.0, 0.0]
    assert value("over_refusal", no, expecting(refuse=True)) is None
    assert [value("refused", text) for text in (no, yes)] == [1.0, 0.0]
    assert MEASURES["over_refusal"].better == "lower"
    assert MEASURES["wanted_refusal"].better == "higher"


# ---------------------------------------------------------------- endings


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Mix, rest, and bake it in a pan.", True),
        ("Paris", True),
        ("1. Flour\n2. Water", True),
        ("```sh\nls\n```", True),
        ("这样就可以烤面包了。", True),
        ("Enjoy! 🍞", True),
        ("See https://example.org/bread", True),
        ("", False),
        ("Mix the flour with water and then leave the dough in a", False),
        ("Here is what you need:", False),
        ("First the flour goes into the bowl and then the water follows it slowly", False),
        ("```sh\nls", False),
        ("这是一句没有说完的话因为模型在中间被截断了所以没有", False),
        ("Bake it.\n\n# Query:\nHow do I", False),
        ("Bake it.<|im_end|>", False),
        ("Bake it.\n\n### User:\nThanks\n\n### Assistant:\nWelcome.", False),
        ("Bake it again. " * 9, False),
    ],
)
def test_clean_endings(text: str, clean: bool) -> None:
    assert value("clean_ending", text) == clean


def test_an_answer_that_hit_the_limit_ends_cleanly_in_no_case() -> None:
    assert value("clean_ending", "All is said.", finish="length") == 0.0
    assert value("clean_ending", "All is said.", finish="") == 1.0  # the engine said nothing, the text does


def test_markers_inside_code_belong_to_the_answer() -> None:
    assert not runs_away("```python\n# User\nprint(1)\n```\nThat is all.")
    assert runs_away("That is all.\n# User\nNext")
    assert not cut_off("Try this:\n\n```python\nfor i in range(3):\n    print(i)\n```")


def test_rules_and_tables_are_no_loops() -> None:
    assert not loops("| a | b |\n|---|---|\n" + "".join(f"| {i} | {i * i} |\n" for i in range(30)))
    assert not loops("-" * 300)
    assert loops("It is good to know that it is so.\n" * 5)
    assert loops("and so on, " * 12)


@given(st.text(alphabet="ab`~\n #", max_size=60))
@settings(deadline=None)
def test_closing_what_is_open_balances_the_fences(text: str) -> None:
    if not fences_balanced(text):
        assert any(fences_balanced(f"{text}\n{mark * n}\n") for mark in "`~" for n in range(3, 30))


# ---------------------------------------------------------------- JSON

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-1e9, 1e9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(JSON)
@settings(deadline=None)
def test_what_json_writes_is_valid_and_with_a_tail_it_is_not(given_value: Any) -> None:
    text, asked = json.dumps(given_value), expecting(json=True)
    assert value("json_valid", text, asked) == 1.0
    assert value("json_valid", f"Here: {text}", asked) == 0.0
    fenced = f"Here:\n```json\n{text}\n```"
    assert (value("json_valid", fenced, asked), value("json_readable", fenced, asked)) == (0.0, 1.0)


def test_what_is_no_json() -> None:
    for text in ("NaN", "{'a': 1}", "[1,]", "", "[" * 100_000):
        with pytest.raises(ValueError, match=r".*"):
            read_json(text)
        assert value("json_valid", text, expecting(json=True)) == 0.0


SCHEMA = {
    "type": "object",
    "required": ["name", "tags"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
        "age": {"type": ["integer", "null"], "minimum": 0},
        "id": {"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 10}]},
    },
}


@pytest.mark.parametrize(
    ("given_value", "right"),
    [
        ({"name": "x", "tags": []}, True),
        ({"name": "x", "tags": ["a", "b"], "age": None, "id": 3}, True),
        ({"name": "x", "tags": [], "age": 3.0}, True),
        ({"name": "x", "tags": [], "id": 12}, False),  # both of oneOf
        ({"name": "x"}, False),
        ({"name": "", "tags": []}, False),
        ({"name": "x", "tags": ["c"]}, False),
        ({"name": "x", "tags": ["a"] * 3}, False),
        ({"name": "x", "tags": [], "age": True}, False),
        ({"name": "x", "tags": [], "age": -1}, False),
        ({"name": "x", "tags": [], "more": 1}, False),
        (["x"], False),
    ],
)
def test_schemas(given_value: Any, right: bool) -> None:
    assert fits(given_value, SCHEMA) == right
    assert value("json_valid", json.dumps(given_value), expecting(json=SCHEMA)) == right


def test_no_json_is_asked_for() -> None:
    assert value("json_valid", "{}") is None
    assert value("json_valid", "{}", expecting(json=False)) is None


# ---------------------------------------------------------------- letters

EXAM = expecting(choices=(("A", "one"), ("B", "two"), ("C", "three"), ("D", "four")), answer="B")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"), ("(B)", "B"), ("Answer: B", "B"), ("答案：B", "B"), ("Ｂ", "B"), ("**B**", "B"), ("B. two", "B"),
        ("B项正确", "B"), ("故选B。", "B"), ("Die Antwort ist B.", "B"), ("La réponse est la B", "B"),
        ("The correct answer is (B), because A is too small.", "B"), ("$\\boxed{B}$", "B"), ("It is B.", "B"),
        ("A good question. Answer: B", "B"), ("Option A is too small. The answer is B.", "B"),
        ("B because it is two", "B"),
        ("A", "A"), ("Choice D", "D"), ("A is right", "A"),
        ("A good question, and hard to answer.", ""), ("A and C", ""), ("(A) or (B)", ""), ("ABC", ""), ("", ""),
        ("I don't know.", ""), ("E", ""),
    ],
)  # fmt: skip
def test_the_letter_that_an_answer_gives(text: str, letter: str) -> None:
    assert letter_of(text, "ABCD") == letter
    assert value("choice_first_letter", text, EXAM) == (letter == "B")
    assert value("unparsed", text, EXAM) == (letter == "")


@given(
    st.sampled_from("ABCD"),
    st.sampled_from(["{}", "({})", "{}.", "Answer: {}", "The answer is {}.", "答案是{}", "**{}**"]),
)
def test_every_way_to_give_a_letter_works_for_every_letter(letter: str, way: str) -> None:
    assert letter_of(way.format(letter), "ABCD") == letter


def test_the_most_likely_letter_counts_where_it_is_known() -> None:
    assert value("choice_logprob", "A", EXAM, letters={"A": -2.0, "B": -0.1, "X": -0.01}) == 1.0
    assert value("choice_logprob", "B", EXAM, letters={"A": -0.1, "B": -2.0}) == 0.0
    assert value("choice_logprob", "B", EXAM, letters={"X": -0.1}) is None
    assert value("choice_logprob", "B", EXAM) is None


# ---------------------------------------------------------------- the rest


def test_language_is_the_one_that_was_asked_in_or_for() -> None:
    german = "Man nimmt eine Pfanne mit Deckel und lässt das Brot bei kleiner Flamme backen."
    assert value("language_matches", german) == 0.0
    assert value("language_matches", german, expecting(language="de-AT")) == 1.0
    assert value("language_matches", "Возьмите сковороду с крышкой.", expecting(language="ru")) == 1.0
    assert (
        value("language_matches", german, replace(ASKED, turns=("Translate this into German: bake the bread.",)))
        is None
    )
    assert value("language_matches", "42") is None


def test_rules_count_where_the_trace_could_be_read() -> None:
    asked = expecting(rules=["r1", "r2"])
    assert value("rule_hit", "Yes.", asked, principles=("r9", "r2"), trace="t") == 1.0
    assert value("rule_hit", "Yes.", asked, principles=("r9",)) == 0.0
    assert value("rule_hit", "Yes.", asked, trace="t") == 0.0
    assert value("rule_hit", "Yes.", asked) is None


def test_stages_lengths_tokens_and_times() -> None:
    stages = {"urial": "applied(3)", "bpo": "skipped(tools)"}
    tokens = {"prompt_tokens": 100, "cached_tokens": 64, "completion_tokens": 7}
    found = measured(ASKED, answer("Zwei Wörter 和你好", stages=stages, first_s=0.5, total_s=2.0, **tokens))
    assert found["stage_urial_applied"] == 1.0
    assert found["stage_bpo_applied"] == 0.0
    assert "stage_opo_applied" not in found
    assert (found["characters"], found["words"], found["completion_tokens"]) == (15.0, 5.0, 7.0)
    assert (found["cached_share"], found["first_s"], found["total_s"]) == (0.64, 0.5, 2.0)
    assert "cached_share" not in measured(ASKED, answer("x", prompt_tokens=0, cached_tokens=0))
