"""`trimtab train pair`: every loss learns, no gradient depends on how a step is cut, a killed run goes on exactly."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import losses as oracle
from benchmarks.losses import Toy
from tests.trainers.toy import arguments, history, logged, pair_rows, run_and_kill, same_weights, write
from trainers import command
from trainers.methods import pair
from trainers.methods.losses import LOSSES
from trainers.run.recipe import read_recipe

ROOT = Path(__file__).parents[2]
SCORED = [row | {"score_chosen": 0.9, "score_rejected": 0.1 + index / 100} for index, row in enumerate(pair_rows())]


@pytest.fixture(scope="module")
def random_llama(tmp_path_factory: pytest.TempPathFactory, frozen_libraries: None) -> Toy:
    torch.set_num_threads(1)
    return Toy(tmp_path_factory.mktemp("losses"))


@pytest.mark.parametrize("name", list(LOSSES))
def test_every_loss_is_its_formula_inside_the_trainer(random_llama: Toy, name: str) -> None:
    """And TRL's own trainer says the same where it has the loss."""
    ours, theirs, by_hand = oracle.through_trainers(random_llama, name)
    assert ours == pytest.approx(by_hand, rel=2e-6)
    if theirs is not None:
        assert ours == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("name", ["dpo", "orpo", "slic"])
def test_gradient_does_not_depend_on_how_a_step_is_cut(random_llama: Toy, name: str) -> None:
    weight = max(1.0, LOSSES[name].sft)
    norms = oracle.gradient_norms(random_llama, lambda **cut: random_llama.ours(name, sft_weight=weight, **cut))
    assert norms == pytest.approx([norms[0]] * 3, rel=1e-5)


def test_held_out_loss_does_not_depend_on_the_batch(toy: str, pairs: Path, tmp_path: Path) -> None:
    found = []
    for micro in (1, 4):
        out = tmp_path / str(micro)
        keys: dict[str, Any] = {"model": toy, "train": str(pairs), "steps": 1, "micro_batch": micro, "loss": "orpo"}
        assert pair.main(arguments(out, **keys, heldout_fraction=0.2)) == 0
        found.append(json.loads((out / "run.json").read_text())["heldout_before"]["loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_trls_nll_does_depend_on_it(random_llama: Toy) -> None:
    """The fault that ours is there for: when this fails, TRL has mended it."""
    norms = oracle.gradient_norms(random_llama, lambda **cut: random_llama.trainer("sft", trl=True, **cut))
    assert max(norms) / min(norms) > 1.005


def test_trls_sigmoid_ignores_label_smoothing_and_our_cdpo_reads_it(random_llama: Toy) -> None:
    theirs, ours = (
        [oracle.batch_loss(random_llama, make(epsilon)) for epsilon in (0.0, 0.3)]
        for make in (
            lambda epsilon: random_llama.trainer("sigmoid", trl=True, label_smoothing=epsilon),
            lambda epsilon: random_llama.ours("cdpo", label_smoothing=epsilon),
        )
    )
    assert theirs[0] == theirs[1] == pytest.approx(ours[0], rel=1e-6)
    assert ours[1] > ours[0] + 0.01


@pytest.mark.parametrize("name", ["dpo", "simpo", "odpo", "slic", "apo_zero"])
def test_it_learns_to_prefer(toy: str, tmp_path: Path, name: str) -> None:
    data, out = write(tmp_path / "d.jsonl", SCORED), tmp_path / "out"
    keys: dict[str, Any] = {"model": toy, "train": str(data), "steps": 8, "save_every": 8, "eval_every": 8}
    keys["log_kl"] = True
    assert pair.main(arguments(out, **keys, loss=name, learning_rate=3e-3)) == 0
    run = json.loads((out / "run.json").read_text())
    assert run["heldout"]["rewards/margins"] > run["heldout_before"]["rewards/margins"]
    assert run["heldout"]["loss"] < run["heldout_before"]["loss"]
    assert run["loss"]["name"] == name
    assert (out / "curve.png").stat().st_size > 1_000
    entry = next(entry for entry in reversed(history(out)) if "rewards/chosen" in entry)
    assert {"rewards/rejected", "rewards/accuracies", "logps/chosen", "logps/rejected", "grad_norm"} <= entry.keys()
    assert ("kl" in entry) == LOSSES[name].reference
    assert entry.get("kl", 1) > 0


@pytest.mark.parametrize("rank", [0, 4], ids=["full", "lora"])
@pytest.mark.parametrize("ahead", [False, True], ids=["beside", "precomputed"])
def test_first_loss_is_that_of_equal_models(toy: str, pairs: Path, tmp_path: Path, rank: int, ahead: bool) -> None:
    """ln 2 wherever the reference comes from: another model, the adapter turned off, or numbers asked for before."""
    out = tmp_path / "out"
    keys = {"model": toy, "train": str(pairs), "steps": 2, "lora_rank": rank, "precompute_reference": ahead}
    keys["log_kl"] = True
    assert pair.main(arguments(out, **keys, learning_rate=1e-3)) == 0
    losses = logged(out, "loss")
    assert losses[0] == pytest.approx(0.693147, abs=1e-5)
    assert losses[1] < 0.693
    assert logged(out, "yardstick/ratio")[0] == 0.5
    if rank or not ahead:
        assert logged(out, "kl")[0] == pytest.approx(0, abs=1e-6)
    else:
        assert not logged(out, "kl")


def test_a_loss_without_a_reference_loads_none(toy: str, pairs: Path, tmp_path: Path) -> None:
    import transformers

    loaded: list[str] = []
    original = transformers.LlamaForCausalLM.from_pretrained.__func__  # type: ignore[attr-defined]

    def counting(kind: Any, *rest: Any, **more: Any) -> Any:
        loaded.append(kind.__name__)
        return original(kind, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers.LlamaForCausalLM, "from_pretrained", classmethod(counting))
        assert pair.main(arguments(tmp_path / "simpo", model=toy, train=str(pairs), loss="simpo", steps=2)) == 0
        without = len(loaded)
        assert pair.main(arguments(tmp_path / "dpo", model=toy, train=str(pairs), loss="dpo", steps=2)) == 0
    assert (without, len(loaded)) == (1, 3)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 4], ids=["full", "lora"])
def test_killed_run_resumes_to_bitwise_the_same_weights(toy: str, pairs: Path, tmp_path: Path, rank: int) -> None:
    keys: dict[str, Any] = {"model": toy, "train": str(pairs), "steps": 24, "lora_rank": rank, "lora_dropout": 0.1}
    keys |= {"learning_rate": 1e-3, "sft_weight": 0.5, "log_kl": True}
    assert pair.main(arguments(tmp_path / "whole", **keys)) == 0
    line = arguments(tmp_path / "killed", **keys)
    run_and_kill("pair", tmp_path / "killed", line)
    assert pair.main(line) == 0
    assert same_weights(tmp_path / "whole" / "final", tmp_path / "killed" / "final")
    assert logged(tmp_path / "killed", "kl") == logged(tmp_path / "whole", "kl")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"loss": "dop"}, "no loss 'dop'; losses: dpo, ipo"),
        ({"loss": "dpo", "label_smoothing": 0.1}, "loss dpo: this loss does not read label_smoothing"),
        ({"loss": "slic", "beta": 0.1}, "loss slic: this loss does not read beta"),
        ({"loss": "cdpo", "label_smoothing": 0.5}, "at least 0 and below 0.5"),
        ({"loss": "ipo", "beta": 0.0}, "beta must be above 0"),
        ({"loss": "exo_pair", "label_smoothing": 0.0}, "exo_pair needs label_smoothing above 0"),
        ({"loss": "bco_pair", "sft_weight": 0.1}, "has no NLL term"),
        ({"loss": "simpo", "precompute_reference": True}, "has no reference"),
        ({"loss": "odpo"}, "pairs.jsonl, line 1: odpo needs score_chosen and score_rejected, or margin"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    toy: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], keys: dict[str, Any], words: str
) -> None:
    assert pair.main(arguments(tmp_path / "out", model=toy, train=str(pairs), heldout_fraction=0, **keys)) == 2
    assert words in capsys.readouterr().err


def test_odpo_names_the_row_whose_rejected_answer_scores_higher(
    toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [SCORED[0], SCORED[1] | {"score_rejected": 0.95}]
    data = write(tmp_path / "d.jsonl", rows)
    keys = {"model": toy, "train": str(data), "loss": "odpo", "heldout_fraction": 0}
    assert pair.main(arguments(tmp_path / "out", **keys)) == 2
    assert (
        "d.jsonl, line 2: odpo needs chosen to score higher than rejected; the gap is -0.05" in capsys.readouterr().err
    )


def test_the_shipped_recipe_sets_every_key() -> None:
    path = ROOT / "trainers" / "recipes" / "pair.yaml"
    recipe = read_recipe(path, pair.Recipe)
    keys = {line.partition(":")[0] for line in path.read_text().splitlines() if line and line[0].isalpha()}
    assert keys == vars(recipe).keys()
    pair.settings_of(recipe)


def test_the_command_knows_every_loss_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    said = capsys.readouterr().out
    for name, loss in LOSSES.items():
        assert any(line.split()[:1] == [name] and loss.formula in line for line in said.splitlines())


def test_the_speed_benchmark_runs_ours_and_trls_on_the_same_pairs() -> None:
    from benchmarks.train_speed import TINY, measure, useful_flops

    theirs, ours, ahead = (measure(name, TINY) for name in ("TRL dpo", "ours dpo", "ours dpo, reference precomputed"))
    assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-3)
    assert min(theirs["seconds"], ours["seconds"], theirs["memory"]) > 0
    assert useful_flops("ours dpo", TINY) == pytest.approx(4 / 3 * useful_flops("ours simpo", TINY))
    assert ahead["loss"] == pytest.approx(0.6931, abs=1e-2)
