"""RSO: samples of the optimal policy by rejection (Liu et al. 2023, arXiv:2309.06657, algorithm 1), then pairs."""

import math
from random import Random
from typing import Any

from trainers.rounds.group import Choice, Group, Scored


def accepted(samples: tuple[Scored, ...], beta: float, draw: Random) -> list[Scored]:
    """Samples of π(y) e^{r(y)/β} up to a factor, from samples of π: y stays with probability e^{(r − r_max)/β}.

    r_max is the highest score among the samples. The paper goes through what it rejected again until it has enough;
    that leans towards π, so here there is one pass.
    """
    if not samples:
        return []
    highest = max(scored.score for scored in samples)
    return [scored for scored in samples if draw.random() < math.exp((scored.score - highest) / beta)]


def pairs(group: Group, choice: Choice, draw: Random) -> list[dict[str, Any]]:
    """Of up to `keep` accepted samples two and two, ranked by their scores (the paper's first-round-rank).

    Two equal texts, and two scores not more than `least_gap` apart, make no pair.
    """
    kept = accepted(group.samples, choice.score_beta, draw)[: choice.keep]
    draw.shuffle(kept)
    rows = []
    for one, two in zip(kept[::2], kept[1::2], strict=False):
        high, low = sorted((one, two), key=lambda scored: -scored.score)
        if high.text == low.text or high.score - low.score <= choice.least_gap:
            continue
        rows.append(
            {
                "prompt": group.prompt, "chosen": group.answer(high.text), "rejected": group.answer(low.text),
                "score_chosen": high.score, "score_rejected": low.score,
            }
        )  # fmt: skip
    return rows
