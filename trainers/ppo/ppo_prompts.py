"""The prompts of a run, as scorers and as the actor see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainers.data.jsonl import DataError
from trainers.data.messages import spoken
from trainers.ppo.collect import Ask
from trainers.ppo.ppo_recipe import Recipe
from trainers.run.sets import Material, read_sets


def asks_of(recipe: Recipe, material: Material) -> tuple[list[Ask], list[Ask]]:
    """Prompts to learn on and held-out ones; DataError where one leaves no room for an answer, unless it is dropped."""
    rows, heldout, _ = read_sets(recipe, "prompt")
    texts = {row["place"]: row["prompt"] for row in (*rows, *heldout)}
    template = material.base.tokenizer.chat_template
    room = recipe.max_length - recipe.max_new_tokens
    long = [tokens.place for tokens in (*material.train, *material.heldout) if len(tokens.prompt) > room]
    if long and recipe.unusable == "error":
        raise DataError(
            f"{long[0]}: the prompt leaves no room for max_new_tokens ({recipe.max_new_tokens}) in max_length "
            f"({recipe.max_length}): {len(long)} row(s); --set unusable=drop leaves them out"
        )

    def asks(some: Sequence[Any]) -> list[Ask]:
        return [
            Ask(spoken(texts[tokens.place], "user") if template else texts[tokens.place], tokens.prompt)
            for tokens in some if len(tokens.prompt) <= room
        ]  # fmt: skip

    found = asks(material.train), asks(material.heldout)
    if not found[0]:
        raise DataError(f"{recipe.train}: no prompt is left to learn on")
    return found
