"""The prompts of the rounds: read, split, and as many as each round takes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

from trainers.data.layouts import Kind, data_hash, read_rows, split
from trainers.data.messages import Row
from trainers.rounds.round_recipe import Recipe

R = TypeVar("R")


def read_prompts(recipe: Recipe) -> tuple[list[Row], list[Row], dict[str, str]]:
    """Prompts to learn on, prompts held out, and the hashes of what they were read from."""
    kind: Kind = "completion" if recipe.row.gold else "prompt"
    rows = read_rows(recipe.train, kind)
    hashes = {"the data of train": data_hash(recipe.train, rows)}
    if recipe.heldout is not None:
        heldout = read_rows(recipe.heldout, kind)
        hashes["the data of heldout"] = data_hash(recipe.heldout, heldout)
    else:
        rows, heldout = split(rows, recipe.heldout_fraction, recipe.seed)
    return rows, heldout if recipe.scorer != "none" else [], hashes


def of_round(recipe: Recipe, rows: Sequence[Row], number: int) -> list[Row]:
    """All prompts, or as many as a round takes."""
    size = recipe.prompts_per_round
    return list(rows) if size is None or size >= len(rows) else stretch(rows, size, number, recipe.seed)


def stretch(rows: Sequence[R], size: int, number: int, seed: int) -> list[R]:
    """The `number`th stretch of `size` rows: one after the other of an order drawn once for each pass."""
    found = []
    for place in range(number * size, (number + 1) * size):
        turn, at = divmod(place, len(rows))
        order = random.Random(f"{seed}/{turn}").sample(range(len(rows)), len(rows))  # noqa: S311 (no secret)
        found.append(rows[order[at]])
    return found
