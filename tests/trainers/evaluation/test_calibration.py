"""A judge against people: what agreement is, and what is said of a judge who does not reach the simplest rule."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.trainers.evaluation.scripted_judge import habits, judging
from trainers.ask import engine as questions
from trainers.data.jsonl import DataError
from trainers.evaluation.judging.calibration import calibrate, compared, lines, warnings
from trainers.evaluation.judging.labels import Labelled, read_labelled
from trainers.evaluation.stats.intervals import kappa
from trainers.judge.pairwise import Item, Outcome, Verdict

MARKS: dict[str, tuple[Any, Any]] = {
    "win": ("B", "A"),
    "loss": ("A", "B"),
    "tie": ("tie", "tie"),
    "first": ("A", "A"),
    "": ("unreadable", "A"),
}


def pair(people: str, name: str = "q", before: str = "a", after: str = "b") -> Labelled:
    names: dict[str, Outcome] = {"w": "win", "l": "loss", "t": "tie"}
    return Labelled(Item(name, (name,), (before,), (after,)), tuple(names[letter] for letter in people))


def verdict(says: str, name: str = "q", longer: int = 1) -> Verdict:
    return Verdict(name, *MARKS[says], longer)


def many(people: list[str], says: list[str], **more: Any) -> Any:
    labelled = [pair(each, str(i)) for i, each in enumerate(people)]
    return compared(labelled, [verdict(each, str(i), **more) for i, each in enumerate(says)])


# ---------------------------------------------------------------- pairs with labels


def test_pandalms_labels_are_read(tmp_path: Path) -> None:
    row = {"idx": 0, "instruction": "Say it.", "input": "It", "response1": "one", "response2": "two"}
    row |= {"annotator1": 1, "annotator2": 2, "annotator3": 0}
    rows = [row, row | {"input": "", "annotator3": 2}]
    path = tmp_path / "testset.json"
    path.write_text(json.dumps(rows))
    first, second = read_labelled(path)
    assert first.item.turns == ("Say it.\n\nIt",)
    assert (first.item.before, first.item.after) == (("one",), ("two",))
    assert (first.people, first.majority) == (("loss", "win", "tie"), "")
    assert second.item.turns == ("Say it.",)
    assert second.majority == "win"


def test_our_own_lines_are_read(tmp_path: Path) -> None:
    rows = [
        {"prompt": "P", "before": "a", "after": "b", "people": ["win"]},
        {"turns": ["1", "2"], "before": ["a", "b"], "after": ["c", "d"], "people": ["tie", "tie", "loss"]},
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    one, two = read_labelled(path)
    assert (one.majority, two.majority, two.item.after) == ("win", "tie", ("c", "d"))


@pytest.mark.parametrize(("text", "told"), [
    ("", "no pairs"), ("[{]", "not JSON"), ('{"prompt": "x"}', r"line 1: no 'before'"), ("\n\nno", "line 3: not JSON"),
    ('{"prompt": "x", "before": "a", "after": "b", "people": ["better"]}', "valid are win, loss, tie"),
    ('[{"annotator1": 3}]', "row 1: no 3, or a label"), ("[3]", "row 1: not a JSON object"),
    ('{"prompt": "half \\ud83d", "before": "a", "after": "b", "people": ["win"]}', "line 1: .*surrogates"),
    ('{"prompt": "x", "before": 1, "after": "b", "people": ["win"]}', "line 1"),
])  # fmt: skip
def test_what_cannot_be_read_is_named(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "pairs"
    path.write_text(text)
    with pytest.raises(DataError, match=told):
        read_labelled(path)
    with pytest.raises(DataError, match="No such file"):
        read_labelled(tmp_path / "gone")


# ---------------------------------------------------------------- the judge on them


def test_agreement_and_kappa_by_hand() -> None:
    people = ["www"] * 40 + ["lll"] * 30 + ["ttt"] * 10 + ["wlt"] * 5
    says = ["win"] * 30 + ["loss"] * 10 + ["loss"] * 20 + ["first"] * 10 + ["tie"] * 9 + [""] + ["win"] * 5
    found = many(people, says)
    assert (found.pairs, found.no_majority, found.unreadable) == (79, 5, 1)
    assert found.agreement.value == pytest.approx(59 / 79)
    assert found.baseline == "win"
    assert found.baseline_share.value == pytest.approx(40 / 79)
    assert found.over_baseline.value == pytest.approx(19 / 79)
    assert found.table["loss"] == {"win": 0, "loss": 20, "tie": 10}
    labels = ["win"] * 40 + ["loss"] * 30 + ["tie"] * 9
    given = ["win"] * 30 + ["loss"] * 30 + ["tie"] * 19
    whole = kappa(labels, given)
    assert (found.kappa.value, found.kappa.low) == pytest.approx((whole.value, whole.low))
    assert found.consistency.value == pytest.approx(69 / 79)
    assert found.person
    assert found.person.value == 1.0
    assert found.better_than_baseline


def test_people_are_held_against_each_other_and_the_judge_against_one() -> None:
    found = many(["wwl", "wwl", "lll", "ttw"] * 10, ["win", "win", "loss", "tie"] * 10)
    assert found.agreement.value == 1.0
    assert found.person
    assert found.person.value == pytest.approx((1 / 3 + 1 / 3 + 1 + 1 / 3) / 4)
    assert found.with_person.value == pytest.approx((2 / 3 * 3 + 1) / 4)
    assert many(["w", "l"], ["win", "loss"]).person is None


def test_a_judge_no_better_than_one_word_is_told_so() -> None:
    rng = random.Random(0)
    people = ["www"] * 60 + ["lll"] * 40
    found = many(people, [rng.choice(["win", "loss"]) for _ in people])
    assert not found.better_than_baseline
    told = "\n".join(lines(found))
    assert "no better than always saying 'the second is better'" in told
    assert "60%" in told
    good = many(people, ["win"] * 55 + ["loss"] * 45)
    assert good.better_than_baseline
    assert "no better" not in "\n".join(lines(good))


def test_twenty_pairs_prove_no_judge() -> None:
    """It says more than the simplest rule does, but not by more than chance might."""
    found = many(["www"] * 12 + ["lll"] * 8, ["win"] * 12 + ["loss"] * 3 + ["win"] * 5)
    assert found.agreement.value > found.baseline_share.value
    assert found.better_than_baseline == (found.over_baseline.low > 0)
    found = many(["www"] * 12 + ["lll"] * 8, ["win"] * 12 + ["loss"] + ["win"] * 7)
    assert not found.better_than_baseline


def test_pairs_of_one_question_are_no_independent_evidence() -> None:
    labelled = [pair("www", str(i // 10)) for i in range(200)]
    verdicts = [verdict("win" if i // 10 % 3 else "loss", str(i // 10)) for i in range(200)]
    apart = many(["www"] * 200, [v.outcome for v in verdicts])
    together = compared(labelled, verdicts)
    assert together.agreement.value == apart.agreement.value
    assert together.agreement.high - together.agreement.low > 2 * (apart.agreement.high - apart.agreement.low)


def test_a_judge_that_likes_length_more_than_people_do_is_told_so() -> None:
    people = ["www", "lll"] * 60
    found = many(people, ["win"] * 100 + ["loss"] * 20, longer=50)
    assert found.longer_people
    assert found.longer_people.value == 0.5
    assert found.longer_p < 0.01
    assert any("longer answer more often than people do (83% against 50%)" in text for text in warnings(found))


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(DataError, match="cannot be calibrated"):
        many(["wlt"], ["win"])


def test_a_judge_is_calibrated_over_http(tmp_path: Path) -> None:
    labelled = []
    for i in range(60):
        better = i % 2 == 0
        texts = (f"{'Worse' if better else 'Better'}. {'w' * (9 + i)}", f"{'Better' if better else 'Worse'}. www")
        labelled.append(pair("wwl" if better else "llw", f"q{i}", *texts))
    with judging(habits(first=0.4)) as judge:
        found = calibrate(questions.Engine(judge.url, "scripted"), labelled, tmp_path)
        assert judge.answered == 120
        again = calibrate(questions.Engine(judge.url, "scripted"), labelled, tmp_path)
        assert judge.answered == 120
    assert again == found
    assert found.judge.position
    assert found.judge.position.share.low < 0.7 < found.judge.position.share.high
    assert found.judge.position.p < 0.001
    assert found.consistency.low < 0.6 < found.consistency.high
    told = "\n".join(lines(found))
    assert "prefers whichever answer it reads first" in told
    assert "says what most people said" in told
