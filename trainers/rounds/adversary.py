"""APO: before each round the reward model learns to tell the data's answers from the actor's own, as a GAN's does.

Cheng et al. 2023 (arXiv:2311.08045, equations 8 and 9): the reward model minimises Bradley-Terry on people's pairs plus
`gold_weight` times Bradley-Terry on (the data's answer ≻ a sample of the actor); the actor then learns the samples that
this reward model likes. With a weight of 0 it is Bradley-Terry on the pairs alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainers.ask.journal import write_rows
from trainers.data.layouts import read_rows, without_place
from trainers.data.messages import Row
from trainers.methods import reward
from trainers.rounds.group import Group
from trainers.rounds.round_recipe import Recipe
from trainers.rounds.score import RewardScorer
from trainers.rounds.sources import Answered
from trainers.run.parts import derived, once, whole


def trained(recipe: Recipe, found: Answered, rows: Sequence[Row], number: int, folder: Path) -> RewardScorer:
    """The round's reward model, in FOLDER/reward, from the samples in `found`, which need no scores."""
    pairs = [without_place(row) for row in read_rows(recipe.pairs, "preference")]
    own = against_gold(found, rows) if recipe.gold_weight else []
    if own:
        pairs = [{**row, "weight": 1.0} for row in pairs] + [{**row, "weight": recipe.gold_weight} for row in own]
    data = folder / "reward.jsonl"
    write_rows(data, pairs)
    part = derived(
        replace(recipe, best=None), reward.Recipe, model=recipe.reward_base or recipe.model, train=str(data),
        heldout=None, heldout_fraction=0.0, weighted=bool(own), seed=recipe.seed + number,
    )  # fmt: skip
    once(reward.train, part, folder / "reward", resume=True)
    return RewardScorer(whole(folder / "reward"))


def against_gold(found: Answered, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The data's answer against each different sample of its prompt that is whole and another one."""
    pairs = []
    for prompt, some, row in zip(found.prompts, found.samples, rows, strict=True):
        group = Group(prompt, (), row["completion"])
        gold = row["completion"] if isinstance(row["completion"], str) else row["completion"][-1]["content"]
        texts = dict.fromkeys(sample.text for sample in some if sample.finish == "stop" and sample.text.strip())
        pairs += [
            {"prompt": prompt, "chosen": group.answer(gold), "rejected": group.answer(text)}
            for text in texts if text.strip() != gold.strip()
        ]  # fmt: skip
    return pairs
