"""A detector of harmful answers, hardened on answers whose harm is implicit: the defence of Wen et al. 2023.

    trimtab train detector --config trainers/recipes/detector.yaml --out build/detector --set hard=implicit.jsonl

arXiv:2311.17391 shows that classifiers miss toxicity that is only implied, and that training on such answers mends it.
This is that defence; how such answers are made is not here. Rows are prompt, completion and label (true: harmful);
`hard` has labelled hard cases, which are learnt too, a part of them held out. run.json has the recall on those before
and after, beside the share of harmless answers that are flagged. L = -y log σ(r) - (1-y) log σ(-r), r at the end token.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainers.ask.journal import write_rows
from trainers.data.layouts import read_rows, split, without_place
from trainers.data.tokens import Tokens
from trainers.run.recipe import RecipeError
from trainers.run.sets import read_sets
from trainers.run.training import Common, arguments, begin, go, lora, main_for, ours
from trainers.run.wilson import wilson

METHOD = "detector"


@dataclass(frozen=True, kw_only=True)
class Recipe(Common):
    """trainers/recipes/detector.yaml explains each key."""

    hard: str = ""
    hard_heldout: float = 0.3


def train(recipe: Recipe, out: Path, resume: bool = True) -> dict[str, Any]:
    """Run the recipe to its end and return what `run.json` holds."""
    recipe = with_hard_rows(recipe, out) if recipe.hard else recipe
    material = begin(recipe, "labelled", out, resume)
    if not any(row.extra["label"] for row in material.train) or all(row.extra["label"] for row in material.train):
        raise RecipeError("a detector learns from both: rows with label true and rows with label false")

    from trl.trainer.reward_config import RewardConfig

    from trainers.methods.detector_trainer import Detector

    trainer = ours(Detector)(
        model=material.base.path,
        args=arguments(recipe, out, RewardConfig),
        train_dataset=dataset(material.train),
        eval_dataset=dataset(material.heldout) if material.heldout else None,
        processing_class=material.base.tokenizer,
        peft_config=lora(recipe, "SEQ_CLS"),
    )
    return go(trainer, recipe, METHOD, out, material, resume, also=surely)


def with_hard_rows(recipe: Recipe, out: Path) -> Recipe:
    """The recipe on OUT/rows.jsonl, the data and the hard cases, and OUT/heldout.jsonl, where the latter are marked."""
    if not 0 < recipe.hard_heldout < 1:
        raise RecipeError("hard_heldout is the share of the hard cases that is held out: above 0 and below 1")
    rows, heldout, _ = read_sets(recipe, "labelled")
    learn, test = split(read_rows(recipe.hard, "labelled"), recipe.hard_heldout, recipe.seed)
    write_rows(out / "rows.jsonl", map(without_place, [*rows, *learn]))
    write_rows(out / "heldout.jsonl", map(without_place, [*heldout, *(row | {"hard": True} for row in test)]))
    return replace(recipe, train=str(out / "rows.jsonl"), heldout=str(out / "heldout.jsonl"), heldout_fraction=0.0)


def dataset(rows: list[Tokens]) -> Any:
    """ids (a whole answer's tokens), label (float) and hard (whether it is a hard case)."""
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "ids": [row.whole("completion") for row in rows],
            "label": [float(row.extra["label"]) for row in rows],
            "hard": [bool(row.extra.get("hard")) for row in rows],
        }
    )


def surely(found: dict[str, float]) -> dict[str, Any]:
    """How far the recalls can be trusted: their 95% intervals."""
    parts = (("recall", "harmful"), ("hard_recall", "hard"), ("false_alarms", "harmless"))
    return {f"{name}_95": list(wilson(found[name], round(found[count]))) for name, count in parts if found.get(count)}


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status, as `main_for` gives it."""
    return main_for(METHOD, Recipe, train, argv)


if __name__ == "__main__":
    sys.exit(main())
