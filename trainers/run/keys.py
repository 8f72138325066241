"""The keys that every method's recipe has, and what cannot be right about them."""

import os
from dataclasses import dataclass, field
from typing import Literal

from trainers.run.recipe import RecipeError


@dataclass(frozen=True, kw_only=True)
class Common:
    """The keys that all methods' recipes share; trainers/recipes/sft.yaml explains each."""

    model: str
    train: str
    heldout: str | None = None
    heldout_fraction: float = 0.1
    chat_template: str | None = None
    pad_token: str | None = None
    unusable: Literal["error", "drop"] = "error"
    max_length: int = 1024
    seed: int = 0
    epochs: float = 1.0
    steps: int | None = None
    batch: int = 16
    micro_batch: int = 4
    learning_rate: float = 1e-5
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    warmup: float = 0.1
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    lora_rank: int = 0
    lora_alpha: int = 16
    lora_dropout: float = 0.0
    quantize: Literal["none", "nf4"] = "none"
    lora_targets: list[str] = field(default_factory=lambda: ["all-linear"])
    bf16: Literal["auto"] | bool = "auto"
    gradient_checkpointing: bool = False
    save_every: int = 100
    eval_every: int = 100
    best: str | None = None
    patience: int = 0
    logging_every: int = 10
    final_dtype: Literal["float32", "bfloat16"] = "float32"
    threads: int = 0
    report_to: list[Literal["tensorboard", "wandb"]] = field(default_factory=lambda: ["tensorboard"])
    license: str | None = None


def validate(recipe: Common) -> None:
    """Refuse what could only fail later."""
    for name in ("batch", "micro_batch", "max_length", "save_every", "eval_every", "logging_every"):
        if getattr(recipe, name) < 1:
            raise RecipeError(f"{name} must be at least 1")
    if recipe.steps is not None and recipe.steps < 1:
        raise RecipeError("steps must be at least 1, or null to count epochs")
    for name in ("learning_rate", "epochs", "max_grad_norm"):
        if getattr(recipe, name) <= 0:
            raise RecipeError(f"{name} must be above 0")
    for name in ("lora_rank", "warmup", "weight_decay", "threads", "patience"):
        if getattr(recipe, name) < 0:
            raise RecipeError(f"{name} must be at least 0")
    if not 0 <= recipe.heldout_fraction < 1:
        raise RecipeError("heldout_fraction must be at least 0 and below 1")
    accumulation(recipe)
    if recipe.best is None and recipe.patience:
        raise RecipeError("patience counts evaluations without a better value of `best`: set best, to loss for one")
    if recipe.best is not None and recipe.save_every % recipe.eval_every:
        raise RecipeError(
            f"best keeps a checkpoint that was measured: save_every ({recipe.save_every}) must be a multiple of "
            f"eval_every ({recipe.eval_every})"
        )
    if "wandb" in recipe.report_to:
        from importlib.util import find_spec

        if find_spec("wandb") is None:
            raise RecipeError("report_to names wandb, which is not installed (pip install wandb)")


def accumulation(recipe: Common) -> int:
    """Forward passes per process and optimizer step."""
    world = processes()
    if recipe.batch % (recipe.micro_batch * world):
        raise RecipeError(
            f"batch ({recipe.batch}) must be a multiple of micro_batch ({recipe.micro_batch})"
            + (f" times the processes ({world})" if world > 1 else "")
        )
    return recipe.batch // (recipe.micro_batch * world)


def processes() -> int:
    """Processes of this run, as launchers say by WORLD_SIZE."""
    return int(os.environ.get("WORLD_SIZE", "1"))
