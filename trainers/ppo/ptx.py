"""The NLL of rows that the policy should not forget, mixed into its updates (PPO-ptx, arXiv 2203.02155, equation 2)."""

from __future__ import annotations

from typing import Any

import torch

from trainers.data.layouts import read_rows
from trainers.data.tokens import encode, ended, ids_of
from trainers.ppo.ppo_recipe import Recipe
from trainers.ppo.world import World
from trainers.rounds.prompt_set import stretch
from trainers.run.recipe import RecipeError

Row = tuple[list[int], int]  # ids, and where the tokens begin that count


class Ptx:
    """Owns the rows; every update takes as many as it has answers, one stretch after the other."""

    def __init__(self, recipe: Recipe, tokenizer: Any, world: World) -> None:
        self.recipe, self.world, self.pad = recipe, world, tokenizer.pad_token_id
        self.rows = [row for row in rows_of(recipe, tokenizer) if len(row[0]) > row[1]]
        if not self.rows:
            raise RecipeError(f"ptx_data {recipe.ptx_data}: no row is left to learn from")

    def backward(self, actor: Any, update: int, weight: float) -> float:
        """Add weight · NLL's gradient, per token of the update's rows; this process's share of the mean NLL."""
        rows = stretch(self.rows, self.recipe.rows_per_update, update, self.recipe.seed)
        tokens = sum(len(ids) - start for ids, start in rows)
        size = len(rows) // self.world.number
        mine = rows[self.world.rank * size : (self.world.rank + 1) * size]
        total = 0.0
        for at in range(0, size, self.recipe.micro_batch):
            ids, attention, labels = self._batch(mine[at : at + self.recipe.micro_batch])
            logits = actor.bare(input_ids=ids, attention_mask=attention, use_cache=False).logits[:, :-1].float()
            nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
            (weight * nll / tokens).backward()  # type: ignore[no-untyped-call]
            total += float(nll.detach()) / tokens
        return total

    def _batch(self, rows: list[Row]) -> tuple[torch.Tensor, ...]:
        longest = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([row + [self.pad] * (longest - len(row)) for row, _ in rows])
        attention = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row, _ in rows])
        labels = torch.tensor([
            [-100] * start + row[start:] + [-100] * (longest - len(row)) for row, start in rows
        ])  # fmt: skip
        return tuple(each.to(self.world.device) for each in (ids, attention, labels))


def rows_of(recipe: Recipe, tokenizer: Any) -> list[Row]:
    """Token ids of ptx_data, cut at max_length; of a completion only the answer counts, of a text all but its first."""
    found = []
    for row in read_rows(recipe.ptx_data, recipe.ptx_kind):
        if recipe.ptx_kind == "completion":
            tokens = encode(row, tokenizer)
            found.append((tokens.whole("completion")[: recipe.max_length], len(tokens.prompt)))
        else:
            found.append((ended(ids_of(row["text"], tokenizer, begin=True), tokenizer)[: recipe.max_length], 1))
    return found
