"""The flywheel: real servers and commands, one round on the embedded model; and what each step may rely on."""

import json
import shutil
import socket
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.cli.command import main as trimtab
from serve.config import EMBEDDED
from tests.trainers.toy import write
from trainers import command
from trainers.flywheel import server, steps
from trainers.flywheel.flywheel_recipe import Recipe, check
from trainers.flywheel.server import serving, steady_port, write_settings
from trainers.flywheel.steps import StepError, preferences
from trainers.flywheel.wheel import begin, in_service, keeps, turn
from trainers.rounds.sample import Sample
from trainers.run.recipe import RecipeError

ROOT = Path(__file__).parents[2]
QUESTIONS = ["What is a library?", "How do I boil an egg?", "Why is sleep important?"]
TRAINING = ["lora_rank=2", "steps=1", "batch=2", "micro_batch=2", "threads=1", "heldout_fraction=0.0", "report_to=[]"]
RULE = "def short(messages, answer):\n    return -float(len(answer))\n"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """The embedded model with a chat template; shorter answers are better ones."""
    folder = tmp_path_factory.mktemp("material")
    shutil.copytree(EMBEDDED, folder / "tiny")
    shutil.copy(ROOT / "trainers/templates/dialogue.jinja", folder / "tiny" / "chat_template.jinja")
    questions = write(folder / "questions.jsonl", [{"prompt": question} for question in QUESTIONS])
    (folder / "rule.py").write_text(RULE, "utf-8")
    return Recipe(
        model=str(folder / "tiny"), questions=str(questions), heldout=str(questions), rounds=1, samples=8,
        max_tokens=200, rule=f"{folder / 'rule.py'}:short", changes=TRAINING,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run; its commands run in this process, which has loaded torch once for all of them."""
    out = tmp_path_factory.mktemp("wheel")

    def here(folder: Path, log: str, *arguments: str) -> None:
        with (folder / f"{log}.log").open("a") as file, redirect_stdout(file), redirect_stderr(file):
            assert trimtab(list(arguments)) == 0, (folder / f"{log}.log").read_text("utf-8")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIMTAB_CACHE", str(out / "cache"))
        patch.setattr(steps, "command", here)
        turn(recipe, out)
    return out


def test_a_round_goes_from_served_answers_to_a_served_model_that_is_compared(finished: Path) -> None:
    (found,) = json.loads((finished / "rounds.json").read_text("utf-8"))
    pairs = [json.loads(line) for line in (finished / "round-1/pairs.jsonl").read_text("utf-8").splitlines()]
    assert pairs
    assert all(len(row["chosen"][0]["content"]) < len(row["rejected"][0]["content"]) for row in pairs)
    assert {row["chosen_policy"] for row in pairs} == {"actor"}, "they came through the server"
    told = json.loads((finished / "round-1/train/run.json").read_text("utf-8"))
    assert (told["method"], told["steps"]) == ("pair", 1)
    assert (finished / "round-1/model/model.safetensors").is_file()
    outcome = found["against"]["first"]
    assert outcome["wins"] + outcome["losses"] + outcome["ties"] == len(QUESTIONS)
    assert outcome["words"]["before"]["n"] == len(QUESTIONS)
    settings = (finished / "trimtab.toml").read_text("utf-8")
    assert '"assistant" = { policy = "best" }' in settings
    assert '"assistant-first" = { policy = "first" }' in settings


def test_a_run_that_was_cut_off_goes_on_where_it_was(finished: Path, recipe: Recipe, monkeypatch: Any) -> None:
    """Killed before the round counted: no answer is asked again, nothing is trained again."""
    before = (finished / "rounds.json").read_bytes()
    (finished / "rounds.json").unlink()
    monkeypatch.setattr(steps, "command", lambda *_: pytest.fail("a step ran again"))
    turn(recipe, finished)
    assert (finished / "rounds.json").read_bytes() == before


def test_a_round_may_learn_from_what_people_have_preferred_on_a_server(
    finished: Path, recipe: Recipe, tmp_path: Path
) -> None:
    """Here the server of the finished run; nothing is asked."""
    people = replace(recipe, questions="", feedback=str(finished / "round-1/serve.toml"))
    check(people)
    pairs = steps.collect(people, tmp_path / "no model", tmp_path, 1, pytest.fail)
    assert pairs.read_bytes() == (finished / "round-1/pairs.jsonl").read_bytes()


def test_another_recipe_or_file_in_the_same_folder_is_refused(finished: Path, recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="other values of temperature"):
        begin(replace(recipe, temperature=0.5), finished)
    asked = write(tmp_path / "questions.jsonl", [{"prompt": "What is a bank?"}])
    with pytest.raises(RecipeError, match="the file of questions"):
        begin(replace(recipe, questions=str(asked)), finished)


def test_a_server_whose_engine_cannot_start_is_an_error_with_its_reason(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "PATIENCE_S", 1.0)
    broken = tmp_path / "broken"
    shutil.copytree(recipe.model, broken)
    (broken / "tokenizer.json").write_text("{}", "utf-8")
    settings = write_settings(tmp_path / "serve.toml", {"actor": broken}, {"assistant": "actor"}, "onnx")
    with pytest.raises(steps.EngineError, match=r"serve\.log"), serving(settings, 120):
        pass


# ---------------------------------------------------------------- what a step relies on


def sample(at: int, text: str, finish: str = "stop") -> Sample:
    return Sample(0, at, text, finish)


def test_a_preference_is_between_the_best_and_the_worst_whole_answer() -> None:
    group = [
        sample(0, "good"),
        sample(1, "cut", "length"),
        sample(2, ""),
        sample(3, "bad"),
        sample(4, "refused", "refused"),
    ]
    assert preferences([group], [[1.0, 9.0, 9.0, 0.0, -9.0]], 0.0) == [(group[0], group[3])]
    assert preferences([group], [[1.0, 9.0, 9.0, 0.0, -9.0]], 1.0) == [], "not farther apart than the gap"
    assert preferences([group], [[None, 9.0, 9.0, 0.0, -9.0]], 0.0) == [], "one alone is no pair"
    assert preferences([[sample(0, "same"), sample(1, "same")]], [[1.0, 0.0]], 0.0) == []


def test_a_preference_whose_trace_is_lost_is_counted_and_another_refusal_is_an_error() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response({"a": 200, "b": 404, "c": 400}[json.loads(request.content)["chosen"]])

    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        assert steps.give(client, "http://server", [("a", "x"), ("b", "x")]) == 1
        with pytest.raises(steps.EngineError, match="400"):
            steps.give(client, "http://server", [("c", "x")])


def test_the_new_model_goes_into_service_by_the_interval_of_its_win_rate() -> None:
    worse, better, unclear = ({"low": low, "high": high} for low, high in ((0.1, 0.4), (0.6, 0.9), (0.4, 0.6)))
    assert [keeps("unless_worse", rate) for rate in (worse, better, unclear, None)] == [False, True, True, True]
    assert [keeps("if_better", rate) for rate in (worse, better, unclear, None)] == [False, True, False, False]
    assert keeps("always", worse)
    rounds = [{"model": "/one", "kept": True}, {"model": "/two", "kept": False}]
    assert in_service(rounds, Path("/base")) == Path("/one")
    assert in_service([], Path("/base")) == Path("/base")


def test_an_evaluation_keeps_its_port_while_it_is_free_and_begins_again_on_another(tmp_path: Path) -> None:
    file, evaluation = tmp_path / "port", tmp_path / "eval"
    port = steady_port(file, evaluation)
    evaluation.mkdir()
    assert steady_port(file, evaluation) == port
    assert evaluation.is_dir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert steady_port(file, evaluation) != port
    assert not evaluation.exists()


def test_a_command_that_fails_names_its_log(tmp_path: Path) -> None:
    with pytest.raises(StepError, match=r"feedback.log"):
        steps.command(tmp_path, "feedback", "feedback", "export", "--config", str(tmp_path / "none.toml"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"samples": "1"}, "between two answers"),
        ({"feedback": "trimtab.toml"}, "give questions, to ask, or feedback"),
        ({"rule": "nowhere.py:f"}, "no such file"),
        ({"heldout": "nowhere.jsonl"}, "heldout: no file"),
        ({"scorer": "judge_marks"}, "judge_url"),
        ({"changes": "[lora_rnak=2]"}, "lora_rank"),
    ],
)
def test_a_recipe_that_could_only_fail_later_is_refused(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, str], says: str
) -> None:
    given = {"model": recipe.model, "questions": recipe.questions, "heldout": recipe.heldout, "rule": recipe.rule}
    sets = [part for key, value in (given | changes).items() for part in ("--set", f"{key}={value}")]
    assert command.main(["flywheel", "--config", "flywheel", "--out", str(tmp_path / "out"), *sets]) == 2
    assert says in capsys.readouterr().err
