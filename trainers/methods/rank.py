"""Training on lists of scored answers: RRHF, ListMLE, or a pair loss over all pairs of a list.

    trimtab train rank --config trainers/recipes/rank.yaml --out build/rank

Rows are prompt, answers (a list of texts) and scores (a number each); a preference pair is a list of two. RRHF (Yuan et
al. 2023, arXiv:2304.05302): Σ_{r_i > r_j} max(0, s̄_j − s̄_i) and the NLL of the best answer.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers.data.tokens import Tokens
from trainers.methods.listwise import LIST_LOSSES
from trainers.run.recipe import RecipeError
from trainers.run.training import Common, arguments, begin, go, lora, main_for, ours, validate

METHOD = "rank"


@dataclass(frozen=True, kw_only=True)
class Recipe(Common):
    """None stands for what the loss's paper has; trainers/recipes/rank.yaml explains each key."""

    loss: str = "rrhf"
    beta: float | None = None
    margin: float | None = None
    sft_weight: float | None = None


def settings_of(recipe: Recipe) -> dict[str, float]:
    """beta, margin and sft_weight of the loss; RecipeError for one that it would ignore."""
    loss = LIST_LOSSES.get(recipe.loss)
    if loss is None:
        raise RecipeError(f"no list loss {recipe.loss!r}; list losses: {', '.join(LIST_LOSSES)}")
    given = {name: value for name in ("beta", "margin") if (value := getattr(recipe, name)) is not None}
    if unread := [name for name in given if name not in loss.reads]:
        raise RecipeError(f"loss {recipe.loss} does not read {', '.join(unread)}")
    weight = loss.sft if recipe.sft_weight is None else recipe.sft_weight
    return {**loss.reads, **given, "sft_weight": weight}


def check(recipe: Recipe) -> None:
    """Refuse what could only fail later."""
    validate(recipe)
    settings_of(recipe)


def train(recipe: Recipe, out: Path, resume: bool = True) -> dict[str, Any]:
    """Run the recipe to its end and return what `run.json` holds."""
    settings = settings_of(recipe)
    material = begin(recipe, "ranking", out, resume)

    from trainers.methods.rank_trainer import RankConfig, RankTrainer

    trainer = ours(RankTrainer)(
        model=material.base.path,
        args=arguments(recipe, out, RankConfig, loss=recipe.loss, **settings),
        train_dataset=dataset(material.train),
        eval_dataset=dataset(material.heldout) if material.heldout else None,
        processing_class=material.base.tokenizer,
        peft_config=lora(recipe),
    )
    loss = LIST_LOSSES[recipe.loss]
    facts = {"loss": {"name": recipe.loss, "formula": loss.formula, "paper": loss.paper, **settings}}
    return go(trainer, recipe, METHOD, out, material, resume, facts=facts)


def dataset(rows: list[Tokens]) -> Any:
    """A datasets.Dataset of prompt_ids, answer_ids (a list of lists) and scores."""
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "prompt_ids": [row.prompt for row in rows],
            "answer_ids": [list(row.answers.values()) for row in rows],
            "scores": [row.extra["scores"] for row in rows],
        }
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status, as `main_for` gives it."""
    return main_for(METHOD, Recipe, train, argv)


if __name__ == "__main__":
    sys.exit(main())
