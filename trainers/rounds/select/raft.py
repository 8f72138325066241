"""RAFT and best-of-n distillation: learn the best of K samples (Dong et al. 2023, arXiv:2304.06767, algorithm 1)."""

from random import Random
from typing import Any

from trainers.rounds.group import Choice, Group


def best(group: Group, choice: Choice, draw: Random) -> list[dict[str, Any]]:
    """The sample with the highest score, as a row of prompt and completion; of equals one drawn by chance.

    With one sample it is self-distillation, which leaves the expected logits as they are; with ever more the mass goes
    to the highest score.
    """
    if not group.samples:
        return []
    highest = max(scored.score for scored in group.samples)
    chosen = draw.choice([scored for scored in group.samples if scored.score == highest])
    return [{"prompt": group.prompt, "completion": group.answer(chosen.text)}]
