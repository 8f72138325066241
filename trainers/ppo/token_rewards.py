"""From one score an answer to one reward a token: penalty, whitening, clipping, KL, and KL's adaptive coefficient.

Shapes: scores (N,), tokens (N, T).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

STEP = 0.2  # the adaptive coefficient's largest relative error of a step


@dataclass(frozen=True)
class Running:
    """Count, mean and sum of squared deviations of all scores so far (Welford; Chan et al. for whole batches)."""

    number: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def after(self, scores: Tensor) -> Running:
        """With these scores, (N,), counted too."""
        if not len(scores):
            return self
        values = scores.double()
        number = self.number + len(values)
        mean = float(values.mean())
        squares = float(((values - mean) ** 2).sum())
        apart = mean - self.mean
        return replace(
            self,
            number=number,
            mean=self.mean + apart * len(values) / number,
            squares=self.squares + squares + apart**2 * self.number * len(values) / number,
        )

    @property
    def deviation(self) -> float:
        """The standard deviation; 1 where it is 0 or unknown."""
        variance = self.squares / (self.number - 1) if self.number > 1 else 0.0
        return math.sqrt(variance) if variance > 0 else 1.0


def shaped(scores: Tensor, spread: Running | None, clip: float) -> Tensor:
    """clip((score − μ) / σ, ±clip), PPO-max's reward (arXiv 2307.04964, section 5.3.1); clip 0: no bound.

    `spread`: whose μ and σ; None leaves the scores as they are.
    """
    if spread is not None:
        scores = (scores - spread.mean) / spread.deviation
    return scores.clamp(-clip, clip) if clip else scores


def placed(scores: Tensor, mask: Tensor, penalties: Tensor) -> Tensor:
    """Rewards of tokens: minus each token's penalty, and the answer's score on its last token, never on padding."""
    last = mask.sum(1) - 1
    rewards = -penalties * mask
    rows = last >= 0  # an answer without a token has nowhere to put its score
    rewards[rows, last[rows]] += scores[rows].to(rewards.dtype)
    return rewards


def adapted(coefficient: float, kl: float, target: float, answers: int, horizon: int) -> float:
    """β (1 + clip(KL / target − 1, ±0.2) · answers / horizon) (Ziegler et al. 2019, arXiv 1909.08593, section 2.2)."""
    if not target:
        return coefficient
    error = min(max(kl / target - 1, -STEP), STEP)
    return coefficient * (1 + error * answers / horizon)
