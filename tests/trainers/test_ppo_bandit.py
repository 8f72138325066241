"""The learner where the optimum is known: π* ∝ π_ref · e^{r/η} on a bandit of 16 tokens, and on an MDP of two steps."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainers.ppo.learner import Learner
from trainers.ppo.networks import Told
from trainers.ppo.optimizer import Optimizer, schedule_of
from trainers.ppo.ppo_recipe import Recipe
from trainers.ppo.rollout import Batch, Rollout, rollout_of
from trainers.ppo.token_rewards import Running
from trainers.ppo.world import World

ETA = 0.5
VOCABULARY = 16
START = 0
STEPS = 80


class TableActor(nn.Module):
    """Logits of the next token by the token before it; `head`: values of the same table's rows."""

    def __init__(self, reference: Tensor, head: bool = False) -> None:
        super().__init__()
        self.start = reference
        self.table = nn.Parameter(reference.clone())
        self.head = nn.Parameter(torch.zeros(len(reference))) if head else None

    def forward(self, batch: Batch) -> Told:
        states = batch.ids[:, -batch.width - 1 : -1]
        return Told(self.table[states], None if self.head is None else self.head[states])

    def reference(self, batch: Batch) -> Told:
        return Told(self.start[batch.ids[:, -batch.width - 1 : -1]])


class TableCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(VOCABULARY))

    def forward(self, batch: Batch) -> Tensor:
        return self.table[batch.ids[:, -batch.width - 1 : -1]]


def recipe_of(**keys: Any) -> Recipe:
    values: dict[str, Any] = {
        "model": "", "train": "", "batch": 256, "micro_batch": 256, "learning_rate": 0.1, "kl_coefficient": ETA,
        "whiten_advantages": False, "schedule": "linear", "inner_epochs": 2, "lam": 1.0, "value_clip": 0.0,
    }  # fmt: skip
    return Recipe(**values | keys)


def learner_of(recipe: Recipe, actor: TableActor, steps: int, world: World | None = None) -> Learner:
    updates = steps * recipe.inner_epochs * (recipe.batch // recipe.rows_per_update)
    rate = schedule_of(recipe.schedule, recipe.learning_rate, updates, 0)
    critic = TableCritic() if recipe.has_critic and not recipe.shared_trunk else None
    values = None
    if critic is not None:
        values = Optimizer("critic", critic, schedule_of("linear", 0.2, updates * recipe.critic_updates, 0))
    return Learner(recipe, actor, critic, Optimizer("policy", actor, rate), values, world or World())


def played(actor: TableActor, reward: Callable[[Tensor], Tensor], number: int, width: int) -> Rollout:
    """Answers sampled from the actor, all from one prompt."""
    states, tokens = torch.full((number,), START), []
    for _ in range(width):
        with torch.no_grad():
            states = torch.multinomial(actor.table[states].softmax(-1), 1).squeeze(1)
        tokens.append(states)
    answers = torch.stack(tokens, 1)
    return rollout_of([[START]] * number, answers.tolist(), reward(answers).tolist(), [False] * number, 0, width)


def train(
    recipe: Recipe, reference: Tensor, reward: Callable[[Tensor], Tensor], width: int, steps: int
) -> tuple[TableActor, Learner]:
    torch.manual_seed(5)
    actor = TableActor(reference, head=recipe.shared_trunk)
    learner = learner_of(recipe, actor, steps)
    for step in range(steps):
        rollout = played(actor, reward, recipe.batch, width)
        known = learner.evaluate(rollout, step)
        target = learner.target(rollout, known, Running(), recipe.kl_coefficient)
        learner.learn(rollout, known, target, step, recipe.kl_coefficient)
    return actor, learner


def divergence(found: Tensor, optimum: Tensor) -> float:
    """KL(found ‖ optimum) of log-probabilities."""
    return float((found.exp() * (found - optimum)).sum())


@pytest.fixture
def bandit() -> tuple[Tensor, Tensor]:
    """(reference table, reward of each token)."""
    torch.manual_seed(3)
    return torch.randn(VOCABULARY, VOCABULARY), torch.rand(VOCABULARY) * 2


@pytest.mark.parametrize(
    "keys",
    [
        {"advantage": "gae"},
        {"advantage": "gae", "shared_trunk": True, "value_coefficient": 1.0},
        {"advantage": "rloo", "answers": 4},
        {"advantage": "rloo", "answers": 4, "kl_in": "loss", "kl_estimator": "k2", "inner_epochs": 1},
    ],
    ids=["ppo", "shared", "rloo", "rloo with k2 in the loss"],
)
def test_policy_and_critic_reach_the_known_optimum(bandit: tuple[Tensor, Tensor], keys: dict[str, Any]) -> None:
    reference, reward = bandit
    recipe = recipe_of(**keys)
    actor, learner = train(recipe, reference, lambda answers: reward[answers[:, 0]], 1, STEPS)
    logs = reference[START].log_softmax(-1)
    optimum = (logs + reward / ETA).log_softmax(-1)
    found = actor.table[START].detach().log_softmax(-1)
    assert divergence(logs, optimum) > 0.3
    assert divergence(found, optimum) < 1e-2
    best = ETA * float((logs + reward / ETA).logsumexp(-1))
    value = actor.head if recipe.shared_trunk else learner.critic and learner.critic.table
    if value is not None:
        assert float(value[START].detach()) == pytest.approx(best, abs=0.05)


def test_k3_in_the_loss_has_another_optimum(bandit: tuple[Tensor, Tensor]) -> None:
    """Its gradient is that of KL(π_ref ‖ π), so that π = π_ref η / (c − r)."""
    reference, reward = bandit
    k3 = recipe_of(advantage="rloo", answers=4, kl_in="loss", kl_estimator="k3", inner_epochs=1)
    actor, _ = train(k3, reference, lambda answers: reward[answers[:, 0]], 1, STEPS)
    logs = reference[START].log_softmax(-1)
    low, high = float(reward.max()) + 1e-6, float(reward.max()) + 10
    for _ in range(60):  # the c at which the optimum sums to 1
        middle = (low + high) / 2
        low, high = (middle, high) if (logs.exp() * ETA / (middle - reward)).sum() > 1 else (low, middle)
    optimum = (logs.exp() * ETA / (low - reward)).log()
    found = actor.table[START].detach().log_softmax(-1)
    assert divergence(found, optimum) < 1e-2
    assert divergence(found, (logs + reward / ETA).log_softmax(-1)) > 5 * divergence(found, optimum)


def test_grpo_reaches_the_optimum_of_rewards_over_their_deviation(bandit: tuple[Tensor, Tensor]) -> None:
    """π ∝ π_ref e^{r/(ησ)}, where σ is the deviation of r under π itself."""
    reference, reward = bandit
    grpo = recipe_of(
        advantage="grpo", answers=64, kl_in="loss", kl_estimator="k2", inner_epochs=1, kl_coefficient=4 * ETA
    )
    actor, _ = train(grpo, reference, lambda answers: reward[answers[:, 0]], 1, STEPS)
    logs = reference[START].log_softmax(-1)
    found = actor.table[START].detach().log_softmax(-1)
    mean = (found.exp() * reward).sum()
    deviation = (found.exp() * (reward - mean) ** 2).sum().sqrt()
    optimum = (logs + reward / (4 * ETA * deviation)).log_softmax(-1)
    assert divergence(logs, found) > 0.1
    assert divergence(found, optimum) < 1e-2


def test_gae_solves_the_mdp_of_two_steps() -> None:
    """π* by soft backward induction: V(a) = η log Σ_b π_ref(b|a) e^{r(a,b)/η}, π*(a) ∝ π_ref(a) e^{V(a)/η}."""
    torch.manual_seed(7)
    reference, reward = torch.randn(VOCABULARY, VOCABULARY) * 0.5, torch.rand(VOCABULARY, VOCABULARY)
    reward = reward + 2 * torch.rand(VOCABULARY, 1)
    recipe = recipe_of(advantage="gae", lam=0.9, learning_rate=0.15)
    actor, learner = train(recipe, reference, lambda answers: reward[answers[:, 0], answers[:, 1]], 2, 100)
    logs = reference.log_softmax(-1)
    second = logs + reward / ETA
    values = ETA * second.logsumexp(-1)
    first = logs[START] + values / ETA
    found = actor.table.detach().log_softmax(-1)
    assert divergence(found[START], first.log_softmax(-1)) < 2e-2
    weights = first.softmax(-1)
    apart = sum(float(weights[a]) * divergence(found[a], second[a].log_softmax(-1)) for a in range(1, VOCABULARY))
    assert apart < 5e-2
    assert divergence(logs[START], first.log_softmax(-1)) > 0.1
    likely = weights.topk(3).indices
    assert learner.critic.table.detach()[likely].tolist() == pytest.approx(values[likely].tolist(), abs=0.15)
