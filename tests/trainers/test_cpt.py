"""`trimtab train cpt`: it learns, it can be killed and resumed exactly, and its errors say what to do."""

import errno
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file

from tests.trainers.toy import saved
from trainers import command
from trainers.export import release
from trainers.methods import cpt
from trainers.run import checkpoint

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "trainers" / "recipes").glob("tiny_*.yaml"))
TINY = {
    "block": 32, "long_block": 64, "batch": 4, "micro_batch": 2, "steps": 30, "learning_rate": 5e-3,
    "final_learning_rate": 5e-4, "warmup_steps": 2, "weight_decay": 0.1, "seed": 3, "eval_every": 15,
    "eval_blocks": 2, "final_eval_tokens": 512, "save_every": 10, "bf16": False, "compile": False, "threads": 1,
    "vocabulary": 300, "context": 128, "hidden": 32, "inner": 64, "layers": 2, "heads": 2, "kv_heads": 1,
}  # fmt: skip


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    """A recipe for a toy, and the text it names: sentences of a grammar that a toy can learn."""
    words = random.Random(0)
    for name, number in (("train", 300), ("heldout", 20)):
        rows = []
        for index in range(number):
            text = " ".join(words.choice(("the cat sat.", "a dog ran off.", "rain fell all day.")) for _ in range(12))
            rows.append({"text": text, "source": ("prose", "verse")[index % 2]})
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return TINY | {"train_file": str(tmp_path / "train.jsonl"), "heldout_file": str(tmp_path / "heldout.jsonl")}


def arguments(recipe: dict[str, Any], out: Path, *more: str, init: str = "config") -> list[str]:
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(recipe))
    return ["--config", str(path), "--init", init, "--out", str(out), *more]


def test_loss_falls_and_the_run_is_recorded(recipe: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert command.main(["cpt", *arguments(recipe, out)]) == 0
    run = json.loads((out / "run.json").read_text())
    assert run["tokens_seen"] == 30 * 4 * 32
    assert set(run["heldout"]) == {"32", "64"}
    assert set(run["heldout"]["32"]) == {"prose", "verse"}
    assert run["heldout"]["32"]["prose"]["loss"] < 3.5  # the uniform guess is ln(300) = 5.7
    assert (out / "curve.png").stat().st_size > 1_000
    assert list((out / "logs").iterdir())
    assert not (out / "runs").exists()
    assert {path.suffix for path in (out / "final").iterdir()} == {".json", ".safetensors"}
    assert cpt.main(arguments(recipe | {"steps": 2}, tmp_path / "more", init=str(out / "final"))) == 0
    assert release.main(["--run", str(out), "--out", str(tmp_path / "base"), "--dtype", "float32"]) == 0
    assert "/loss | " in (tmp_path / "base" / "README.md").read_text()


@pytest.mark.slow
def test_killed_run_resumes_to_bitwise_the_same_weights(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe |= {"steps": 60}
    assert cpt.main(arguments(recipe, tmp_path / "whole")) == 0
    out = tmp_path / "killed"
    line = [sys.executable, "-m", "trainers.methods.cpt", *arguments(recipe, out)]
    child = subprocess.Popen(line, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not saved(out, 20):
        assert child.poll() is None, child.stderr and child.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert not (out / "final").exists()
    (out / "checkpoint-59").mkdir()  # what a kill while saving leaves: a checkpoint without its state
    assert checkpoint.last_checkpoint(out) is not None
    assert not (out / "checkpoint-59").exists()
    tokens = sorted((out / "tokens").iterdir())
    assert cpt.main(arguments(recipe, out)) == 0
    whole = load_file(tmp_path / "whole" / "checkpoint-60" / "model.safetensors")
    resumed = load_file(out / "checkpoint-60" / "model.safetensors")
    assert whole.keys() == resumed.keys()
    assert all((whole[name] == resumed[name]).all() for name in whole)
    assert sorted((out / "tokens").iterdir()) == tokens  # nothing was tokenized twice
    history = json.loads((out / "checkpoint-60" / "trainer_state.json").read_text())["log_history"]
    seconds = [entry["seconds"] for entry in history if "seconds" in entry]
    assert seconds == sorted(seconds)


def test_a_step_that_is_not_finite_ends_the_run(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wild = recipe | {"learning_rate": 1e30, "final_learning_rate": 1e30, "warmup_steps": 0}
    assert cpt.main(arguments(wild, tmp_path / "run")) == 1
    assert "stopped before a weight changed: step " in capsys.readouterr().err
    assert not (tmp_path / "run" / "final").exists()


def test_resuming_with_another_recipe_is_refused(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    (out / "checkpoint-10").mkdir(parents=True)
    begun = cpt.read_recipe(Path(arguments(recipe, out)[1]), cpt.Recipe)
    checkpoint.remember(cpt.wanted(begun, "config"), out, resume=False)
    assert cpt.main(arguments(recipe | {"seed": 4}, out)) == 2
    assert "other values of seed; use --no-resume" in capsys.readouterr().err
    with Path(recipe["train_file"]).open("a") as file:
        file.write('{"text": "one more"}\n')
    assert cpt.main(arguments(recipe, out)) == 2
    assert "other values of the text of train_file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stepz": 3}, "unknown key 'stepz' (did you mean 'steps'?); valid keys: batch, bf16, block,"),
        ({"steps": "many"}, "'steps' must be a whole number, not 'many'"),
        ({"block": 256}, "block (256) is longer than the model's context (128)"),
        ({"batch": 3}, "batch (3) must be a multiple of micro_batch (2)"),
        ({"layers": 0}, "--init config needs 'layers' in the recipe"),
        ({"train_file": "nowhere.jsonl"}, "nowhere.jsonl: no such file"),
    ],
)
def test_wrong_recipe_is_refused_by_name(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], message: str
) -> None:
    assert cpt.main(arguments(recipe | change, tmp_path / "run")) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"text": "a"}\n{"text": "b"}\n{"text": \n', "train.jsonl, line 3: not JSON"),
        ('{"text": "a"}\n{"body": "b"}\n', 'train.jsonl, line 2: no text under "text"'),
        ('{"text": "a"}\n["b"]\n', "train.jsonl, line 2: not a JSON object"),
        ("", "0 tokens do not fill one block of 32"),
        ('{"text": "a"}\n', "3 tokens do not fill one block of 32"),
    ],
)
def test_unusable_data_is_named(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    Path(recipe["train_file"]).write_text(text)
    assert cpt.main(arguments(recipe, tmp_path / "run")) == 2
    assert message in capsys.readouterr().err


def test_model_folder_that_is_none_is_refused(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cpt.main(arguments(recipe, tmp_path / "run", init=str(tmp_path))) == 2
    assert "no config.json there" in capsys.readouterr().err


def test_full_disk_is_told_from_other_errors(tmp_path: Path) -> None:
    assert checkpoint.is_disk_full(OSError(errno.ENOSPC, "No space left on device"), tmp_path)
    assert checkpoint.is_disk_full(SafetensorError("I/O error: No space left on device (os error 28)"), tmp_path)
    assert not checkpoint.is_disk_full(PermissionError(errno.EACCES, "Permission denied"), tmp_path)
    assert not checkpoint.is_disk_full(RuntimeError("shapes differ"), tmp_path)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_key_of_a_shipped_recipe_is_explained(path: Path) -> None:
    cpt.read_recipe(path, cpt.Recipe)
    lines = path.read_text().splitlines()
    for above, line in itertools.pairwise(lines):
        assert line.startswith("#") or not line or above.startswith("#"), f"no comment above {line!r}"


def test_unknown_method_is_refused_with_the_valid_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["alchemy"]) == 2
    assert (
        "no method 'alchemy'; methods: cpt, sft, reward, strength, weak, detector, pair, kto, rank, rahf, rounds, ppo, "
        "bpo, chain, check, pick, flywheel, gate, dpo" in capsys.readouterr().err
    )
    assert command.main(["--list"]) == 0
    assert capsys.readouterr().out.startswith("cpt ")


def test_listing_methods_loads_nothing_heavy() -> None:
    code = "import sys, trainers.command as c; c.main(['--list']); assert not {'torch', 'yaml'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
