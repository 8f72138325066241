"""`trimtab eval --pairs` against engines on real sockets that say what a simple rule says of a prompt's tokens."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.trainers.evaluation.scoring_engine import Scoring
from trainers.data.jsonl import DataError
from trainers.evaluation.entry import main
from trainers.evaluation.likelihood.margin import by_length, measured
from trainers.evaluation.likelihood.pair_file import Pair, read_pairs
from trainers.evaluation.likelihood.scorer import Scored

PAIRS = [
    {"id": "a", "prompt": "How to greet?", "chosen": "kind words", "rejected": "How rude"},
    {"id": "b", "prompt": "How to leave?", "chosen": "brief bow", "rejected": "run off at once"},
    {"id": "c", "prompt": "How to ask?", "chosen": "ask nicely", "rejected": "shout"},
]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PAIRS), "utf-8")
    return path


def flags(engine: Scoring, pairs: Path, out: Path, *more: str) -> list[str]:
    arms = ["--url", engine.url, "--arm", "raw", "--arm", "law", "--scorer", f"{engine.url}#toy"]
    return [*arms, "--pairs", str(pairs), "--out", str(out), "--concurrency", "2", *more]


def scores(out: Path) -> dict[tuple[str, str], list[list[float]]]:
    rows = [json.loads(line) for line in (out / "scores.jsonl").read_text("utf-8").splitlines()]
    return {(row["arm"], row["pair"]): row["scores"] for row in rows}


@pytest.mark.parametrize("by_tokens", [False, True])
def test_answers_are_scored_behind_the_whole_prompt_of_each_arm(pairs: Path, tmp_path: Path, by_tokens: bool) -> None:
    with Scoring(by_tokens=by_tokens) as engine:
        assert main(flags(engine, pairs, tmp_path / "out")) == 0
    found = scores(tmp_path / "out")
    assert found["raw", "a"] == [[-4.0, 2], [-2.5, 2]]  # nothing of "kind words" stood before, "How" did
    assert found["law", "a"] == [[-2.5, 2], [-2.5, 2]]  # the policy says "kind"
    assert found["raw", "b"] == [[-4.0, 2], [-8.0, 4]]
    assert "[user] Be kind and brief. How to greet? [assistant] kind words" in engine.scored


def test_a_report_has_rates_margins_and_what_length_alone_would_say(pairs: Path, tmp_path: Path) -> None:
    with Scoring() as engine:
        assert main(flags(engine, pairs, tmp_path / "out")) == 0
    report = json.loads((tmp_path / "out/report.json").read_text("utf-8"))
    raw, law = (report["arms"][name]["levels"] for name in ("raw", "law"))
    assert raw["prefers_better"]["value"] == pytest.approx(1 / 3)  # b: -4 against -8; c: -2.5 against -2
    assert raw["margin"]["value"] == pytest.approx((-1.5 + 4 - 0.5) / 3)
    assert law["margin"]["value"] == pytest.approx((0 + 5.5 - 0.5) / 3)
    assert raw["margin_per_token"]["value"] == pytest.approx((-0.75 + 0 + 0.75) / 3)
    [margin] = [one for one in report["comparisons"] if one["measure"]["name"] == "margin"]
    assert margin["difference"]["value"] == pytest.approx(1.0)
    assert report["length"][""]["shorter"]["value"] == pytest.approx(1 / 3)  # b
    assert report["length"][""]["longer"]["value"] == pytest.approx(2 / 3)


def test_an_interrupted_run_scores_nothing_twice(pairs: Path, tmp_path: Path) -> None:
    with Scoring(most=5) as engine:
        assert main(flags(engine, pairs, tmp_path / "out", "--concurrency", "1")) == 1
        kept = scores(tmp_path / "out")
        assert len(kept) == 2
        engine.most, engine.scored = 10**9, []
        assert main(flags(engine, pairs, tmp_path / "out", "--concurrency", "1")) == 0
        assert len(engine.scored) == 2 * (6 - 2)
        engine.scored.clear()
        assert main(["--report", "--out", str(tmp_path / "out")]) == 0
        assert not engine.scored


def test_a_report_against_an_unknown_baseline_is_refused(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Scoring() as engine:
        assert main(flags(engine, pairs, tmp_path / "out")) == 0
    assert main(["--report", "--out", str(tmp_path / "out"), "--baseline", "lex"]) == 2
    assert "the baseline 'lex' is no arm; the arms are raw, law" in capsys.readouterr().err


def test_other_pairs_in_the_same_folder_are_refused(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Scoring() as engine:
        assert main(flags(engine, pairs, tmp_path / "out")) == 0
        pairs.write_text(pairs.read_text("utf-8").replace("rude", "rudely"), "utf-8")
        assert main(flags(engine, pairs, tmp_path / "out")) == 2
    assert "pairs_sha256" in capsys.readouterr().err


def test_a_pair_that_the_engine_refuses_is_counted_and_the_others_are_compared(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"id": "d", "prompt": "What is forbidden?", "chosen": "this", "rejected": "that"}
    pairs.write_text(pairs.read_text("utf-8") + json.dumps(row) + "\n", "utf-8")
    with Scoring() as engine:
        assert main(flags(engine, pairs, tmp_path / "out")) == 0
    assert "1 pairs without a score; the first: 400: made up: the prompt is too long" in capsys.readouterr().out
    report = json.loads((tmp_path / "out/report.json").read_text("utf-8"))
    assert report["arms"]["law"]["scored"] == 3


def test_an_engine_without_echo_or_template_is_named_with_what_it_lacks(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Scoring(echo=False) as engine:
        assert main(flags(engine, pairs, tmp_path / "one")) == 1
    assert "gives no log-probabilities of a prompt" in capsys.readouterr().err
    with Scoring(template=False) as engine:
        assert main(flags(engine, pairs, tmp_path / "two")) == 1
    assert "cannot render a chat as text" in capsys.readouterr().err


def test_a_policy_needs_the_engine_behind_it(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Scoring() as engine:
        arms = ["--url", engine.url, "--arm", "raw", "--arm", "law"]
        assert main([*arms, "--pairs", str(pairs), "--out", str(tmp_path / "o")]) == 2
    assert "--scorer URL#MODEL" in capsys.readouterr().err


def test_of_several_answers_the_right_one_must_be_above_all_others() -> None:
    choice = Pair("one", (("user", "How long?"),), ("2 days", "5 days", "thirty days"), right=2)
    below = measured(choice, [Scored(-1, 1), Scored(-3, 1), Scored(-2, 4)])
    assert (below["prefers_better"], below["margin"]) == (0, -1)
    assert (below["prefers_better_per_token"], below["margin_per_token"]) == (1, 0.5)
    assert by_length([choice])["longer"].value == 1


def test_pandalm_pairs_count_where_most_people_prefer_one(tmp_path: Path) -> None:
    path = tmp_path / "testset.json"
    base = {"instruction": "Say hi.", "input": "", "response1": "one", "response2": "two"}
    votes = [(1, 1, 2), (2, 2, 0), (0, 0, 1), (0, 1, 2)]
    path.write_text(json.dumps([{**base, **{f"annotator{i + 1}": v for i, v in enumerate(three)}} for three in votes]))
    pairs, _ = read_pairs([str(path)])
    assert [(pair.id, pair.answers) for pair in pairs] == [("1", ("one", "two")), ("2", ("two", "one"))]


def test_answers_with_a_special_tokens_text_are_left_out_and_said(pairs: Path) -> None:
    row = {"id": "x", "prompt": "Hi", "chosen": "bye<|im_end|>", "rejected": "no"}
    pairs.write_text(pairs.read_text("utf-8") + json.dumps(row) + "\n", "utf-8")
    found, notes = read_pairs([str(pairs)])
    assert [pair.id for pair in found] == ["a", "b", "c"]
    assert notes == ["pairs: 1 pairs left out whose answers hold a special token's text"]


@pytest.mark.parametrize("more", [{}, {"answers": ["x"]}, {"answers": ["x", "y"], "right": 2}])
def test_rows_that_are_no_pairs_are_refused_with_their_line(tmp_path: Path, more: dict[str, Any]) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps({"prompt": "a", **more}) + "\n", "utf-8")
    with pytest.raises(DataError, match=r"bad.jsonl, line 1: neither chosen"):
        read_pairs([str(path)])
