"""Iterative DPO and Self-Rewarding: the best sample against the worst (arXiv:2312.11456, arXiv:2401.10020)."""

from random import Random
from typing import Any

from trainers.rounds.group import Choice, Group


def ends(group: Group, choice: Choice, draw: Random) -> list[dict[str, Any]]:
    """One pair of the highest and the lowest score, where these are more than `least_gap` apart."""
    if not group.samples:
        return []
    high = max(group.samples, key=lambda scored: scored.score)
    low = min(group.samples, key=lambda scored: scored.score)
    if high.score - low.score <= choice.least_gap or high.text == low.text:
        return []
    return [
        {
            "prompt": group.prompt, "chosen": group.answer(high.text), "rejected": group.answer(low.text),
            "score_chosen": high.score, "score_rejected": low.score,
        }
    ]  # fmt: skip
