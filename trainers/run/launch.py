"""`--launch NAME`: hands a recipe to `accelerate launch`, which starts it in several processes.

    trimtab train sft --config recipe.yaml --out runs/sft --launch eight_gpus_fsdp2
    trimtab train sft --config recipe.yaml --out runs/sft --launch nodes_zero3,machine_rank=1,main_process_ip=10.0.0.1

NAME is one of trainers/recipes/launch/, or the path of an accelerate YAML of your own; `key=value` after it replaces
what the file says. The recipe stays the same: its `batch` counts over all processes.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from retrieval.extra import install, lacking
from trainers.run.recipe import RecipeError

FOLDER = Path(__file__).parents[1] / "recipes" / "launch"
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# What differs from machine to machine; the rest belongs in a file.
PLACES = ("machine_rank", "main_process_ip", "main_process_port", "num_machines", "num_processes", "gpu_ids")


def names() -> list[str]:
    """The shipped launch recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find(name: str) -> Path:
    """The file of a shipped launch recipe, or of one's own; RecipeError names the shipped ones."""
    for path in (FOLDER / f"{name}.yaml", Path(name)):
        if path.is_file():
            return path
    raise RecipeError(f"--launch {name}: no such file; shipped names: {', '.join(names())}")


def read(path: Path) -> dict[str, Any]:
    """The launch recipe, where this machine can follow it."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not YAML: {error}") from error
    if not isinstance(config, dict) or "distributed_type" not in config:
        raise RecipeError(f"{path}: no accelerate configuration (it has no distributed_type)")
    if find_spec("accelerate") is None:
        raise RecipeError(f"--launch: {lacking('accelerate', 'train')}")
    if config["distributed_type"] == "DEEPSPEED" and find_spec("deepspeed") is None:
        near = ", ".join(name for name in names() if "fsdp" in name)
        raise RecipeError(f"{path.stem} needs deepspeed, which is not installed: {install('deepspeed')}, or use {near}")
    return config


def command(launch: str, rest: Sequence[str]) -> list[str]:
    """The command line for `trimtab train *rest` in the processes that `launch` describes.

    Raises:
        RecipeError: an unknown name or key, or what the recipe needs is not installed.
    """
    name, *pairs = launch.split(",")
    path = find(name)
    read(path)
    changes = []
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in PLACES:
            raise RecipeError(f"--launch …,{pair}: key=value, and keys are {', '.join(PLACES)}")
        changes += [f"--{key}", value]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(path), *changes]
    return [*launcher, "--module", "trainers.command", *rest]


def start(method: str, rest: Sequence[str], check: Callable[[Path, list[str]], None]) -> int:
    """Start the processes and wait for them; their exit status, or 2 where they cannot be started.

    Args:
        check: raises RecipeError for a recipe and its changes that the method would refuse: each process would say
            it, and the launcher end in a traceback of its own.
    """
    parser = argparse.ArgumentParser(f"trimtab train {method}", add_help=False, allow_abbrev=False)
    parser.add_argument("--launch", required=True)
    options, others = parser.parse_known_args(rest)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--set", action="append", default=[])
    given, _ = parser.parse_known_args(rest)
    try:
        line = command(options.launch, [method, *others])
        if given.config is not None:
            check(given.config, given.set)
    except RecipeError as error:
        print(f"train {method}: {error}", file=sys.stderr)
        return 2
    process: subprocess.Popen[bytes] | None = None
    early: list[int] = []  # signals that came before there was a process

    def stop(number: int, _frame: object) -> None:
        if process is None:
            early.append(number)
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)

    before = {number: signal.signal(number, stop) for number in STOPS}
    try:
        # torchrun would set one thread per process and say so at length; a recipe's `threads` comes after this.
        # In a group of their own, the processes get each stop signal once, from here: a terminal sends it to the group
        # in front, `docker stop` and `kill` to this process alone.
        process = subprocess.Popen(line, env={"OMP_NUM_THREADS": "1"} | os.environ, process_group=0)
        for number in early:
            stop(number, None)
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
