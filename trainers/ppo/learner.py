"""One step of learning: what the networks say of a rollout, its advantages, and the passes of policy and critic.

Log-probabilities are computed twice: `evaluate` gives log π_old without a gradient, every pass of `learn` gives log π
anew. Both cut the step into the same micro-batches, so the first ratio is exactly 1. Every loss is divided
by what the whole minibatch holds, over all processes, so that it does not depend on how the minibatch is cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trainers.ppo import gae as advantage
from trainers.ppo import ppo_losses as losses
from trainers.ppo.networks import Policy, Told
from trainers.ppo.optimizer import Optimizer
from trainers.ppo.ppo_recipe import Recipe
from trainers.ppo.rollout import Batch, Rollout, minibatches, order_of
from trainers.ppo.token_rewards import Running, placed, shaped
from trainers.ppo.world import World
from trainers.run.finite import NonFinite


@dataclass(frozen=True)
class Evaluated:
    """Of a rollout's tokens, (N, T), before anything is learned of it; masked ones are 0. `values`: None without a
    critic.
    """

    old: Tensor
    reference: Tensor
    entropy: Tensor
    values: Tensor | None


@dataclass(frozen=True)
class Target:
    """What is learned: advantages and the critic's returns, each (N, T)."""

    advantages: Tensor
    returns: Tensor


@dataclass
class Sums:
    """Sums over a step's passes, by name; `policy` and `critic` count optimizer steps."""

    of: dict[str, float] = field(default_factory=dict)

    def add(self, **more: Any) -> None:
        """Numbers, or tensors of one number each."""
        for name, value in more.items():
            self.of[name] = self.of.get(name, 0.0) + float(value.detach() if isinstance(value, Tensor) else value)


class Learner:
    """Owns the optimizers. `critic` is None where the advantage needs none, or where it shares the actor's trunk."""

    def __init__(
        self, recipe: Recipe, actor: Policy, critic: Any, policy: Optimizer, values: Optimizer | None, world: World,
        ptx: Any = None,
    ) -> None:  # fmt: skip
        self.recipe, self.actor, self.critic, self.world, self.ptx = recipe, actor, critic, world, ptx
        self.policy, self.values = policy, values

    # ------------------------------------------------------------ what is known before

    @torch.no_grad()
    def evaluate(self, rollout: Rollout, step: int) -> Evaluated:
        """In the micro-batches of the first pass, this process its share of them; then all processes know all."""
        shape = rollout.mask.shape
        found = {
            name: torch.zeros(shape, device=self.world.device) for name in ("old", "reference", "entropy", "values")
        }
        for rows, batch in self._first_pass(rollout, step):
            told = self.actor(batch)
            width = batch.width
            found["old"][rows, :width] = told.logps(batch)
            found["entropy"][rows, :width] = told.entropy(batch)
            found["reference"][rows, :width] = self.actor.reference(batch).logps(batch)
            values = self._values(told, batch)
            if values is not None:
                found["values"][rows, :width] = values * batch.mask
        whole = {name: self.world.sum(value) for name, value in found.items()}
        values = whole["values"] if self.recipe.has_critic else None
        return Evaluated(whole["old"], whole["reference"], whole["entropy"], values)

    def _first_pass(self, rollout: Rollout, step: int) -> Iterator[tuple[Tensor, Batch]]:
        order = order_of(self.recipe.seed, step, 0, len(rollout))
        for minibatch in minibatches(order, self.recipe.rows_per_update):
            yield from self._micro(rollout, minibatch)

    def _micro(self, rollout: Rollout, minibatch: Tensor) -> Iterator[tuple[Tensor, Batch]]:
        """This process's part of a minibatch, in micro-batches."""
        for rows in minibatches(self.world.share(minibatch), self.recipe.micro_batch):
            yield rows, rollout.batch(rows)

    def _values(self, told: Told | None, batch: Batch) -> Tensor | None:
        if not self.recipe.has_critic:
            return None
        if self.critic is not None:
            values: Tensor = self.critic(batch)
            return values
        return (told or self.actor(batch)).values

    # ------------------------------------------------------------ what is to be learned

    def target(self, rollout: Rollout, known: Evaluated, seen: Running, beta: float) -> Target:
        """Advantages and returns by the recipe; `beta` is the KL's coefficient now."""
        recipe, mask = self.recipe, rollout.mask
        kl = losses.kl(known.old, known.reference, mask, recipe.kl_estimator)
        step = Running().after(rollout.scores[rollout.known])
        spread = {"none": None, "step": step, "running": seen}[recipe.whiten_rewards]
        scores = shaped(rollout.scores - recipe.truncated_penalty * rollout.cut, spread, recipe.reward_clip)
        penalties = beta * kl if recipe.kl_in == "reward" else torch.zeros_like(kl)
        rewards = placed(scores.to(kl.dtype), mask, penalties)
        returns = torch.zeros_like(rewards)
        if known.values is None:
            group = advantage.rloo if recipe.advantage == "rloo" else advantage.grpo
            found = group(rewards.sum(1), rollout.known, recipe.answers)[:, None] * mask
        else:
            lam: Any = advantage.adaptive_lam(mask, recipe.lam_length) if recipe.lam_length else recipe.lam
            found = advantage.gae(rewards, known.values, mask, recipe.gamma, lam)
            lam = recipe.lam_critic if recipe.lam_critic is not None else lam
            returns = (advantage.gae(rewards, known.values, mask, recipe.gamma, lam) + known.values) * mask
        if recipe.whiten_advantages:
            found = advantage.whiten(found, mask)
        return Target(found, returns)

    # ------------------------------------------------------------ learning

    def learn(self, rollout: Rollout, known: Evaluated, target: Target, step: int, beta: float) -> dict[str, float]:
        """All passes over a rollout; means for the log.

        Raises:
            NonFinite: a gradient is not finite; nothing has been changed by it.
        """
        recipe, sums = self.recipe, Sums()
        frozen = recipe.has_critic and step < recipe.critic_warmup
        for epoch in range(recipe.inner_epochs * recipe.critic_updates):
            policy = epoch % recipe.critic_updates == 0
            for minibatch in minibatches(order_of(recipe.seed, step, epoch, len(rollout)), recipe.rows_per_update):
                if policy and not (frozen and self.critic is not None):
                    self._learn_policy(rollout, known, target, minibatch, beta, sums, values_only=frozen)
                if self.critic is not None:
                    self._learn_values(rollout, known, target, minibatch, sums)
        return means(self.world.sums(sums.of))

    def _learn_policy(
        self, rollout: Rollout, known: Evaluated, target: Target, minibatch: Tensor, beta: float, sums: Sums,
        values_only: bool,
    ) -> None:  # fmt: skip
        recipe = self.recipe
        weights = weights_of(rollout.mask, minibatch, recipe.loss_mean)
        even = weights_of(rollout.mask, minibatch, "token")
        for rows, batch in self._micro(rollout, minibatch):
            told, width = self.actor(batch), batch.width
            each = self._policy_terms(told, batch, known, target, rollout, rows, beta, sums)
            loss = (each * weights[rows, :width]).sum() * (not values_only)
            if told.values is not None:
                value = self._value_terms(told.values, batch, known, target, rows)
                loss = loss + recipe.value_coefficient * (value * even[rows, :width]).sum()
                sums.add(value_loss=value.sum(), value_tokens=batch.mask.sum())
            loss.backward()  # type: ignore[no-untyped-call]
        if self.ptx is not None and not values_only:
            sums.add(ptx_loss=self.ptx.backward(self.actor, self.policy.updates, recipe.ptx))
        sums.add(grad_norm=self._update(self.policy) / self.world.number, policy=1 / self.world.number)

    def _policy_terms(
        self, told: Told, batch: Batch, known: Evaluated, target: Target, rollout: Rollout, rows: Tensor, beta: float,
        sums: Sums,
    ) -> Tensor:  # fmt: skip
        """The policy's loss of each token, (B, T), and what the log says of the pass."""
        recipe, mask, width = self.recipe, batch.mask, batch.width
        logps, old, advantages = told.logps(batch), known.old[rows, :width], target.advantages[rows, :width]
        u = losses.ratio(logps, old, mask)
        each = losses.policy_loss(u, advantages, mask, recipe.clip, recipe.dual_clip, recipe.clip_high)
        if rollout.engine is not None and recipe.importance_cap:
            each = each * losses.importance(old, rollout.engine[rows, :width], mask, recipe.importance_cap)
        with torch.no_grad():
            sums.add(
                loss=each.sum(), tokens=mask.sum(),
                clip_share=losses.clipped(u, advantages, mask, recipe.clip, recipe.clip_high).sum(),
                ratio=(u - 1).abs().mul(mask).sum(), old_kl=losses.kl(old, logps, mask, "k1").sum(),
            )  # fmt: skip
        if recipe.kl_in == "loss":
            each = each + beta * losses.kl(logps, known.reference[rows, :width], mask, recipe.kl_estimator)
        if recipe.entropy_coefficient:
            each = each - recipe.entropy_coefficient * told.entropy(batch)
        return each

    def _value_terms(self, values: Tensor, batch: Batch, known: Evaluated, target: Target, rows: Tensor) -> Tensor:
        assert known.values is not None
        width = batch.width
        old, returns = known.values[rows, :width], target.returns[rows, :width]
        return losses.value_loss(values, old, returns, batch.mask, self.recipe.value_clip)

    def _learn_values(self, rollout: Rollout, known: Evaluated, target: Target, minibatch: Tensor, sums: Sums) -> None:
        assert self.values is not None
        weights = weights_of(rollout.mask, minibatch, "token")
        for rows, batch in self._micro(rollout, minibatch):
            each = self._value_terms(self.critic(batch), batch, known, target, rows)
            (each * weights[rows, : batch.width]).sum().backward()  # type: ignore[no-untyped-call]
            sums.add(value_loss=each.sum(), value_tokens=batch.mask.sum())
        norm = self._update(self.values)
        sums.add(critic_grad_norm=norm / self.world.number, critic=1 / self.world.number)

    def _update(self, optimizer: Optimizer) -> float:
        """Reduce the gradients, refuse what is not finite, step; the gradient's norm before it is clipped."""
        self.world.reduce_gradients(optimizer.parameters)
        norm = optimizer.clipped_norm(self.recipe.max_grad_norm)
        if not math.isfinite(norm):
            raise NonFinite(f"optimizer step {optimizer.updates + 1} of the {optimizer.name}: the gradient's norm is "
                            f"{norm}")  # fmt: skip
        optimizer.step()
        return norm


def weights_of(mask: Tensor, minibatch: Tensor, mean: str) -> Tensor:
    """What each token counts in its minibatch's mean, (N, T): token, all alike; answer, each answer alike."""
    tokens = mask.sum(1, keepdim=True)
    if mean == "token":
        return mask / tokens[minibatch].sum().clamp(min=1)
    return mask / tokens.clamp(min=1) / (tokens[minibatch] > 0).sum().clamp(min=1)


def means(sums: dict[str, float]) -> dict[str, float]:
    """Per token or per optimizer step, by what each name counts."""
    per = {
        "tokens": ("loss", "clip_share", "ratio", "old_kl"), "value_tokens": ("value_loss",),
        "policy": ("grad_norm", "ptx_loss"), "critic": ("critic_grad_norm",),
    }  # fmt: skip
    return {
        name: sums[name] / sums[unit]
        for unit, names in per.items()
        for name in names
        if name in sums and sums.get(unit)
    }


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 − Var(R − V) / Var(R) over the tokens: 1 is a perfect critic, 0 one that says the same everywhere."""
    apart, known = (returns - values)[mask], returns[mask]
    spread = float(known.var(unbiased=False)) if len(known) else 0.0
    return 1 - float(apart.var(unbiased=False)) / spread if spread > 0 else float("nan")
