"""What the log says of a step's answers."""

from __future__ import annotations

import math
from typing import Any

import torch

from trainers.ppo import ppo_losses as losses
from trainers.ppo.learner import Evaluated, Target, explained_variance
from trainers.ppo.ppo_recipe import Recipe
from trainers.ppo.rollout import Rollout


def described(rollout: Rollout, known: Evaluated, target: Target, recipe: Recipe) -> dict[str, float]:
    """What the log says of a step's answers, before anything was learned of them."""
    mask, scores = rollout.mask, rollout.scores[rollout.known]
    lengths = mask.sum(1)
    answers = (lengths > 0).sum().clamp(min=1)
    tokens = lengths.sum().clamp(min=1)
    found: dict[str, Any] = {
        "score": scores.mean(), "score_deviation": scores.std(unbiased=False),
        "tokens": lengths.sum() / answers, "truncated": rollout.cut.float().mean(),
        "entropy": known.entropy.sum() / tokens, "unscored": 1 - rollout.known.float().mean(),
    }  # fmt: skip
    for name in ("k1", "k3"):
        total = losses.kl(known.old, known.reference, mask, name).sum() / answers
        found["kl" if name == "k1" else "kl_k3"] = total
    pair = torch.stack([scores.double(), lengths[rollout.known].double()])
    if pair.shape[1] > 1 and bool((pair.std(1) > 0).all()):
        found["score_length_correlation"] = torch.corrcoef(pair)[0, 1]
    if known.values is not None:
        found["explained_variance"] = explained_variance(known.values, target.returns, mask)
    if rollout.engine is not None:
        apart = (known.old - rollout.engine).abs() * mask
        found["engine_gap"] = apart.sum() / tokens
        found["engine_gap_most"] = apart.max()
        if recipe.importance_cap:
            u = losses.ratio(known.old, rollout.engine, mask)
            found["importance_capped"] = ((u > recipe.importance_cap) & mask).sum() / tokens
    return {name: float(value) for name, value in found.items() if math.isfinite(float(value))}
