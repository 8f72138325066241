"""What all methods share: loading, refusing, resuming, running out of disk, and what a run leaves behind."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.trainers.toy import ROOT, arguments, pair_rows, same_weights, write
from trainers.methods import sft
from trainers.methods.table import METHODS
from trainers.run import checkpoint
from trainers.run.keys import Common, accumulation
from trainers.run.model import load
from trainers.run.recipe import RecipeError


@pytest.fixture
def padless(toy: str, tmp_path: Path) -> Path:
    """The toy with the end token for padding, as many models come."""
    folder = tmp_path / "padless"
    shutil.copytree(toy, folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token": "<|eos|>"}))
    return folder


def test_padding_with_the_end_token_is_repaired_and_told(padless: Path) -> None:
    base = load(Common(model=str(padless), train=""))
    assert base.tokenizer.pad_token == "<|pad|>"
    assert base.tokenizer.pad_token_id != base.tokenizer.eos_token_id
    assert base.notes == ("the pad token is now <|pad|> (it was <|eos|>; the end token must not be padding)",)


def test_padding_that_cannot_be_repaired_is_refused(
    padless: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = padless / "tokenizer.json"
    path.write_text(path.read_text().replace("<|pad|>", "<|odd|>"))
    assert sft.main(arguments(tmp_path / "out", model=str(padless), train=str(pairs))) == 2
    assert "pads with its end token '<|eos|>', and has no usual pad token: name one" in capsys.readouterr().err
    assert load(Common(model=str(padless), train="", pad_token="<|odd|>")).tokenizer.pad_token == "<|odd|>"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"batch": 3}, "batch (3) must be a multiple of micro_batch (2)"),
        ({"heldout_fraction": 1.0}, "heldout_fraction must be at least 0 and below 1"),
        ({"learning_rate": 0}, "learning_rate must be above 0"),
        ({"lora_rank": -1}, "lora_rank must be at least 0"),
        ({"steps": 0}, "steps must be at least 1, or null to count epochs"),
        ({"save_every": 0}, "save_every must be at least 1"),
        ({"report_to": ["wandb"]}, "report_to names wandb, which is not installed"),
        ({"report_to": ["comet"]}, "'report_to' must be a list, each one of tensorboard, wandb"),
        ({"schedule": "sine"}, "'schedule' must be one of linear, cosine, constant, constant_with_warmup, not 'sine'"),
        ({"model": "no/such/folder"}, "model no/such/folder: no such folder, and not a name that the hub could have"),
        ({"model": "."}, "model .: no config.json there"),
        ({"train": "nowhere.jsonl"}, "nowhere.jsonl: no such file"),
        ({"chat_template": "llama"}, "chat_template llama: no such file; shipped templates: chatml, dialogue"),
        ({"learning_rat": 1e-3}, "unknown key 'learning_rat' (did you mean 'learning_rate'?); valid keys: batch"),
    ],
)
def test_wrong_recipe_is_refused_before_anything_is_written(
    toy: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], keys: dict[str, Any], message: str
) -> None:
    assert sft.main(arguments(tmp_path / "out", **{"model": toy, "train": str(pairs)} | keys)) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.startswith("train sft: ") or shown.count("\n") > 1
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_named(
    toy: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    config = arguments(tmp_path / "out", model=toy, train=str(pairs))[:2]
    assert sft.main([*config, "--out", str(tmp_path / "file" / "out")]) == 2
    assert f"--out {tmp_path / 'file' / 'out'} cannot be written: Not a directory" in capsys.readouterr().err


def test_processes_share_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert accumulation(Common(model="", train="", batch=16, micro_batch=4)) == 2
    with pytest.raises(RecipeError, match=r"batch \(12\) must be a multiple of micro_batch \(4\) times the processes"):
        accumulation(Common(model="", train="", batch=12))


def test_going_on_with_another_recipe_or_other_data_is_refused(
    toy: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, keys = tmp_path / "out", {"model": toy, "train": str(pairs), "steps": 1, "save_every": 1}
    assert sft.main(arguments(out, **keys)) == 0
    assert sft.main(arguments(out, **keys, seed=4, batch=8)) == 2
    assert (
        "out was started with other values of batch, seed; use --no-resume or another --out" in capsys.readouterr().err
    )
    assert sft.main(arguments(out, **keys, logging_every=2)) == 0  # that moves no weight
    write(pairs, pair_rows(41))
    assert sft.main(arguments(out, **keys)) == 2
    assert "other values of the data of train" in capsys.readouterr().err
    assert sft.main(arguments(out, "--no-resume", **keys)) == 0


def test_full_disk_ends_the_run_and_loses_no_checkpoint(toy: str, pairs: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the next checkpoint does not fit, those before stay."""
    keys = {"model": toy, "train": str(pairs), "steps": 4, "heldout_fraction": 0}
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert sft.main(arguments(whole, **keys)) == 0
    line = arguments(out, **keys)
    shutil.copytree(whole, out)
    for gone in ("checkpoint-4", "final"):
        shutil.rmtree(out / gone)
    done = subprocess.run(
        [sys.executable, "-m", "trainers.methods.sft", *line],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1] == (
        f"train sft: no space left for {out}; free some and run the same command again"
    )
    assert checkpoint.is_whole(out / "checkpoint-2")
    assert not (out / "final").exists()
    assert sft.main(line) == 0
    assert same_weights(out / "final", whole / "final")


def test_stopped_run_says_how_to_go_on(
    toy: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainers.run.training import main_for

    def stop(recipe: sft.Recipe, out: Path, resume: bool) -> dict[str, Any]:
        raise KeyboardInterrupt

    line = arguments(tmp_path / "out", model=toy, train=str(pairs))
    assert main_for("sft", sft.Recipe, stop, line) == 130
    assert "the same command resumes from the last checkpoint" in capsys.readouterr().err


def test_rows_whose_prompt_is_held_out_are_not_learnt_from(toy: str, pairs: Path, tmp_path: Path) -> None:
    heldout = write(tmp_path / "heldout.jsonl", pair_rows()[:4])
    out = tmp_path / "out"
    assert sft.main(arguments(out, model=toy, train=str(pairs), heldout=str(heldout), steps=1)) == 0
    run = json.loads((out / "run.json").read_text())
    assert run["rows"] == {"train": 36, "heldout": 4, "dropped": 0}
    assert set(run["data_sha256"]) == {"the data of train", "the data of heldout"}
    assert {"torch", "transformers", "trl", "peft", "datasets"} <= set(run["versions"])


@pytest.mark.parametrize("module", [*(row.entry.partition(":")[0] for row in METHODS.values()), "trainers.check"])
def test_help_loads_nothing_heavy(module: str) -> None:
    code = (
        f"import sys, {module} as m\n"
        "try: m.main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'trl', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
