"""RLCD: answers to a better variant of the prompt against those to a worse one (Yang et al. 2023, arXiv:2307.12950)."""

from random import Random
from typing import Any

from trainers.rounds.group import Choice, Group
from trainers.rounds.sample import Prompt


def contrast(group: Group, choice: Choice, draw: Random) -> list[dict[str, Any]]:
    """A pair for each two samples, by position: y₊ ≻ y₋, under the prompt without its affixes; scores are not read.

    Where both variants are the same, which of two samples is y₊ is chance.
    """
    return [
        {"prompt": group.prompt, "chosen": group.answer(good.text), "rejected": group.answer(bad.text)}
        for good, bad in zip(group.samples, group.others, strict=False)
        if good.text != bad.text
    ]


def affixed(prompt: Prompt, affix: str) -> Prompt:
    """The prompt, or its last turn, in the place of {prompt}."""
    if isinstance(prompt, str):
        return affix.replace("{prompt}", prompt)
    *before, last = prompt
    return [*before, {**last, "content": affix.replace("{prompt}", last["content"])}]
