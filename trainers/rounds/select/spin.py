"""SPIN: the data's answer against the actor's own (Chen et al. 2024, arXiv:2401.01335, equation 4.7)."""

from random import Random
from typing import Any

from trainers.rounds.group import Choice, Group


def own(group: Group, choice: Choice, draw: Random) -> list[dict[str, Any]]:
    """A pair for each different sample that is not the data's answer; scores are not read.

    Where the actor writes as the data does, the expected gradient is zero: that is where the rounds end.
    """
    gold = group.gold if isinstance(group.gold, str) else group.gold[-1]["content"]
    return [
        {"prompt": group.prompt, "chosen": group.answer(gold), "rejected": group.answer(scored.text)}
        for scored in group.unique()
        if scored.text.strip() != gold.strip()
    ]
