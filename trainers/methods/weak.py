"""Weak to strong: a strong reward model from the labels of a weaker one, and how much of the gap it recovers.

    trimtab train weak --config trainers/recipes/weak.yaml --out build/weak

Burns et al. 2023 (arXiv:2312.09390): a weak supervisor, a reward run, says of each pair how sure it is that the chosen
answer is better (OUT/pairs.jsonl); the strong model learns these labels and not the data's own (OUT/strong), trusting
itself with the weight `confidence`. With `ceiling` the strong model also learns the true labels (OUT/ceiling), and
run.json has the performance gap recovered on the held-out pairs: 0 as good as the supervisor, 1 as good as the ceiling.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainers.ask.journal import write_rows
from trainers.data.layouts import data_hash, without_place
from trainers.methods import reward
from trainers.methods.reward_loss import recovered
from trainers.methods.strength import margins
from trainers.run.keys import Common, validate
from trainers.run.model import use_threads
from trainers.run.parts import derived, once, take_final
from trainers.run.recipe import RecipeError
from trainers.run.sets import read_sets
from trainers.run.training import main_for

METHOD = "weak"


@dataclass(frozen=True, kw_only=True)
class Recipe(Common):
    """trainers/recipes/weak.yaml explains each key."""

    supervisor: str = ""
    confidence: float = 0.5
    ceiling: bool = True


def train(recipe: Recipe, out: Path, resume: bool = True) -> dict[str, Any]:
    """Run the recipe to its end and return what `run.json` holds."""
    validate(recipe)
    use_threads(recipe.threads)
    weak = Path(recipe.supervisor)
    if not recipe.supervisor or not (weak / "final").is_dir():
        raise RecipeError("supervisor must be the folder of a finished `trimtab train reward` run")
    if not resume:
        shutil.rmtree(out, ignore_errors=True)
    rows, heldout, _ = read_sets(recipe, "preference")
    if not heldout:
        raise RecipeError("the gap is measured on held-out pairs: set heldout, or heldout_fraction above 0")
    reader = derived(recipe, Common, model=str(weak / "final"), chat_template=None)  # the supervisor's own tokens
    found = margins(reader, [*rows, *heldout], weak)
    labels = [1 / (1 + math.exp(-max(-700.0, gap))) for gap in found[: len(rows)]]
    weak_accuracy = sum(gap > 0 for gap in found[len(rows) :]) / len(heldout)
    labelled = (without_place(row) | {"probability": p} for row, p in zip(rows, labels, strict=True))
    write_rows(out / "pairs.jsonl", labelled)
    write_rows(out / "heldout.jsonl", map(without_place, heldout))
    sets: dict[str, Any] = {
        "train": str(out / "pairs.jsonl"), "heldout": str(out / "heldout.jsonl"), "heldout_fraction": 0.0,
    }  # fmt: skip
    part = derived(recipe, reward.Recipe, **sets, soft=True, confidence=recipe.confidence)
    strong = once(reward.train, part, out / "strong", resume)
    best = None
    if recipe.ceiling:
        best = once(reward.train, derived(recipe, reward.Recipe, **sets), out / "ceiling", resume)
    return finish(recipe, out, weak_accuracy, strong, best)


def finish(
    recipe: Recipe, out: Path, weak: float, strong: dict[str, Any], ceiling: dict[str, Any] | None
) -> dict[str, Any]:
    """OUT/final and run.json."""
    from trainers.run.record import surroundings, write_json

    take_final(out / "strong", out)
    reached = strong["heldout"]["accuracy"]
    top = ceiling["heldout"]["accuracy"] if ceiling else None
    record = {
        "method": METHOD,
        "recipe": asdict(recipe),
        "last": "strong",
        "data_sha256": {"the data of train": data_hash(recipe.train, [])},
        "accuracy": {"weak": weak, "strong": reached, "ceiling": top},
        "gap_recovered": None if top is None else recovered(weak, reached, top),
        "heldout_before": strong.get("heldout_before", {}),
        "heldout": strong["heldout"],
        **surroundings("torch", "transformers", "tokenizers", "accelerate", "trl", "peft"),
    }
    write_json(out / "run.json", record)
    return record


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status, as `main_for` gives it."""
    return main_for(METHOD, Recipe, train, argv)


if __name__ == "__main__":
    sys.exit(main())
