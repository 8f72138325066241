"""May policy and value share a trunk? A contextual bandit whose optimum is known, with rewards near 0 and far from it.

    python -m benchmarks.shared_trunk

Eight states, sixteen tokens, networks of 24 hidden units, PPO for 120 steps of 256 answers. Prints KL(π ‖ π*), the mean
over the states, for a critic of its own, for a shared trunk with the values' gradient stopped at their head, and for
one that it goes through.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainers.ppo.learner import Learner
from trainers.ppo.networks import Told
from trainers.ppo.optimizer import Optimizer, schedule_of
from trainers.ppo.ppo_recipe import Recipe
from trainers.ppo.rollout import Batch, rollout_of
from trainers.ppo.token_rewards import Running
from trainers.ppo.world import World

STATES, TOKENS, WIDTH, ANSWERS, STEPS, RATE, ETA = 8, 16, 24, 256, 120, 0.02, 0.5
KINDS = ("critic of its own", "shared, gradient stopped", "shared, gradient through")


def states_of(batch: Batch) -> Tensor:
    """The token before each token of the answers, (B, T)."""
    return batch.ids[:, -batch.width - 1 : -1]


def head_of_zeros() -> nn.Linear:
    """Values that begin as 0."""
    head = nn.Linear(WIDTH, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


class Actor(nn.Module):
    """Logits from one hidden layer; values from the same layer, or none."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.trunk = nn.Sequential(nn.Embedding(TOKENS, 8), nn.Linear(8, WIDTH), nn.Tanh())
        self.head = nn.Linear(WIDTH, TOKENS)
        self.values = None if kind == KINDS[0] else head_of_zeros()
        with torch.no_grad():
            self.start = self.head(self.trunk(torch.arange(TOKENS)))

    def forward(self, batch: Batch) -> Told:
        """One pass."""
        hidden = self.trunk(states_of(batch))
        read = hidden.detach() if self.kind == KINDS[1] else hidden
        return Told(self.head(hidden), None if self.values is None else self.values(read).squeeze(-1))

    def reference(self, batch: Batch) -> Told:
        """What it said before it learned."""
        return Told(self.start[states_of(batch)])


class Critic(nn.Module):
    """A network of its own, of the same size."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Embedding(TOKENS, 8), nn.Linear(8, WIDTH), nn.Tanh(), head_of_zeros())

    def forward(self, batch: Batch) -> Tensor:
        """One pass."""
        values: Tensor = self.trunk(states_of(batch)).squeeze(-1)
        return values


def divergence(kind: str, offset: float, seed: int) -> float:
    """KL(π ‖ π*) after the training, in nats."""
    torch.manual_seed(seed)
    reward = torch.rand(TOKENS, TOKENS) * 2
    actor, critic = Actor(kind), Critic() if kind == KINDS[0] else None
    recipe = Recipe(
        model="", train="", batch=ANSWERS, micro_batch=ANSWERS, inner_epochs=2, lam=1.0, whiten_advantages=False,
        value_clip=0.0, shared_trunk=critic is None, value_coefficient=1.0, kl_coefficient=ETA, schedule="linear",
    )  # fmt: skip
    rate = schedule_of("linear", RATE, 2 * STEPS, 0)
    values = Optimizer("critic", critic, rate) if critic is not None else None
    learner = Learner(recipe, actor, critic, Optimizer("policy", actor, rate), values, World())
    for step in range(STEPS):
        states = torch.randint(0, STATES, (ANSWERS,))
        with torch.no_grad():
            tokens = torch.multinomial(actor.head(actor.trunk(states)).softmax(-1), 1).squeeze(1)
        scores = (reward[states, tokens] + offset).tolist()
        rollout = rollout_of(states[:, None].tolist(), tokens[:, None].tolist(), scores, [False] * ANSWERS, 0, 1)
        known = learner.evaluate(rollout, step)
        learner.learn(rollout, known, learner.target(rollout, known, Running(), ETA), step, ETA)
    every = torch.arange(STATES)
    found = actor.head(actor.trunk(every)).detach().log_softmax(-1)
    optimum = (actor.start[:STATES].log_softmax(-1) + reward[:STATES] / ETA).log_softmax(-1)
    return float((found.exp() * (found - optimum)).sum(-1).mean())


def main() -> None:
    """Three seeds of each."""
    torch.set_num_threads(1)
    for offset in (0.0, 20.0):
        for kind in KINDS:
            found = ", ".join(f"{divergence(kind, offset, seed):.4f}" for seed in range(3))
            print(f"rewards {offset:g} to {offset + 2:g}, {kind:<26} KL(π ‖ π*) {found}", flush=True)


if __name__ == "__main__":
    main()
