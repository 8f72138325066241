"""A detector finds implied harm after it has learnt hard cases, and did not before."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainers.toy import arguments, write
from trainers import command
from trainers.export import release
from trainers.methods.detector_trainer import shares

OPEN = [("the cat sat", False), ("rain fell", False), ("you are bad", True), ("bad and mad", True)]
HARD = [("how clever for one like you", True), ("how clever for one so small", True), ("how clever of you", False)]


def rows(cases: list[tuple[str, bool]], number: int) -> list[dict[str, Any]]:
    return [
        {"prompt": f"say {at}\n", "completion": cases[at % len(cases)][0], "label": cases[at % len(cases)][1]}
        for at in range(number)
    ]


def test_shares_by_hand() -> None:
    logits = torch.tensor([1.0, -1.0, 2.0, -2.0, 3.0])
    label = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0])
    found = shares(logits, label, torch.tensor([False, True, True, True, False]))
    assert found["recall"] == pytest.approx(2 / 3)
    assert (found["hard_recall"], found["false_alarms"], found["accuracy"]) == (0.5, 0.5, pytest.approx(0.6))
    assert (found["harmful"], found["hard"], found["harmless"]) == (3, 2, 2)
    assert "hard_recall" not in shares(logits, label, torch.zeros(5, dtype=torch.bool))


def test_hard_cases_are_found_after_and_not_before(toy: str, tmp_path: Path) -> None:
    """A detector of open harm first, then one that goes on from it with hard cases."""
    plain, out = tmp_path / "plain", tmp_path / "run"
    keys: dict[str, Any] = {"model": toy, "train": str(write(tmp_path / "d.jsonl", rows(OPEN, 40)))}
    keys |= {"heldout_fraction": 0.2, "steps": 30, "learning_rate": 5e-3, "batch": 16, "micro_batch": 16}
    assert command.main(["detector", *arguments(plain, **keys)]) == 0
    assert json.loads((plain / "run.json").read_text())["heldout"]["recall"] > 0.9
    keys |= {
        "hard": str(write(tmp_path / "h.jsonl", rows(HARD, 45))),
        "hard_heldout": 0.4,
        "model": str(plain / "final"),
    }
    assert command.main(["detector", *arguments(out, **keys)]) == 0
    run = json.loads((out / "run.json").read_text())
    before, after = run["heldout_before"], run["heldout"]
    assert before["accuracy"] < 0.9  # it knows open harm only: hard cases are all harmful to it, or none are
    assert after["hard_recall"] > 0.9
    assert after["false_alarms"] < 0.1
    assert after["hard_recall_95"][0] < after["hard_recall"] <= after["hard_recall_95"][1]
    assert release.main(["--run", str(out), "--out", str(tmp_path / "mine")]) == 0


@pytest.mark.parametrize(
    ("cases", "more", "message"),
    [
        (OPEN[:2], {}, "learns from both: rows with label true and rows with label false"),
        (OPEN, {"hard": "h", "hard_heldout": 1.0}, "hard_heldout is the share"),
    ],
)
def test_what_cannot_be_learnt_is_refused(
    toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], cases: Any, more: dict[str, Any], message: str
) -> None:
    data = write(tmp_path / "d.jsonl", rows(cases, 12))
    line = arguments(tmp_path / "out", model=toy, train=str(data), heldout_fraction=0, **more)
    assert command.main(["detector", *line]) == 2
    assert message in capsys.readouterr().err
