"""RRHF: the whole list of samples with their scores (Yuan et al. 2023, arXiv:2304.05302), for `train rank`."""

from random import Random
from typing import Any

from trainers.rounds.group import Choice, Group


def ranked(group: Group, choice: Choice, draw: Random) -> list[dict[str, Any]]:
    """One list of the different answers; none where all scores are the same, since that ranks nothing."""
    unique = group.unique()
    if len({scored.score for scored in unique}) < 2:
        return []
    answers = [group.answer(scored.text) for scored in unique]
    return [{"prompt": group.prompt, "answers": answers, "scores": [scored.score for scored in unique]}]
