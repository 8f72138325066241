"""`trimtab train kto`: good answers rise, bad ones fall, and one reference point serves the whole batch."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.trainers.toy import arguments, logged, run_and_kill, same_weights
from trainers.methods import kto


@pytest.mark.parametrize("rank", [0, 4], ids=["full", "lora"])
def test_good_answers_rise_and_bad_ones_fall(toy: str, pairs: Path, tmp_path: Path, rank: int) -> None:
    out = tmp_path / "out"
    keys = {"model": toy, "train": str(pairs), "heldout_fraction": 0.3, "batch": 8, "micro_batch": 4, "steps": 12}
    assert kto.main(arguments(out, **keys, lora_rank=rank, save_every=12, eval_every=12)) == 0
    run = json.loads((out / "run.json").read_text())
    before, after = run["heldout_before"], run["heldout"]
    assert before["rewards/chosen"] == pytest.approx(0, abs=1e-5)  # the model is its own reference
    assert before["loss"] == pytest.approx(0.5, abs=1e-5)
    assert after["rewards/chosen"] > 0 > after["rewards/rejected"]
    assert after["loss"] < 0.49


def test_loss_and_reference_point_do_not_depend_on_how_a_batch_is_split(toy: str, pairs: Path, tmp_path: Path) -> None:
    """From the second step on z₀ is above 0, and TRL's own estimate would differ with each split."""
    found: dict[int, dict[str, list[float]]] = {}
    for micro in (4, 2, 1):
        out = tmp_path / str(micro)
        keys: dict[str, Any] = {"model": toy, "train": str(pairs), "steps": 5, "micro_batch": micro, "save_every": 5}
        assert kto.main(arguments(out, **keys, heldout_fraction=0, max_grad_norm=1e9, learning_rate=3e-3)) == 0
        found[micro] = {key: logged(out, key) for key in ("grad_norm", "kl", "loss")}
    assert max(found[4]["kl"]) > 0.05
    for micro in (2, 1):
        for key in ("grad_norm", "kl", "loss"):
            assert found[micro][key] == pytest.approx(found[4][key], rel=1e-3, abs=1e-6)


def test_the_last_step_of_an_epoch_weighs_its_rows_alike(toy: str, pairs: Path, tmp_path: Path) -> None:
    """80 rows in batches of 12: the last has 8, so a micro-batch of 6 is followed by one of 2."""
    norms = []
    for micro in (12, 6):
        out = tmp_path / str(micro)
        keys = {"model": toy, "train": str(pairs), "steps": 7, "batch": 12, "micro_batch": micro, "save_every": 7}
        assert kto.main(arguments(out, **keys, heldout_fraction=0, max_grad_norm=1e9, learning_rate=1e-3)) == 0
        norms.append(logged(out, "grad_norm"))
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)


def test_first_loss_is_the_papers(toy: str, pairs: Path, tmp_path: Path) -> None:
    """At the start a = z₀ = 0, so each row's loss is λ/2."""
    out = tmp_path / "out"
    keys = {"model": toy, "train": str(pairs), "steps": 1, "batch": 80, "micro_batch": 40, "save_every": 1}
    assert kto.main(arguments(out, **keys, heldout_fraction=0, desirable_weight=1.5, undesirable_weight=0.5)) == 0
    assert logged(out, "loss") == [pytest.approx((1.5 + 0.5) / 4, abs=1e-5)]


@pytest.mark.parametrize(("rows", "batch"), [(8, 4), (10, 4), (9, 4), (2, 4), (5, 5), (1, 4)])
def test_every_prompt_gets_another_rows_answer_of_its_batch(rows: int, batch: int) -> None:
    for start in range(0, rows, batch):
        members = range(start, min(start + batch, rows))
        others = [kto.other(index, rows, batch) for index in members]
        if len(members) > 1:
            assert sorted(others) == list(members)
            assert all(other != index for other, index in zip(others, members, strict=True))
        else:  # a batch of one borrows from the batch before
            assert others == [(start - 1) % rows if rows > 1 else -1]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 4], ids=["full", "lora"])
def test_killed_run_resumes_to_bitwise_the_same_weights(toy: str, pairs: Path, tmp_path: Path, rank: int) -> None:
    keys: dict[str, Any] = {"model": toy, "train": str(pairs), "steps": 30, "lora_rank": rank, "lora_dropout": 0.1}
    assert kto.main(arguments(tmp_path / "whole", **keys, learning_rate=1e-3)) == 0
    line = arguments(tmp_path / "killed", **keys, learning_rate=1e-3)
    run_and_kill("kto", tmp_path / "killed", line)
    assert kto.main(line) == 0
    assert same_weights(tmp_path / "whole" / "final", tmp_path / "killed" / "final")
    assert not math.isnan(sum(logged(tmp_path / "killed", "kl")))
