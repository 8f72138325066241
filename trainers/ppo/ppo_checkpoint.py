"""A run's checkpoints: everything that the next step depends on, so that a killed run ends in the same weights.

OUT/checkpoint-N has a file of tensors for each network and, written last, trainer_state.json. No random state is kept:
every step seeds its own samples and orders.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from trainers.ask.journal import write_whole
from trainers.ppo.optimizer import Optimizer
from trainers.ppo.token_rewards import Running
from trainers.run.record import finite

KEPT = 2


@dataclass
class State:
    """What a run knows beside its networks: steps done, β, the scores so far, the log and the warnings."""

    step: int = 0
    beta: float = 0.0
    seen: Running = field(default_factory=Running)
    log_history: list[dict[str, Any]] = field(default_factory=list)
    warnings: dict[str, str] = field(default_factory=dict)
    phases: dict[str, dict[str, Any]] = field(default_factory=dict)


def save(out: Path, state: State, optimizers: Sequence[Optimizer], first: bool = True) -> None:
    """Write OUT/checkpoint-N, and remove all but the newest two. Not the first process: only hand it the pieces."""
    tensors = {optimizer.name: optimizer.state() for optimizer in optimizers}
    if not first:
        return
    folder = out / f"checkpoint-{state.step}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, found in tensors.items():
        save_file(found, folder / f"{name}.safetensors")
    updates = {optimizer.name: optimizer.updates for optimizer in optimizers}
    values = {**asdict(state), "updates": updates, "global_step": state.step}
    write_whole(folder / "trainer_state.json", json.dumps(finite(values), allow_nan=False) + "\n")
    older = sorted(out.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))[:-KEPT]
    for path in older:
        shutil.rmtree(path)


def restore(checkpoint: Path, optimizers: Sequence[Optimizer]) -> State:
    """The state that was saved there; the networks' weights and moments are set to theirs."""
    values = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    for optimizer in optimizers:
        optimizer.restore(load_file(checkpoint / f"{optimizer.name}.safetensors"), values["updates"][optimizer.name])
    return State(
        values["step"], values["beta"], Running(**values["seen"]), values["log_history"], values["warnings"],
        values["phases"],
    )  # fmt: skip
