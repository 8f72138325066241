"""Preference training on pairs: DPO and its family, with a LoRA adapter or on all weights.

    trimtab train pair --config RECIPE.yaml --out FOLDER        (or: python -m trainers.methods.pair …)

Rows are prompt, chosen, rejected; ODPO also needs score_chosen and score_rejected, or margin. The recipe
trainers/recipes/pair.yaml explains every key, trainers/methods/losses.py every loss. FOLDER gets `final/`, `run.json`,
`curve.png`, `logs/` for TensorBoard, and checkpoints; the same command resumes a killed run to
bit-identical weights.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers.data.jsonl import DataError
from trainers.data.tokens import Tokens
from trainers.methods.losses import LOSSES, Settings
from trainers.methods.packing import Packing
from trainers.run.recipe import RecipeError
from trainers.run.training import Common, arguments, begin, go, lora, main_for, ours, validate


@dataclass(frozen=True, kw_only=True)
class Recipe(Common):
    """None stands for what the loss's paper has."""

    loss: str = "dpo"
    beta: float | None = None
    label_smoothing: float | None = None
    margin: float | None = None
    alpha: float | None = None
    sft_weight: float | None = None
    precompute_reference: bool = False
    log_kl: bool = False
    packing: Packing = "none"


def settings_of(recipe: Recipe) -> tuple[Settings, float]:
    """The loss's settings and the weight of the NLL; RecipeError for a key that the loss would ignore."""
    loss = LOSSES.get(recipe.loss)
    if loss is None:
        raise RecipeError(f"no loss {recipe.loss!r}; losses: {', '.join(LOSSES)}")
    try:
        settings = loss.settings(
            beta=recipe.beta, label_smoothing=recipe.label_smoothing, margin=recipe.margin, alpha=recipe.alpha
        )
    except ValueError as error:
        raise RecipeError(f"loss {recipe.loss}: {error}") from error
    weight = loss.sft if recipe.sft_weight is None else recipe.sft_weight
    if "beta" in loss.reads and settings.beta <= 0:
        raise RecipeError("beta must be above 0")
    if not 0 <= settings.label_smoothing < 0.5:
        raise RecipeError("label_smoothing is the share of flipped labels: at least 0 and below 0.5")
    if recipe.loss == "exo_pair" and settings.label_smoothing == 0:
        raise RecipeError("exo_pair needs label_smoothing above 0 (its paper: 0.001)")
    if weight and loss.of is None:
        own = ", ".join(name for name, row in LOSSES.items() if row.of)
        raise RecipeError(f"loss {recipe.loss} is TRL's and has no NLL term; sft_weight goes with {own}")
    if recipe.packing != "none" and loss.of is None:
        raise RecipeError(f"loss {recipe.loss} is TRL's and cannot be packed; set packing: none")
    if recipe.precompute_reference and not loss.reference:
        raise RecipeError(f"loss {recipe.loss} has no reference; leave precompute_reference out")
    return settings, weight


def dataset(rows: list[Tokens], loss: str) -> Any:
    """A datasets.Dataset of prompt_ids, chosen_ids, rejected_ids and, for ODPO, gap: how much better chosen scores."""
    from datasets import Dataset

    columns: dict[str, list[Any]] = {
        "prompt_ids": [row.prompt for row in rows],
        "chosen_ids": [row.answers["chosen"] for row in rows],
        "rejected_ids": [row.answers["rejected"] for row in rows],
    }
    if loss == "odpo":
        columns["gap"] = [gap(row) for row in rows]
    return Dataset.from_dict(columns)


def gap(row: Tokens) -> float:
    """score_chosen − score_rejected, or margin; ODPO takes its logarithm, so it must be above 0."""
    scores = row.extra
    if "score_chosen" in scores and "score_rejected" in scores:
        found = float(scores["score_chosen"] - scores["score_rejected"])
    elif "margin" in scores:
        found = float(scores["margin"])
    else:
        raise DataError(f"{row.place}: odpo needs score_chosen and score_rejected, or margin")
    if not found > 0:
        raise DataError(f"{row.place}: odpo needs chosen to score higher than rejected; the gap is {found:g}")
    return found


def check(recipe: Recipe) -> None:
    """Refuse what could only fail later."""
    validate(recipe)
    settings_of(recipe)


def train(recipe: Recipe, out: Path, resume: bool = True) -> dict[str, Any]:
    """Run the recipe to its end and return what `run.json` holds."""
    settings, weight = settings_of(recipe)
    material = begin(recipe, "preference", out, resume)
    learn, test = dataset(material.train, recipe.loss), dataset(material.heldout, recipe.loss)

    from trainers.methods.pair_trainer import PairConfig, PairTrainer

    trainer = ours(PairTrainer)(
        model=material.base.path,
        args=arguments(
            recipe,
            out,
            PairConfig,
            loss=recipe.loss,
            beta=settings.beta,
            label_smoothing=settings.label_smoothing,
            margin=settings.margin,
            alpha=settings.alpha,
            sft_weight=weight,
            precompute_ref_log_probs=recipe.precompute_reference,
            log_kl=recipe.log_kl,
            packed=recipe.packing,
        ),
        train_dataset=learn,
        eval_dataset=test if len(test) else None,
        processing_class=material.base.tokenizer,
        peft_config=lora(recipe),
    )
    loss = LOSSES[recipe.loss]
    facts = {"loss": {"name": recipe.loss, "formula": loss.formula, "paper": loss.paper, "sft_weight": weight}}
    return go(trainer, recipe, "pair", out, material, resume, facts=facts)


def main(argv: list[str] | None = None) -> int:
    """The exit status, as `main_for` gives it."""
    return main_for("pair", Recipe, train, argv)


if __name__ == "__main__":
    sys.exit(main())
