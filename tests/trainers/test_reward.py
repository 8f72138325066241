"""`trimtab train reward`: it tells good from bad, says how surely, and keeps its head."""

import json
import math
from pathlib import Path

import pytest

from tests.trainers.toy import arguments, logged, pair_rows, run_and_kill, same_weights, write
from trainers.methods import reward
from trainers.run.wilson import wilson


def test_it_tells_good_answers_from_bad(toy: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    data, out = write(tmp_path / "d.jsonl", pair_rows(80)), tmp_path / "out"
    keys = {"model": toy, "train": str(data), "heldout_fraction": 0.3, "steps": 25, "save_every": 25, "eval_every": 25}
    assert reward.main(arguments(out, **keys)) == 0
    found = json.loads((out / "run.json").read_text())["heldout"]
    low, high = found["accuracy_95"]
    assert found["pairs"] > 10
    assert 0.5 < low < found["accuracy"] <= high <= 1  # clear of what a constant scores
    tokenizer = AutoTokenizer.from_pretrained(out / "final", local_files_only=True)
    model = AutoModelForSequenceClassification.from_pretrained(out / "final", local_files_only=True).eval()
    assert model.config.num_labels == 1
    prompt = "say 99: dog\n"
    with torch.no_grad():
        ids = [tokenizer(prompt + text, return_tensors="pt")["input_ids"] for text in ("rain fell", "the cat sat")]
        end = torch.tensor([[tokenizer.eos_token_id]])
        good, bad = (model(torch.cat([each, end], 1)).logits.item() for each in ids)
    assert good > bad


def test_a_margin_widens_the_loss(toy: str, tmp_path: Path) -> None:
    losses = []
    for margin in (0.0, 3.0):
        rows = [row | {"margin": margin} for row in pair_rows(8)]
        data, out = write(tmp_path / f"{margin}.jsonl", rows), tmp_path / str(margin)
        keys = {"model": toy, "train": str(data), "margin": True, "heldout_fraction": 0, "steps": 1, "save_every": 1}
        assert reward.main(arguments(out, **keys)) == 0
        losses += logged(out, "loss")
    assert losses[0] == pytest.approx(math.log(2), abs=0.1)
    assert losses[1] == pytest.approx(math.log1p(math.exp(3)), abs=0.1)


def test_a_missing_margin_names_the_row(
    toy: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reward.main(arguments(tmp_path / "out", model=toy, train=str(pairs), margin=True)) == 2
    assert "pairs.jsonl, line 1: margin: true, and this row has no margin" in capsys.readouterr().err


def test_gradient_does_not_depend_on_how_a_batch_is_split(toy: str, pairs: Path, tmp_path: Path) -> None:
    norms = {}
    for micro in (4, 2, 1):
        out = tmp_path / str(micro)
        keys = {"model": toy, "train": str(pairs), "steps": 3, "micro_batch": micro, "save_every": 3}
        assert reward.main(arguments(out, **keys, heldout_fraction=0, max_grad_norm=1e9)) == 0
        norms[micro] = logged(out, "grad_norm")
    assert norms[2] == pytest.approx(norms[4], rel=1e-4)
    assert norms[1] == pytest.approx(norms[4], rel=1e-4)


@pytest.mark.slow
def test_killed_adapter_run_resumes_to_bitwise_the_same_weights(toy: str, pairs: Path, tmp_path: Path) -> None:
    keys = {"model": toy, "train": str(pairs), "steps": 30, "lora_rank": 4}
    assert reward.main(arguments(tmp_path / "whole", **keys)) == 0
    line = arguments(tmp_path / "killed", **keys)
    run_and_kill("reward", tmp_path / "killed", line)
    assert reward.main(line) == 0
    assert same_weights(tmp_path / "whole" / "final", tmp_path / "killed" / "final")


@pytest.mark.parametrize(
    ("hits", "number", "low", "high"), [(50, 100, 0.404, 0.596), (10, 10, 0.722, 1.0), (0, 10, 0.0, 0.278)]
)
def test_interval_is_wilsons(hits: int, number: int, low: float, high: float) -> None:
    assert wilson(hits / number, number) == pytest.approx((low, high), abs=1e-3)
