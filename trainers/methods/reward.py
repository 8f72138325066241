"""A reward model: one number for an answer, higher for the one that people chose.

    trimtab train reward --config trainers/recipes/reward.yaml --out build/reward

Bradley-Terry (Ouyang et al. 2022, arXiv:2203.02155, eq. 1): L = -log σ(r(x, y_w) - r(x, y_l) - m), where m is the
row's margin (Touvron et al. 2023, arXiv:2307.09288, eq. 2) and 0 where the data has none. The number is read at the
answer's end token. `final` is a sequence-classification model with one label. Labels may be probabilities (`soft`),
rows weights (`weighted`), and the model may trust itself against weak labels (`confidence`): see `reward_loss`.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers.data.jsonl import DataError
from trainers.data.tokens import Tokens
from trainers.run.recipe import RecipeError
from trainers.run.training import Common, arguments, begin, go, lora, main_for, ours, validate
from trainers.run.wilson import wilson

METHOD = "reward"


@dataclass(frozen=True, kw_only=True)
class Recipe(Common):
    """`margin`: read each row's margin; `center`: weight of (r_w + r_l)², which keeps rewards around 0.

    `soft`: read each row's `probability` that the chosen answer is better; `confidence`: α of `reward_loss.confident`;
    `weighted`: read each row's `weight`.
    """

    margin: bool = False
    center: float | None = None
    soft: bool = False
    confidence: float = 0.0
    weighted: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """The numbers that are read of each row."""
        given = {"margin": self.margin, "probability": self.soft, "weight": self.weighted}
        return tuple(name for name, wanted in given.items() if wanted)


def check(recipe: Recipe) -> None:
    """Refuse what could only fail later."""
    validate(recipe)
    if not 0 <= recipe.confidence <= 1:
        raise RecipeError("confidence must be from 0 to 1")


def train(recipe: Recipe, out: Path, resume: bool = True) -> dict[str, Any]:
    """Run the recipe to its end and return what `run.json` holds."""
    check(recipe)
    material = begin(recipe, "preference", out, resume)

    from trl.trainer.reward_config import RewardConfig

    from trainers.methods.reward_trainer import CountingReward

    trainer = ours(CountingReward)(
        model=material.base.path,
        args=arguments(recipe, out, RewardConfig, center_rewards_coefficient=recipe.center),
        confidence=recipe.confidence,
        train_dataset=dataset(material.train, recipe.columns),
        eval_dataset=dataset(material.heldout, ("margin",) * recipe.margin) if material.heldout else None,
        processing_class=material.base.tokenizer,
        peft_config=lora(recipe, "SEQ_CLS"),
    )
    return go(trainer, recipe, METHOD, out, material, resume, also=surely)


def dataset(rows: list[Tokens], numbers: Sequence[str]) -> Any:
    """chosen_ids, rejected_ids and the columns `numbers` (float); DataError for a row that lacks one."""
    from datasets import Dataset

    columns: dict[str, Any] = {f"{name}_ids": [row.whole(name) for row in rows] for name in ("chosen", "rejected")}
    for name in numbers:
        if without := [row.place for row in rows if name not in row.extra]:
            key = {"probability": "soft", "weight": "weighted"}.get(name, name)
            raise DataError(f"{without[0]}: {key}: true, and this row has no {name} ({len(without)} rows have none)")
        columns[name] = [row.extra[name] for row in rows]
        most = {"probability": 1.0, "weight": float("inf")}.get(name)
        if most and (wrong := [row for row in rows if not 0 <= row.extra[name] <= most]):
            limits = "from 0 to 1" if most == 1 else "0 or more"
            raise DataError(f"{wrong[0].place}: {name} must be {limits}, not {wrong[0].extra[name]:g}")
    return Dataset.from_dict(columns)


def surely(found: dict[str, float]) -> dict[str, Any]:
    """How far the held-out accuracy can be trusted: its 95% interval, and what no model at all would score."""
    pairs = round(found["pairs"])
    interval_95 = list(wilson(found["accuracy"], pairs))
    return {"pairs": pairs, "accuracy_95": interval_95, "accuracy_of_a_constant": 0.5}


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status, as `main_for` gives it."""
    return main_for(METHOD, Recipe, train, argv)


if __name__ == "__main__":
    sys.exit(main())
