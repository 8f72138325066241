"""Wrong labels by an ensemble of reward models: a toy with a linear reward, and the whole method."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from tests.trainers.toy import arguments, pair_rows, write
from trainers import command
from trainers.export import release
from trainers.methods import strength as method
from trainers.methods.label_noise import adaptive_margin, rejected_labels, strength


def linear_reward(features: torch.Tensor, seed: int, steps: int = 100) -> torch.Tensor:
    """Margins (N,) of Bradley-Terry on differences of features (N, D), with its own start and resample of the pairs."""
    draw = torch.Generator().manual_seed(seed)
    weights = torch.randn(features.shape[1], generator=draw, dtype=torch.float64).requires_grad_()
    some = features[torch.randint(len(features), (len(features),), generator=draw)]
    optimizer = torch.optim.Adam([weights], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        (-logsigmoid(some @ weights).mean()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return (features @ weights).detach()


def test_nine_in_ten_of_the_flipped_labels_lie_in_the_lowest_fifth_of_the_strengths() -> None:
    """1,000 pairs of a linear reward that are no near ties, 20% of the labels flipped; ten reward models learn them."""
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    truth = torch.randn(12, generator=draw, dtype=torch.float64)
    features = torch.randn(1500, 12, generator=draw, dtype=torch.float64) * 3
    features = features[(features @ truth).abs().argsort(descending=True)[:1000]]
    features *= (features @ truth).sign()[:, None]  # the better answer first
    flipped = torch.rand(1000, generator=draw) < 0.2
    given = torch.where(flipped[:, None], -features, features)
    margins = torch.stack([linear_reward(given, seed) for seed in range(10)])
    mean, spread = strength(margins)
    lowest = torch.zeros(1000, dtype=torch.bool)
    lowest[mean.argsort()[:200]] = True
    assert (lowest & flipped).sum() / flipped.sum() >= 0.9
    turned = rejected_labels(mean, 0.2)
    assert (turned & flipped).sum() / turned.sum() > 0.95
    after = flipped ^ turned
    assert after.double().mean() < 0.03  # of 20%
    margin = adaptive_margin(mean, turned)
    assert (margin >= 0).all()
    assert (margin[turned] == -mean[turned]).all()
    assert spread.mean() < mean.abs().mean()


def test_strengths_by_hand() -> None:
    margins = torch.tensor([[3.0, -4.0], [30.0, 40.0]], dtype=torch.float64)  # the second model's scale is ten times
    mean, spread = strength(margins)
    unit = (25 / 2) ** 0.5
    assert mean.tolist() == pytest.approx([3 / unit, 0])
    assert spread.tolist() == pytest.approx([0, 4 / unit])
    assert rejected_labels(torch.tensor([0.5, -0.1, -2.0, 1.0]), 0.5).tolist() == [False, True, True, False]
    assert rejected_labels(torch.tensor([0.5, 0.1, 2.0, 1.0]), 0.5).tolist() == [False] * 4  # none is rejected


def test_the_method_turns_labels_sets_margins_and_goes_on(
    toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = pair_rows(40)
    wrong = [4, 11, 25]
    for at in wrong:
        rows[at]["chosen"], rows[at]["rejected"] = rows[at]["rejected"], rows[at]["chosen"]
    out = tmp_path / "run"
    keys: dict[str, Any] = {"model": toy, "train": str(write(tmp_path / "d.jsonl", rows)), "heldout_fraction": 0.2}
    keys |= {"models": 2, "steps": 12, "turn_share": 0.15, "learning_rate": 5e-3}
    line = arguments(out, **keys)
    assert command.main(["strength", *line]) == 0
    run = json.loads((out / "run.json").read_text())
    pairs = [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]
    turned = [pair for pair in pairs if pair["turned"]]
    assert run["labels"]["turned"] == len(turned) > 0
    assert all("rain" in pair["chosen"] for pair in turned)  # what was wrong is right now
    assert all(pair["margin"] >= 0 for pair in pairs)
    assert run["heldout"]["pairs"] > 0
    before = (out / "model-0" / "run.json").stat().st_mtime_ns
    capsys.readouterr()
    assert command.main(["strength", *line]) == 0
    assert (out / "model-0" / "run.json").stat().st_mtime_ns == before
    assert f"{out / 'corrected'} is finished" in capsys.readouterr().err
    assert release.main(["--run", str(out), "--out", str(tmp_path / "mine")]) == 0
    assert "AutoModelForSequenceClassification" in (tmp_path / "mine" / "README.md").read_text()


@pytest.mark.parametrize(
    ("keys", "message"), [({"models": 1}, "models must be at least 2"), ({"turn_share": 0.5}, "below 0.5")]
)
def test_an_ensemble_that_cannot_be_meant_is_refused(
    toy: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], keys: dict[str, Any], message: str
) -> None:
    assert method.main(arguments(tmp_path / "out", model=toy, train=str(pairs), **keys)) == 2
    assert message in capsys.readouterr().err
