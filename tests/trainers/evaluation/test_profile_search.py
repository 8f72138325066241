"""`trimtab profile search`: what it chooses, what it asks of the engine, and what it says of the result."""

import json
from pathlib import Path
from typing import Any

import pytest

from prompt_opt import profile
from prompt_opt.core import Exemplar, Profile
from tests.trainers.evaluation.scoring_engine import Scoring
from trainers.data.jsonl import DataError
from trainers.evaluation.search.greedy import search
from trainers.evaluation.search.pool import Pool, read_pool
from trainers.evaluation.search.profile_search import main

GOOD, BETTER, BAD = Exemplar("q1", "good"), Exemplar("q2", "better"), Exemplar("q3", "bad")
WORTH = {"": 0.0, "help": 1.0, GOOD.assistant: 1.0, BETTER.assistant: 2.0, BAD.assistant: -1.0}


def worth(candidate: Profile) -> float:
    return WORTH[candidate.instruction] + sum(WORTH[each.assistant] for each in candidate.exemplars)


def test_the_best_part_is_added_first_and_the_search_ends_where_nothing_helps() -> None:
    steps = list(search(Profile("start", exemplars=(BAD,)), Pool(("", "help"), (GOOD, BETTER, BAD)), 3, worth))
    assert [(step.name, step.score, step.taken) for step in steps] == [
        ("instruction", 1.0, True), ("example 1", 3.0, True), ("example 2", 4.0, True), ("example 3", 3.0, False),
    ]  # fmt: skip
    assert steps[2].best.exemplars == (BETTER, GOOD)
    assert [len(step.tried) for step in steps] == [2, 3, 2, 1]


def test_no_more_examples_are_added_than_allowed_and_none_twice() -> None:
    steps = list(search(Profile("start"), Pool(("",), (GOOD, BETTER)), 1, worth))
    assert [step.best.exemplars for step in steps] == [(), (BETTER,)]
    assert len(list(search(Profile("start"), Pool(("",), (GOOD,)), 5, worth))) == 2


def test_a_pool_holds_each_part_of_profiles_and_files_once(tmp_path: Path) -> None:
    path = tmp_path / "pool.jsonl"
    rows = [{"instruction": "Be kind."}, {"user": "u", "assistant": "a"}, {"prompt": "u", "chosen": "a"},
            {"prompt": "p", "chosen": "c", "rejected": "r"}]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    pool = read_pool([str(path)], ["default"])
    assert pool.instructions == ("", profile.load("default").instruction, "Be kind.")
    assert pool.exemplars == (*profile.load("default").exemplars, Exemplar("u", "a"), Exemplar("p", "c"))
    path.write_text('{"user": "u"}\n', "utf-8")
    with pytest.raises(DataError, match=r"pool.jsonl, line 1: neither an instruction"):
        read_pool([str(path)], [])


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Pairs whose better answers repeat the words of one example; in each the worse one is as long."""
    pairs = [
        {"id": str(n), "prompt": f"Question {n}?", "chosen": "certainly gladly", "rejected": "nothing doing"}
        for n in range(30)
    ]
    pool = [{"user": "Hello?", "assistant": "certainly gladly"}, {"user": "Hello?", "assistant": "something else"}]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs), "utf-8")
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pool), "utf-8")
    return ["--pairs", str(tmp_path / "pairs.jsonl"), "--pool", str(tmp_path / "pool.jsonl"), "--profiles", ""]


def command(engine: Scoring, files: list[str], out: Path, *more: str) -> list[str]:
    line = ["search", "--scorer", f"{engine.url}#toy", *files, "--against", "plain", "--dev", "10"]
    return [*line, "--out", str(out), *more]


def read(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "search.json").read_text("utf-8")))


@pytest.mark.parametrize("render", ["base", "chat"])
def test_the_profile_found_is_written_and_checked_on_pairs_that_the_search_did_not_see(
    files: list[str], tmp_path: Path, render: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Scoring() as engine:
        assert main(command(engine, files, tmp_path / "found", "--render", render)) == 0
    found = profile.load(tmp_path / "found/profile.toml")
    assert found.exemplars == (Exemplar("Hello?", "certainly gladly"),)
    assert found.decoding == profile.load("plain").decoding
    told = read(tmp_path / "found")["held_out"]
    assert told["pairs"] == 20
    assert told["difference"]["value"] == pytest.approx(1.5)  # a word seen before: -0.5, another: -2
    assert told["beats"]
    assert "the profile beats plain" in capsys.readouterr().out


def test_a_profile_that_is_not_better_is_said_to_be_none(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = tmp_path / "pool.jsonl"
    pool.write_text('{"user": "Hello?", "assistant": "something else"}\n', "utf-8")
    with Scoring() as engine:
        assert main(command(engine, files, tmp_path / "found")) == 0
    said = capsys.readouterr().out
    assert "nothing found is better than plain there, so the profile is plain itself" in said
    assert "the profile is not shown to beat plain" in said
    assert profile.load(tmp_path / "found/profile.toml").exemplars == ()


def test_an_interrupted_search_resumes_and_scores_nothing_twice(files: list[str], tmp_path: Path) -> None:
    with Scoring(most=25) as engine:
        assert main(command(engine, files, tmp_path / "found")) == 1
        kept = len((tmp_path / "found/scores.jsonl").read_text("utf-8").splitlines())
        engine.most = 10**9
        engine.scored.clear()
        assert main(command(engine, files, tmp_path / "found")) == 0
        assert kept == 12
        assert len(engine.scored) == read(tmp_path / "found")["answers_scored"]
        engine.scored.clear()
        assert main(command(engine, files, tmp_path / "found")) == 0
        assert not engine.scored


def test_too_few_pairs_are_refused(files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Scoring() as engine:
        assert main([*command(engine, files, tmp_path / "found"), "--dev", "29"]) == 2
    assert "30 pairs are too few for --dev 29" in capsys.readouterr().err
