"""`--launch`: the same recipe in several processes; two of them on this CPU (gloo) give what one gives."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from safetensors.torch import load_file

from tests.trainers.toy import ROOT, arguments, logged, pair_rows, saved, write
from trainers import command
from trainers.run import launch
from trainers.run.recipe import RecipeError

SHIPPED = sorted(launch.FOLDER.glob("*.yaml"))


def test_the_shipped_names_are_those_that_the_readme_gives() -> None:
    assert launch.names() == [
        "eight_gpus", "eight_gpus_fsdp2", "eight_gpus_zero3", "nodes_fsdp2", "nodes_zero3", "one_gpu", "two_cpus",
    ]  # fmt: skip


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_accelerate_takes_every_shipped_recipe_as_it_is_meant(path: Path) -> None:
    config = load_config_from_file(str(path))
    args = launch_command_parser().parse_args(["--config_file", str(path), "--module", "trainers.command", "sft"])
    args, _, _ = _validate_launch_command(args)
    assert args.use_fsdp == ("fsdp2" in path.stem)
    assert args.use_deepspeed == ("zero3" in path.stem)
    assert args.num_processes == {"one": 1, "two": 2, "eight": 8, "nodes": 16}[path.stem.split("_")[0]]
    assert args.num_machines == (2 if path.stem.startswith("nodes") else 1)
    assert config.mixed_precision == "no"  # the recipe's matter
    if args.use_fsdp:
        assert config.fsdp_config["fsdp_version"] == 2
    if args.use_deepspeed:
        assert config.deepspeed_config["zero_stage"] == 3
        assert config.deepspeed_config["zero3_save_16bit_model"] is True


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_recipe_says_how_it_is_used(path: Path) -> None:
    assert f"--launch {path.stem}" in path.read_text("utf-8")


def test_the_command_line_is_the_same_recipe_and_what_this_machine_is() -> None:
    line = launch.command("nodes_fsdp2,machine_rank=1,main_process_ip=10.0.0.1", ["sft", "--config", "r.yaml"])
    assert line[1:4] == ["-m", "accelerate.commands.launch", "--config_file"]
    assert line[5:] == [
        "--machine_rank", "1", "--main_process_ip", "10.0.0.1", "--module", "trainers.command", "sft", "--config",
        "r.yaml",
    ]  # fmt: skip


def test_an_unknown_name_or_key_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert command.main(["sft", "--launch", "ten_gpus", "--config", "r.yaml"]) == 2
    assert "eight_gpus_fsdp2, eight_gpus_zero3" in capsys.readouterr().err
    assert command.main(["sft", "--launch=two_cpus,zero_stage=1"]) == 2
    assert "keys are machine_rank, main_process_ip" in capsys.readouterr().err
    assert command.main(["cpt", "--launch", "two_cpus"]) == 2
    assert "cpt runs in one process" in capsys.readouterr().err
    for changes, why in ((["bta=1"], "unknown key 'bta' (did you mean 'beta'?)"), (["batch=0"], "batch")):
        line = [
            "--config",
            "pair",
            "--out",
            str(tmp_path / "out"),
            *(part for one in changes for part in ("--set", one)),
        ]
        assert command.main(["pair", "--launch", "two_cpus", *line]) == 2
        assert why in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (tmp_path / "mine.yaml").write_text("steps: 3\n")
    with pytest.raises(RecipeError, match="no accelerate configuration"):
        launch.command(str(tmp_path / "mine.yaml"), [])


@pytest.mark.skipif(find_spec("deepspeed") is not None, reason="deepspeed is installed")
def test_a_missing_deepspeed_is_named() -> None:
    with pytest.raises(RecipeError, match=r"zero3 needs deepspeed.*pip install .*deepspeed.*eight_gpus_fsdp2"):
        launch.command("eight_gpus_zero3", [])


def launched(method: str, line: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "trainers.command", method, *line, "--launch", "two_cpus"], cwd=ROOT, check=False,
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_a_stop_signal_to_the_launcher_alone_ends_every_process(toy: str, tmp_path: Path) -> None:
    """As `docker stop` sends it; a terminal would send it to the whole group."""
    keys = {
        "model": toy,
        "train": str(write(tmp_path / "train.jsonl", pair_rows(20))),
        "batch": 4,
        "steps": 100_000,
        "heldout_fraction": 0,
    }
    line = [sys.executable, "-m", "trainers.command", "sft", *arguments(tmp_path / "out", **keys)]
    launcher = psutil.Popen([*line, "--launch", "two_cpus"], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    below: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + 240
        while not saved(tmp_path / "out", 2):
            assert launcher.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        below = launcher.children(recursive=True)
        assert len(below) >= 3  # accelerate and two trainers
        launcher.send_signal(signal.SIGINT)
        assert launcher.wait(60) != 0
        assert not psutil.wait_procs(below, 30)[1]
    finally:
        for process in [launcher, *below]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sft", "pair", "reward"])
def test_two_processes_learn_what_one_learns(toy: str, tmp_path: Path, method: str) -> None:
    rows: list[dict[str, Any]] = pair_rows(25)  # the last held-out batches are not full, in neither way
    train, held = write(tmp_path / "train.jsonl", rows[:20]), write(tmp_path / "held.jsonl", rows[20:])
    keys = {"model": toy, "train": str(train), "heldout": str(held), "batch": 4, "report_to": []}
    assert command.main([method, *arguments(tmp_path / "one", **keys)]) == 0
    launched(method, arguments(tmp_path / "two", **keys))
    said = {out: yaml.safe_load((tmp_path / out / "run.json").read_text()) for out in ("one", "two")}
    assert (said["one"]["processes"], said["two"]["processes"]) == (1, 2)
    assert logged(tmp_path / "two", "loss") == pytest.approx(logged(tmp_path / "one", "loss"), rel=1e-5)
    assert logged(tmp_path / "two", "grad_norm") == pytest.approx(logged(tmp_path / "one", "grad_norm"), rel=1e-4)
    for when in ("heldout_before", "heldout"):
        for name in {"loss", "accuracy", "mean_token_accuracy", "rewards/margins"} & said["one"][when].keys():
            assert said["two"][when][name] == pytest.approx(said["one"][when][name], rel=1e-4), (when, name)
    one, two = (load_file(tmp_path / out / "final" / "model.safetensors") for out in ("one", "two"))
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-4
