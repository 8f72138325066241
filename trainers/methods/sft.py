"""Supervised fine-tuning: the likelihood of given answers, of the answers alone.

    trimtab train sft --config trainers/recipes/sft.yaml --out build/sft

Ouyang et al. 2022 (arXiv:2203.02155), step 1: L = -Σ_t m_t log π(y_t | x, y_<t) / Σ_t m_t, where m marks the tokens
that count and both sums run over the whole batch, however it is split into micro-batches.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers.data.tokens import LossOn, Tokens
from trainers.run.recipe import RecipeError
from trainers.run.training import Common, arguments, begin, go, lora, main_for, ours

METHOD = "sft"


@dataclass(frozen=True, kw_only=True)
class Recipe(Common):
    """`loss_on`: which tokens the loss counts; `packing`: several rows in one sequence."""

    loss_on: LossOn = "completion"
    packing: bool = False


def train(recipe: Recipe, out: Path, resume: bool = True) -> dict[str, Any]:
    """Run the recipe to its end and return what `run.json` holds."""
    material = begin(recipe, "completion", out, resume, recipe.loss_on)

    from trl.data_utils import pack_dataset
    from trl.trainer.sft_config import SFTConfig

    from trainers.methods.sft_trainer import CountingSFT

    train_set = dataset(material.train)
    if recipe.packing:
        train_set = pack_dataset(train_set.shuffle(seed=recipe.seed), recipe.max_length, "bfd")
    trainer = ours(CountingSFT)(
        model=material.base.path,
        args=arguments(recipe, out, SFTConfig, packing=recipe.packing, eval_packing=False),
        train_dataset=train_set,
        eval_dataset=dataset(material.heldout) if material.heldout else None,
        processing_class=material.base.tokenizer,
        peft_config=lora(recipe),
    )
    if recipe.packing:
        prove_packing(trainer, material.train)
    return go(trainer, recipe, METHOD, out, material, resume)


def dataset(rows: list[Tokens]) -> Any:
    """Token ids and labels; -100 where the loss does not count."""
    from datasets import Dataset

    ids = [row.whole("completion") for row in rows]
    labels = [
        [i if m else -100 for i, m in zip(each, row.learned, strict=True)] for each, row in zip(ids, rows, strict=True)
    ]
    return Dataset.from_dict({"input_ids": ids, "labels": labels})


def prove_packing(trainer: Any, rows: list[Tokens]) -> None:
    """Refuse to pack where a row would see the one before it: two rows must mean the same packed as apart."""
    import torch

    model = trainer.model.eval()
    first, second = (torch.tensor([row.whole("completion")[:64]], device=model.device) for row in (rows * 2)[:2])
    places = torch.cat([torch.arange(first.shape[1]), torch.arange(second.shape[1])])[None].to(model.device)
    with torch.no_grad():
        packed = model(input_ids=torch.cat([first, second], 1), position_ids=places, use_cache=False).logits
        alone = model(input_ids=second, use_cache=False).logits
    model.train()
    drift = (packed[:, first.shape[1] :] - alone).abs().max().item()
    if drift > 0.01 * alone.abs().max().item():
        raise RecipeError(
            f"packing: this model lets packed rows see each other (logits move by {drift:.2g}); turn it off"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status, as `main_for` gives it."""
    return main_for(METHOD, Recipe, train, argv)


if __name__ == "__main__":
    sys.exit(main())
