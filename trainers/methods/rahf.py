"""Alignment by representations: what a better prompt does to the hidden states is taught to the model without it.

    trimtab train rahf --config trainers/recipes/rahf.yaml --out build/rahf

Liu et al. 2023 (arXiv:2312.15997), with one contrastive model: it learns the chosen answers under `affix_good` and the
rejected ones under `affix_bad` (OUT/contrast). The difference that the two make to its hidden states at the answers'
tokens, h⁺ - h⁻, is added to the base model's, and a LoRA adapter learns to have the sum without any affix:
L = mean (h_θ - (h₀ + α (h⁺ - h⁻)))² over tokens, layers and dimensions. With α = 0 the loss is 0 at the start.
OUT/steering.safetensors has α (h⁺ - h⁻) of each layer, averaged over the answers' tokens; `trainers.methods.steering`
adds these vectors to a model in this process without any training.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers.ask.journal import write_rows
from trainers.data.affix import affixed
from trainers.data.messages import Row
from trainers.data.tokens import Tokens, encode_prompt
from trainers.methods import sft
from trainers.run.keys import validate
from trainers.run.parts import derived, once, whole
from trainers.run.recipe import RecipeError
from trainers.run.sets import read_sets
from trainers.run.training import Common, arguments, begin, go, lora, main_for, ours

METHOD = "rahf"


@dataclass(frozen=True, kw_only=True)
class Recipe(Common):
    """trainers/recipes/rahf.yaml explains each key."""

    affix_good: str = ""
    affix_bad: str = ""
    strength: float = 1.0
    layers: tuple[int, ...] = ()


def check(recipe: Recipe) -> None:
    """Refuse what could only fail later."""
    validate(recipe)
    for name in ("affix_good", "affix_bad"):
        if "{prompt}" not in getattr(recipe, name):
            raise RecipeError(f"{name} must have {{prompt}} in it")
    if not recipe.lora_rank:
        raise RecipeError("rahf trains an adapter on the model that it starts from: set lora_rank")


def train(recipe: Recipe, out: Path, resume: bool = True) -> dict[str, Any]:
    """Run the recipe to its end and return what `run.json` holds."""
    check(recipe)
    learn, heldout, _ = read_sets(recipe, "preference")
    contrast = contrastive(recipe, learn, out, resume)
    material = begin(recipe, "preference", out, resume)

    from trl.trainer.sft_config import SFTConfig

    from trainers.methods.rahf_trainer import Represented
    from trainers.methods.steering import chosen_layers
    from trainers.run.weights import load_trained

    affixes = (recipe.affix_good, recipe.affix_bad)
    variants = {row["place"]: [affixed(row["prompt"], affix) for affix in affixes] for row in (*learn, *heldout)}
    layers = chosen_layers(material.base.path, recipe.layers)
    test = None
    if material.heldout:
        test = dataset(material.heldout, variants, recipe.max_length, material.base.tokenizer)
    trainer = ours(Represented)(
        contrast=load_trained(contrast),
        strength=recipe.strength,
        layers=layers,
        model=material.base.path,
        args=arguments(recipe, out, SFTConfig),
        train_dataset=dataset(material.train, variants, recipe.max_length, material.base.tokenizer),
        eval_dataset=test,
        processing_class=material.base.tokenizer,
        peft_config=lora(recipe),
    )
    trainer.save_steering(out / "steering.safetensors")
    return go(trainer, recipe, METHOD, out, material, resume, facts={"layers": layers})


def contrastive(recipe: Recipe, learn: Sequence[Row], out: Path, resume: bool) -> Path:
    """The folder of the model that has learnt good answers under the one affix and bad ones under the other."""
    sides = (("chosen", recipe.affix_good), ("rejected", recipe.affix_bad))
    rows = [
        {"prompt": affixed(row["prompt"], affix), "completion": row[side]}
        for row in learn for side, affix in sides
    ]  # fmt: skip
    write_rows(out / "contrast.jsonl", rows)
    part = derived(
        recipe, sft.Recipe, train=str(out / "contrast.jsonl"), heldout=None, heldout_fraction=0.0, best=None, patience=0
    )
    once(sft.train, part, out / "contrast", resume)
    return whole(out / "contrast")


def dataset(rows: list[Tokens], variants: Mapping[str, list[Any]], max_length: int, tokenizer: Any) -> Any:
    """plain, good and bad: the prompt, and its two variants, each followed by the same answer; and answer, its tokens.

    The answer is cut so that it fits into max_length after the longest of the three.

    Args:
        variants: the two prompts with affixes, the good one first, by the row's place.
    """
    from datasets import Dataset

    found: dict[str, list[Any]] = {name: [] for name in ("plain", "good", "bad", "answer")}
    for row in rows:
        heads = [row.prompt, *(encode_prompt(text, tokenizer) for text in variants[row.place])]
        answer = row.answers["chosen"][: max(1, max_length - max(map(len, heads)))]
        for name, head in zip(("plain", "good", "bad"), heads, strict=True):
            found[name].append(head + answer)
        found["answer"].append(len(answer))
    return Dataset.from_dict(found)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status, as `main_for` gives it."""
    return main_for(METHOD, Recipe, train, argv)


if __name__ == "__main__":
    sys.exit(main())
