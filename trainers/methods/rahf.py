"""Alignment by representations: what a better prompt does to the hidden states is taught to the model without it.

    trimtab train rahf --config trainers/recipes/rahf.yaml --out build/rahf

Liu et al. 2023 (arXiv:2312.15997), with one contrastive model: it learns the chosen answers under `affix_good` and the
rejected ones under `affix_bad` (OUT/contrast). The difference that the two make to its hidden states at the answers'
tokens, h⁺ - h⁻, is added to the base model's, and a LoRA adapter learns to have the sum without any affix:
L = mean (h_θ - (h₀ + α (h⁺ - h⁻)))² over tokens, layers and dimensions. With α = 0 the loss is 0 at the start.
OUT/steering.safetensors has α (h⁺ - h⁻) of each layer, averaged over the answers' tokens; `trainers.methods.steering`
adds these vectors to a model in this process without any training.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers.ask.journal import write_whole
from trainers.data.affix import affixed
from trainers.data.layouts import read_rows
from trainers.data.messages import Row
from trainers.data.tokens import Tokens, encode_prompt
from trainers.methods import sft
from trainers.run.parts import derived, once, whole
from trainers.run.recipe import RecipeError
from trainers.run.training import Common, arguments, begin, go, lora, main_for, ours

METHOD = "rahf"


@dataclass(frozen=True, kw_only=True)
class Recipe(Common):
    """trainers/recipes/rahf.yaml explains each key."""

    affix_good: str = ""
    affix_bad: str = ""
    strength: float = 1.0
    layers: tuple[int, ...] = ()


def train(recipe: Recipe, out: Path, resume: bool = True) -> dict[str, Any]:
    """Run the recipe to its end and return what `run.json` holds."""
    for name in ("affix_good", "affix_bad"):
        if "{prompt}" not in getattr(recipe, name):
            raise RecipeError(f"{name} must have {{prompt}} in it")
    if not recipe.lora_rank:
        raise RecipeError("rahf trains an adapter on the model that it starts from: set lora_rank")
    contrast = contrastive(recipe, out, resume)
    material = begin(recipe, "preference", out, resume)

    from trl.trainer.sft_config import SFTConfig

    from trainers.methods.rahf_trainer import Represented
    from trainers.methods.steering import chosen_layers
    from trainers.run.weights import load_trained

    layers = chosen_layers(material.base.path, recipe.layers)
    trainer = ours(Represented)(
        contrast=load_trained(contrast),
        strength=recipe.strength,
        layers=layers,
        model=material.base.path,
        args=arguments(recipe, out, SFTConfig),
        train_dataset=dataset(material.train, recipe, material.base.tokenizer),
        eval_dataset=dataset(material.heldout, recipe, material.base.tokenizer) if material.heldout else None,
        processing_class=material.base.tokenizer,
        peft_config=lora(recipe),
    )
    trainer.save_steering(out / "steering.safetensors")
    return go(trainer, recipe, METHOD, out, material, resume, facts={"layers": layers})


def contrastive(recipe: Recipe, out: Path, resume: bool) -> Path:
    """The folder of the model that has learnt good answers under the one affix and bad ones under the other."""
    sides = (("chosen", recipe.affix_good), ("rejected", recipe.affix_bad))
    rows = [
        {"prompt": affixed(row["prompt"], affix), "completion": row[side]}
        for row in read_rows(recipe.train, "preference") for side, affix in sides
    ]  # fmt: skip
    write_whole(out / "contrast.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    part = derived(
        recipe, sft.Recipe, train=str(out / "contrast.jsonl"), heldout=None, heldout_fraction=0.0, best=None, patience=0
    )
    once(sft.train, part, out / "contrast", resume)
    return whole(out / "contrast")


def dataset(rows: list[Tokens], recipe: Recipe, tokenizer: Any) -> Any:
    """plain, good and bad: the prompt, and its two variants, each followed by the same answer; and answer, its tokens.

    The answer is cut so that it fits into max_length after the longest of the three.
    """
    from datasets import Dataset

    found: dict[str, list[Any]] = {name: [] for name in ("plain", "good", "bad", "answer")}
    raw = prompts(recipe)
    for row in rows:
        heads = [row.prompt, *(encode_prompt(text, tokenizer) for text in raw[row.place])]
        answer = row.answers["chosen"][: max(1, recipe.max_length - max(map(len, heads)))]
        for name, head in zip(("plain", "good", "bad"), heads, strict=True):
            found[name].append(head + answer)
        found["answer"].append(len(answer))
    return Dataset.from_dict(found)


def prompts(recipe: Recipe) -> dict[str, tuple[Any, Any]]:
    """The two variants of each row's prompt, by the row's place."""
    rows: list[Row] = read_rows(recipe.train, "preference")
    rows += read_rows(recipe.heldout, "preference") if recipe.heldout else []
    affixes = (recipe.affix_good, recipe.affix_bad)
    return {row["place"]: (affixed(row["prompt"], affixes[0]), affixed(row["prompt"], affixes[1])) for row in rows}


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status, as `main_for` gives it."""
    return main_for(METHOD, Recipe, train, argv)


if __name__ == "__main__":
    sys.exit(main())
