"""The keys of a flywheel's recipe, and what cannot be right about them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trainers.ask.engine import Engine
from trainers.methods.pair import Recipe as PairRecipe
from trainers.rounds.rule import load_rule
from trainers.run.recipe import RecipeError, read_recipe

Launcher = Literal["onnx", "transformers", "vllm"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """trainers/recipes/flywheel.yaml explains each key."""

    model: str
    heldout: str
    questions: str = ""
    feedback: str = ""
    rounds: int = 3
    launcher: Launcher = "onnx"
    alias: str = "assistant"
    samples: int = 4
    temperature: float = 1.0
    max_tokens: int = 128
    concurrency: int = 2
    timeout: float = 600.0
    scorer: Literal["rule", "judge_marks", "judge_pairs"] = "rule"
    rule: str = ""
    judge_url: str = ""
    judge_model: str = ""
    judge_key_env: str = ""
    least_gap: float = 0.0
    train: str = "pair"
    changes: list[str] = field(default_factory=list)
    keep: Literal["unless_worse", "if_better", "always"] = "unless_worse"
    seed: int = 0

    @property
    def judge(self) -> Engine:
        """The judge, as it is asked: without chance."""
        return Engine(self.judge_url, self.judge_model, self.judge_key_env, temperature=0.0, timeout_s=self.timeout)

    def arguments(self, **more: Any) -> list[str]:
        """`--set` arguments of a round's training: the recipe's own, then what the round gives it."""
        given = [*self.changes, *(f"{key}={value}" for key, value in more.items())]
        return [part for change in given for part in ("--set", change)]


def check(recipe: Recipe) -> None:
    """Refuse what could only fail later."""
    for name in ("rounds", "max_tokens", "concurrency"):
        if getattr(recipe, name) < 1:
            raise RecipeError(f"{name} must be at least 1")
    if recipe.samples < 2:
        raise RecipeError("samples must be at least 2: a preference is between two answers to one question")
    if recipe.temperature <= 0 or recipe.timeout <= 0:
        raise RecipeError("temperature and timeout must be above 0")
    if recipe.scorer == "rule":
        load_rule(recipe.rule)
    elif not (recipe.judge_url and recipe.judge_model):
        raise RecipeError(f"scorer: {recipe.scorer} needs judge_url and judge_model")
    if bool(recipe.questions) == bool(recipe.feedback):
        raise RecipeError("give questions, to ask, or feedback, a server's trimtab.toml whose preferences are taken")
    read = {"questions": recipe.questions or None, "feedback": recipe.feedback or None, "heldout": recipe.heldout}
    for name, file in read.items():
        if file is not None and not Path(file).is_file():
            raise RecipeError(f"{name}: no file {file}")
    # What a round would only find out after its answers: a key of the training that does not exist.
    fixed = [f"model={recipe.model}", f"train={recipe.heldout}"]
    read_recipe(Path(recipe.train), PairRecipe, [*recipe.changes, *fixed])
