"""The recipe of a chain: its steps in their order, what they share, and how their models are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers.chain import pretraining_step
from trainers.methods.table import METHODS
from trainers.run.recipe import RecipeError, fill

REFERENCE = "step:"  # in a step's keys: what an earlier step made
SCORES = ("reward_model", "critic", "supervisor")  # keys that need a model which scores
DATA = ("train", "heldout", "ptx_data", "pairs", "train_file")  # keys for which that is its rows, not its model


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How the steps' models are compared: by the rewards of their answers to prompts that no step learned from.

    Attributes:
        reward: the step whose reward model judges; None compares nothing.
        heldout: a file of prompts; None holds `heldout_fraction` of the last step's prompts out.
        prompts: at most so many of them are answered, `samples` times each.
        batch: prompts answered together.
    """

    reward: str | None = None
    heldout: str | None = None
    heldout_fraction: float = 0.1
    prompts: int = 200
    samples: int = 1
    temperature: float = 1.0
    max_new_tokens: int = 128
    batch: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Step:
    """One training. `values`: the keys of its method's recipe; `step:NAME` in one stands for what that step made."""

    name: str
    method: str
    values: Mapping[str, Any]

    @property
    def kind(self) -> Any:
        """The dataclass of its recipe."""
        return pretraining_step.Recipe if self.method == "cpt" else METHODS[self.method].recipe

    @property
    def scores(self) -> bool:
        """Whether its model scores answers instead of giving them."""
        return METHODS[self.method].export.endswith(":SCORE")

    @property
    def references(self) -> dict[str, str]:
        """The keys that name an earlier step, with that step's name."""
        texts = {key: value for key, value in self.values.items() if isinstance(value, str)}
        return {key: text.removeprefix(REFERENCE) for key, text in texts.items() if text.startswith(REFERENCE)}

    def model(self, out: Path) -> Path:
        """The folder of its model: where it trains a LoRA adapter, the merged one."""
        return out / self.name / ("merged" if self.values.get("lora_rank") else "final")

    def rows(self, out: Path) -> Path:
        """What it learns from: its data without the prompts that are held out."""
        return out / "data" / f"{self.name}.jsonl"


@dataclass(frozen=True)
class Chain:
    """The steps in their order, and how they are compared."""

    comparison: Comparison
    steps: tuple[Step, ...]

    def __getitem__(self, name: str) -> Step:
        return next(step for step in self.steps if step.name == name)

    def recipe(self, step: Step, out: Path) -> Any:
        """The step's recipe, with folders in the place of references; RecipeError for a wrong key."""
        values = dict(step.values)
        for key, name in step.references.items():
            values[key] = str(self[name].rows(out) if key in DATA else self[name].model(out))
        try:
            return fill(step.kind, values)
        except RecipeError as error:
            raise RecipeError(f"step {step.name}: {error}") from error
