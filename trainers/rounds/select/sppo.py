"""SPPO: every sample with its chance to win against the actor's own (Wu et al. 2024, arXiv:2405.00675, algorithm 1)."""

import math
from random import Random
from typing import Any

from trainers.rounds.group import Choice, Group


def win_rates(group: Group, choice: Choice, draw: Random) -> list[dict[str, Any]]:
    """One list of the different answers, scored by P̂(y ≻ π) = mean over the samples y' of P(y ≻ y').

    P(y ≻ y') is Bradley-Terry's σ((r − r')/β) of the scores, with `score_beta`; a judge's shares of wins, which
    `choice.win_shares` says that the scores are, stand as they are. A sample ties with itself.
    """
    unique = group.unique()
    if len(unique) < 2:
        return []
    if choice.win_shares:
        rates = [scored.score for scored in unique]
    else:
        rates = [
            sum(_wins((one.score - other.score) / choice.score_beta) for other in group.samples) / len(group.samples)
            for one in unique
        ]
    return [{"prompt": group.prompt, "answers": [group.answer(one.text) for one in unique], "scores": rates}]


def _wins(gap: float) -> float:
    """σ(gap), finite for any finite gap."""
    return 1 / (1 + math.exp(-gap)) if gap > -700 else 0.0
