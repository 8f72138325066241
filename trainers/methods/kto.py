"""Alignment with answers that are labelled good or bad one by one, where no pairs are at hand.

    trimtab train kto --config trainers/recipes/kto.yaml --out build/kto

Ethayarajh et al. 2024 (arXiv:2402.01306), eqs. 7 and 8: with the log-ratio a = log π(y|x) - log π_ref(y|x), a good
answer's loss is λ_D (1 - σ(β (a - z₀))), a bad one's λ_U (1 - σ(β (z₀ - a))). z₀ ≥ 0 estimates how far the model has
moved from the reference, from prompts with other rows' answers; no gradient goes through it. A preference pair
is read as one good and one bad row.
"""

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trainers.data.tokens import Tokens
from trainers.run.training import Common, arguments, begin, go, lora, main_for, ours

METHOD = "kto"


@dataclass(frozen=True, kw_only=True)
class Recipe(Common):
    """β, λ_D and λ_U of equations 7 and 8; trainers/recipes/kto.yaml explains each key."""

    beta: float = 0.1
    loss: Literal["kto", "apo_zero_unpaired"] = "kto"
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0


def train(recipe: Recipe, out: Path, resume: bool = True) -> dict[str, Any]:
    """Run the recipe to its end and return what `run.json` holds."""
    material = begin(recipe, "labelled", out, resume)

    from trl.trainer.kto_config import KTOConfig

    from trainers.methods.kto_trainer import WholeBatchKTO

    trainer = ours(WholeBatchKTO)(
        model=material.base.path,
        args=arguments(
            recipe,
            out,
            KTOConfig,
            loss_type=recipe.loss,
            beta=recipe.beta,
            desirable_weight=recipe.desirable_weight,
            undesirable_weight=recipe.undesirable_weight,
            train_sampling_strategy="sequential",  # the rows are shuffled here, so that mismatched pairs share a batch
        ),
        train_dataset=dataset(material.train, recipe),
        eval_dataset=dataset(material.heldout, recipe) if material.heldout else None,
        processing_class=material.base.tokenizer,
        peft_config=lora(recipe),
    )
    return go(trainer, recipe, METHOD, out, material, resume)


def dataset(rows: list[Tokens], recipe: Recipe) -> Any:
    """Shuffled rows; KL_completion_ids is another answer of the same batch, for the estimate of z₀."""
    from datasets import Dataset

    rows = random.Random(recipe.seed).sample(rows, len(rows))  # noqa: S311 (not for secrets)
    answers = [row.answers["completion"] for row in rows]
    return Dataset.from_dict(
        {
            "prompt_ids": [row.prompt for row in rows],
            "completion_ids": answers,
            "KL_completion_ids": [answers[other(i, len(rows), recipe.batch)] for i in range(len(rows))],
            "label": [row.extra["label"] for row in rows],
        }
    )


def other(index: int, rows: int, batch: int) -> int:
    """The row whose answer goes with this one's prompt: the one before it in its batch, the last for the first."""
    start = index - index % batch
    last = min(start + batch, rows) - 1
    return index - 1 if index > start or last == start else last


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status, as `main_for` gives it."""
    return main_for(METHOD, Recipe, train, argv)


if __name__ == "__main__":
    sys.exit(main())
