"""RLCD: answers to a better variant of the prompt against those to a worse one (Yang et al. 2023, arXiv:2307.12950)."""

from random import Random
from typing import Any

from trainers.rounds.group import Choice, Group


def contrast(group: Group, choice: Choice, draw: Random) -> list[dict[str, Any]]:
    """A pair for each two samples, by position: y₊ ≻ y₋, under the prompt without its affixes; scores are not read.

    Where both variants are the same, which of two samples is y₊ is chance.
    """
    return [
        {"prompt": group.prompt, "chosen": group.answer(good.text), "rejected": group.answer(bad.text)}
        for good, bad in zip(group.samples, group.others, strict=False)
        if good.text != bad.text
    ]
