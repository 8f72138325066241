"""Soft, weighted and weak labels of a reward model: the losses by hand, and weak to strong as a run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from tests.trainers.toy import arguments, logged, pair_rows, same_weights, write
from trainers import command
from trainers.export import release
from trainers.methods import reward, weak
from trainers.methods.reward_loss import confident, cross_entropy, recovered

GAPS = torch.tensor([-3.0, -0.2, 0.0, 0.7, 40.0], dtype=torch.float64)
LABELS = torch.tensor([0.0, 0.3, 0.5, 1.0, 0.9], dtype=torch.float64)


def test_soft_labels_are_the_cross_entropy_whose_optimum_is_the_label() -> None:
    """The gradient is σ(d) − p: zero where the model's probability is the label; p = 1 is Bradley-Terry."""
    gaps = GAPS.clone().requires_grad_()
    cross_entropy(gaps, LABELS).sum().backward()  # type: ignore[no-untyped-call]
    assert gaps.grad is not None
    torch.testing.assert_close(gaps.grad, torch.sigmoid(GAPS) - LABELS)
    assert torch.equal(cross_entropy(GAPS, torch.ones_like(GAPS)), -logsigmoid(GAPS))


def test_confidence_0_imitates_the_weak_labels_and_1_hears_only_itself() -> None:
    assert torch.equal(confident(GAPS, LABELS, 0.0), cross_entropy(GAPS, LABELS))
    own = (GAPS > 0).double()
    torch.testing.assert_close(confident(GAPS, LABELS, 1.0), cross_entropy(GAPS, own))
    half = confident(GAPS, LABELS, 0.5)
    torch.testing.assert_close(half, (cross_entropy(GAPS, LABELS) + cross_entropy(GAPS, own)) / 2)


def test_the_gap_recovered_is_0_at_the_supervisor_and_1_at_the_ceiling() -> None:
    assert recovered(0.6, 0.6, 0.9) == 0
    assert recovered(0.6, 0.9, 0.9) == 1
    assert recovered(0.6, 0.75, 0.9) == pytest.approx(0.5)
    assert recovered(0.6, 0.5, 0.9) == pytest.approx(-1 / 3)
    assert recovered(0.9, 0.9, 0.9) is None


def one_step(tmp_path: Path, name: str, toy: str, rows: list[dict[str, Any]], **keys: Any) -> Path:
    out = tmp_path / name
    data = write(tmp_path / f"{name}.jsonl", rows)
    line = arguments(out, model=toy, train=str(data), heldout_fraction=0, steps=1, logging_every=1, **keys)
    assert reward.main(line) == 0
    return out


def test_sure_labels_and_whole_weights_are_plain_bradley_terry(toy: str, tmp_path: Path) -> None:
    rows = pair_rows(8)
    plain = one_step(tmp_path, "plain", toy, rows)
    sure = [row | {"probability": 1.0, "weight": 1.0} for row in rows]
    same = one_step(tmp_path, "sure", toy, sure, soft=True, weighted=True)
    assert same_weights(plain / "final", same / "final")
    halved = one_step(tmp_path, "half", toy, [row | {"weight": 0.5} for row in rows], weighted=True)
    assert logged(halved, "loss")[0] == pytest.approx(logged(plain, "loss")[0] / 2, rel=1e-3)


@pytest.mark.parametrize(
    ("more", "key", "message"),
    [
        ({}, "soft", "soft: true, and this row has no probability"),
        ({"probability": 1.2}, "soft", "probability must be from 0 to 1, not 1.2"),
        ({"weight": -1}, "weighted", "weight must be 0 or more, not -1"),
    ],
)
def test_a_number_that_cannot_be_meant_names_its_row(
    toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: dict[str, float], key: str, message: str
) -> None:
    data = write(tmp_path / "d.jsonl", [row | more for row in pair_rows(8)])
    assert reward.main(arguments(tmp_path / "out", model=toy, train=str(data), heldout_fraction=0, **{key: True})) == 2
    assert message in capsys.readouterr().err


def test_a_strong_model_learns_a_weak_ones_labels(toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(write(tmp_path / "d.jsonl", pair_rows(40)))
    little: dict[str, Any] = {"model": toy, "train": data, "heldout_fraction": 0, "steps": 4, "learning_rate": 5e-3}
    assert reward.main(arguments(tmp_path / "weak", **little)) == 0
    out = tmp_path / "run"
    keys = little | {"supervisor": str(tmp_path / "weak"), "heldout_fraction": 0.3, "steps": 10}
    line = arguments(out, **keys)
    assert command.main(["weak", *line]) == 0
    run = json.loads((out / "run.json").read_text())
    accuracy = run["accuracy"]
    assert run["gap_recovered"] == recovered(accuracy["weak"], accuracy["strong"], accuracy["ceiling"])
    labels = [json.loads(row)["probability"] for row in (out / "pairs.jsonl").read_text().splitlines()]
    assert all(0 <= label <= 1 for label in labels)
    assert len(set(labels)) > 1
    capsys.readouterr()
    assert command.main(["weak", *line]) == 0
    assert f"{out / 'strong'} is finished" in capsys.readouterr().err
    assert release.main(["--run", str(out), "--out", str(tmp_path / "mine")]) == 0
    assert weak.main(arguments(tmp_path / "none", **little)) == 2
    assert "supervisor must be the folder of a finished" in capsys.readouterr().err
