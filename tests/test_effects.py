"""The effects benchmark's own questions and checks: what its table counts must be what it says."""

import json
import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.effects import instructions, questions
from benchmarks.effects.arms import CHAT, configuration
from benchmarks.effects.cells import of_answers
from benchmarks.effects.instructions import CHECKS, follows
from benchmarks.effects.table import merged
from trainers.evaluation.core import Answer, Question

# check, argument, an answer that does it, one that does not
CASES = [
    ("lowercase", 0, "it rains on the quay.", "It rains."), ("capitals", 0, "IT RAINS!", "IT rains."),
    ("no_comma", 0, "Rain and wind.", "Rain, wind."), ("at_most", 3, "Rain and wind.", "Rain and wind and sea."),
    ("at_least", 4, "Rain and wind tonight.", "Rain and wind."), ("sentences", 2, "It rains. Hard!", "It rains."),
    ("bullets", 2, "- rain\n- wind", "Here:\n- rain\n- wind"), ("word", "quiet", "A Quiet day.", "A quietness."),
    ("no_word", "the", "Then we left.", "The rain."), ("begins", "In short", "In short, rain.", "Well, in short."),
    ("ends", "good luck", "And good luck!", "Good luck to you."), ("question", 0, "Is it wet?", "Is it? Yes."),
    ("json", 0, '```json\n{"text": "rain"}\n```', 'Sure: {"text": "rain"}'),
    ("title", 0, "<<Rain>>\nIt falls.", "Rain\nIt falls."), ("postscript", 0, "Rain.\nP.S. Wind.", "Rain. No P.S."),
    ("parts", 0, "Rain.\n***\nWind.", "Rain. *** Wind."),
]  # fmt: skip


@pytest.mark.parametrize(("name", "argument", "good", "bad"), CASES)
def test_a_check_holds_for_an_answer_that_does_what_was_asked_and_for_no_other(
    name: str, argument: object, good: str, bad: str
) -> None:
    assert follows([[name, argument]], good)
    assert not follows([[name, argument]], bad)
    assert not follows([[name, argument]], "")


def test_there_are_three_hundred_questions_with_every_check_and_the_same_each_time() -> None:
    rows = instructions.make()
    assert len(rows) == len({row["id"] for row in rows}) == 300
    assert {row["kind"] for row in rows} == set(CHECKS) == {case[0] for case in CASES}
    assert rows == instructions.make()


def test_a_law_question_hides_the_figure_and_a_wrong_rule_shows_another() -> None:
    text = "A person shall, within thirty days after receiving the notice, send a reply to the Minister in writing."
    place = questions.FIGURE.search(text)
    assert place is not None
    bare, ruled, wrong = questions._asked({"_id": "x1", "title": "Act, s. 1"}, text, place)
    assert "thirty" not in bare["prompt"]
    assert text in ruled["prompt"]
    assert bare["answers"][bare["right"]] == ruled["answers"][ruled["right"]] == "thirty days"
    shown = wrong["answers"][wrong["right"]]
    assert shown != "thirty days"
    assert f"within {shown} after" in wrong["prompt"]


def test_pairs_are_read_as_they_are_written(tmp_path: Path) -> None:
    questions.write(tmp_path / "pairs.jsonl", [{"id": "a", "prompt": "Hi", "answers": ["x", "y"], "right": 1}])
    assert json.loads((tmp_path / "pairs.jsonl").read_text("utf-8"))["right"] == 1


def test_arms_that_were_asked_later_stand_beside_the_first_ones(tmp_path: Path) -> None:
    rows = instructions.make()[:12]
    (tmp_path / "questions").mkdir()
    questions.write(tmp_path / "questions/instructions.jsonl", rows)
    for folder, arm, text in (("instructions", "raw", "Rain."), ("instructions+more", "penalty", "")):
        (tmp_path / folder).mkdir()
        asked = [asdict(Question(row["id"], (row["prompt"],), kind=row["kind"])) for row in rows]
        answers = [asdict(Answer(arm, row["id"], 0, 1, texts=(text,))) for row in rows]
        questions.write(tmp_path / folder / "questions.jsonl", asked)
        questions.write(tmp_path / folder / "answers.jsonl", answers)
    folders = [tmp_path / "instructions", tmp_path / "instructions+more", tmp_path / "absent"]
    arms = of_answers("instructions", folders, tmp_path, "raw")["arms"]
    assert {arm: cell["n"] for arm, cell in arms.items()} == {"raw": 12, "penalty": 12}
    assert arms["raw"]["level"]["follows"]["value"] > arms["penalty"]["level"]["follows"]["value"] == 0


def test_a_set_that_a_later_run_did_not_ask_stays() -> None:
    def told(**sets: str) -> dict[str, object]:
        return {"chat": {"model": "one", "baseline": "raw", "sets": sets}}

    assert merged(told(vicuna="old", bpo="old"), told(vicuna="new")) == told(vicuna="new", bpo="old")
    assert merged({}, told(vicuna="new")) == told(vicuna="new")


def test_an_arm_named_penalty_differs_from_its_like_in_the_engine_alone() -> None:
    text = configuration(CHAT, "http://127.0.0.1:1", "m", 2, Path("state"), Path("spec"), {})
    policies = tomllib.loads(text)["policy"]
    assert policies["default-penalty"] == policies["default"] | {"engine": "penalising"}
    assert policies["penalty"]["profile"] == "plain"
    assert policies["opo-always"]["opo"]["floor"] == 0 != policies["opo-spec"]["opo"].get("floor")
