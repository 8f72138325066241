"""A reward model from noisy preferences: an ensemble finds wrong labels, which are turned, and sets each pair's margin.

    trimtab train strength --config trainers/recipes/strength.yaml --out build/strength

Wang et al. 2024 (arXiv:2401.06080). `models` reward models are trained on the same pairs with different seeds
(OUT/model-N); each pair's strength is the mean of their margins. Pairs of the lowest `turn_share` that the ensemble
rejects are turned, and the final reward model (OUT/corrected) learns with the strength as its margin. OUT/pairs.jsonl
has every pair with its strength. Held-out pairs keep the labels that they came with.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainers.ask.journal import write_rows
from trainers.data.layouts import data_hash, without_place
from trainers.data.messages import Row
from trainers.data.tokens import cut, encode_rows
from trainers.methods import reward
from trainers.run.keys import Common, validate
from trainers.run.model import load, use_threads
from trainers.run.parts import derived, once, take_final
from trainers.run.recipe import RecipeError
from trainers.run.sets import read_sets
from trainers.run.training import main_for

METHOD = "strength"


@dataclass(frozen=True, kw_only=True)
class Recipe(Common):
    """trainers/recipes/strength.yaml explains each key."""

    models: int = 5
    turn_share: float = 0.1
    center: float | None = None


def check(recipe: Recipe) -> None:
    """Refuse what could only fail later."""
    validate(recipe)
    use_threads(recipe.threads)
    if recipe.models < 2:
        raise RecipeError("models must be at least 2: one model cannot disagree with itself")
    if not 0 <= recipe.turn_share < 0.5:
        raise RecipeError("turn_share must be at least 0 and below 0.5")


def train(recipe: Recipe, out: Path, resume: bool = True) -> dict[str, Any]:
    """Run the recipe to its end and return what `run.json` holds."""
    check(recipe)
    if not resume:
        shutil.rmtree(out, ignore_errors=True)
    rows, heldout, _ = read_sets(recipe, "preference")
    learn, held = out / "train.jsonl", out / "heldout.jsonl"
    write_rows(learn, map(without_place, rows))
    write_rows(held, [without_place(row) | {"margin": 0.0} for row in heldout])  # measured by the plain loss
    runs = [out / f"model-{number}" for number in range(recipe.models)]
    for number, folder in enumerate(runs):
        part = derived(
            recipe, reward.Recipe, train=str(learn), heldout=None, heldout_fraction=0.0, seed=recipe.seed + number,
            center=recipe.center, best=None, patience=0,
        )  # fmt: skip
        once(reward.train, part, folder, resume)
    corrected, counts = judged(recipe, rows, runs)
    write_rows(out / "pairs.jsonl", corrected)
    final = derived(
        recipe, reward.Recipe, train=str(out / "pairs.jsonl"), heldout=str(held) if heldout else None, margin=True,
        heldout_fraction=0.0, center=recipe.center,
    )  # fmt: skip
    run = once(reward.train, final, out / "corrected", resume)
    return finish(recipe, out, counts, run)


def judged(recipe: Recipe, rows: list[Row], runs: Sequence[Path]) -> tuple[list[Row], dict[str, Any]]:
    """The pairs with strength, its spread and margin, the rejected ones turned; and how many these are."""
    import torch

    from trainers.methods.label_noise import adaptive_margin, rejected_labels, strength

    found = torch.tensor([margins(recipe, rows, run) for run in runs], dtype=torch.float64)
    mean, spread = strength(found)
    turned = rejected_labels(mean, recipe.turn_share)
    margin = adaptive_margin(mean, turned)
    corrected = [
        {
            **{key: row[key] for key in ("prompt", "chosen", "rejected")},
            **({"chosen": row["rejected"], "rejected": row["chosen"]} if turned[at] else {}),
            "margin": round(float(margin[at]), 6), "strength": round(float(mean[at]), 6),
            "spread": round(float(spread[at]), 6), "turned": bool(turned[at]), "from": row["place"],
        }
        for at, row in enumerate(rows)
    ]  # fmt: skip
    agreed = float((mean > 0).double().mean())
    return corrected, {"pairs": len(rows), "turned": int(turned.sum()), "agreed_with_the_label": agreed}


def margins(recipe: Common, rows: list[Row], run: Path) -> list[float]:
    """r(x, y_w) − r(x, y_l) of each pair by the reward model of a run, read at the end tokens."""
    import torch

    from trainers.run.weights import load_trained

    tokenizer = load(recipe).tokenizer
    model = load_trained(run / "final").to("cuda" if torch.cuda.is_available() else "cpu")
    found = []
    with torch.no_grad():
        for row in encode_rows(rows, tokenizer):
            kept = cut(row, recipe.max_length)
            two = (torch.tensor([kept.whole(name)], device=model.device) for name in ("chosen", "rejected"))
            chosen, rejected = (float(model(ids).logits[0, 0]) for ids in two)
            found.append(chosen - rejected)
    return found


def finish(recipe: Recipe, out: Path, counts: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    """OUT/final and run.json."""
    from trainers.run.record import surroundings, write_json

    take_final(out / "corrected", out)
    record = {
        "method": METHOD,
        "recipe": asdict(recipe),
        "last": "corrected",
        "data_sha256": {"the data of train": data_hash(recipe.train, [])},
        "labels": counts,
        "heldout_before": run.get("heldout_before", {}),
        "heldout": run.get("heldout", {}),
        **surroundings("torch", "transformers", "tokenizers", "accelerate", "trl", "peft"),
    }
    write_json(out / "run.json", record)
    return record


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status, as `main_for` gives it."""
    return main_for(METHOD, Recipe, train, argv)


if __name__ == "__main__":
    sys.exit(main())
