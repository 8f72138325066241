"""PPO's pure parts against their formulas in float64: advantages, losses, KL estimators, rewards of tokens."""

import pytest
import torch
from torch import Tensor

from trainers.ppo import gae as advantages
from trainers.ppo import ppo_losses as losses
from trainers.ppo.token_rewards import Running, adapted, placed, shaped


@pytest.fixture
def rows() -> tuple[Tensor, Tensor, Tensor]:
    """Rewards, values and the mask of five answers of 1 to 9 tokens; garbage stands on what is masked."""
    torch.manual_seed(0)
    lengths = torch.tensor([9, 1, 4, 7, 2])
    mask = torch.arange(9) < lengths[:, None]
    return torch.randn(5, 9, dtype=torch.float64), torch.randn(5, 9, dtype=torch.float64), mask


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.97, 0.0)])
def test_gae_is_the_quadratic_sum(rows: tuple[Tensor, Tensor, Tensor], gamma: float, lam: float) -> None:
    rewards, values, mask = rows
    found = advantages.gae(rewards, values, mask, gamma, lam)
    for i, length in enumerate(mask.sum(1).tolist()):
        v = [*values[i, :length].tolist(), 0.0]
        deltas = [rewards[i, t].item() + gamma * v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            by_hand = sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, length))
            assert found[i, t].item() == pytest.approx(by_hand, rel=1e-12, abs=1e-13)
    assert found.dtype == torch.float64
    assert not found[~mask].any()


def test_what_stands_on_padding_never_reaches_an_advantage(rows: tuple[Tensor, Tensor, Tensor]) -> None:
    rewards, values, mask = rows
    clean = advantages.gae(rewards * mask, values * mask, mask, 0.9, 0.95)
    assert advantages.gae(rewards + 1e6 * ~mask, values - 1e6 * ~mask, mask, 0.9, 0.95).equal(clean)


def test_gae_takes_a_lambda_of_each_row(rows: tuple[Tensor, Tensor, Tensor]) -> None:
    rewards, values, mask = rows
    lams = torch.tensor([0.1, 0.2, 0.3, 0.9, 1.0], dtype=torch.float64)
    found = advantages.gae(rewards, values, mask, 1.0, lams)
    for i, lam in enumerate(lams.tolist()):
        assert found[i].equal(advantages.gae(rewards, values, mask, 1.0, lam)[i])
    assert advantages.adaptive_lam(mask, 0.5).tolist() == pytest.approx([1 - 2 / 9, 0, 0.5, 1 - 2 / 7, 0])


def test_rloo_and_grpo_compare_the_answers_of_one_prompt() -> None:
    totals = torch.tensor([1.0, 2.0, 6.0, 5.0, 5.0, 5.0], dtype=torch.float64)
    known = torch.ones(6, dtype=torch.bool)
    assert advantages.rloo(totals, known, 3).tolist() == [-3.0, -1.5, 4.5, 0.0, 0.0, 0.0]
    found = advantages.grpo(totals, known, 3)
    assert found[:3].tolist() == pytest.approx([value / (7**0.5 + 1e-4) for value in (-2, -1, 3)])
    assert found[3:].tolist() == [0.0, 0.0, 0.0]


def test_an_answer_without_a_score_is_in_nobodys_mean() -> None:
    totals = torch.tensor([1.0, 99.0, 6.0, 5.0, 99.0, 99.0], dtype=torch.float64)
    known = torch.tensor([True, False, True, True, False, False])
    assert advantages.rloo(totals, known, 3).tolist() == [-5.0, 0.0, 5.0, 0.0, 0.0, 0.0]
    deviation = 12.5**0.5 + 1e-4
    assert advantages.grpo(totals, known, 3).tolist() == pytest.approx([-2.5 / deviation, 0, 2.5 / deviation, 0, 0, 0])


def test_whitening_counts_tokens_not_padding(rows: tuple[Tensor, Tensor, Tensor]) -> None:
    values, _, mask = rows
    found = advantages.whiten(values + 100 * ~mask, mask)
    assert found[mask].mean().item() == pytest.approx(0, abs=1e-12)
    assert found[mask].var().item() == pytest.approx(1, rel=1e-6)
    assert not found[~mask].any()


def test_policy_loss_is_its_formula_with_both_clips() -> None:
    u = torch.tensor([[0.5, 1.0, 1.5, 9.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, True, True]])
    good, bad = torch.full_like(u, 2.0), torch.full_like(u, -2.0)
    assert losses.policy_loss(u, good, mask, 0.2).tolist() == [pytest.approx([-1.0, -2.0, -2.4, -2.4])]
    assert losses.policy_loss(u, bad, mask, 0.2).tolist() == [pytest.approx([1.6, 2.0, 3.0, 18.0])]
    assert losses.policy_loss(u, bad, mask, 0.2, dual_clip=3.0).tolist() == [pytest.approx([1.6, 2.0, 3.0, 6.0])]
    assert losses.policy_loss(u, good, mask, 0.2, dual_clip=3.0).equal(losses.policy_loss(u, good, mask, 0.2))
    assert losses.clipped(u, good, mask, 0.2).tolist() == [[0.0, 0.0, 1.0, 1.0]]
    assert losses.clipped(u, bad, mask, 0.2).tolist() == [[1.0, 0.0, 0.0, 0.0]]


def test_the_upper_clip_can_be_wider_than_the_lower_one() -> None:
    """Between the two bounds a good token still has a gradient; a bad token's lower bound stays where it was."""
    u = torch.tensor([[0.75, 1.25, 1.5]], dtype=torch.float64, requires_grad=True)
    mask = torch.ones(1, 3, dtype=torch.bool)
    for advantage, loss, slope, share in (
        (2.0, [-1.5, -2.5, -2.56], [-2.0, -2.0, 0.0], [0.0, 0.0, 1.0]),
        (-2.0, [1.6, 2.5, 3.0], [0.0, 2.0, 2.0], [1.0, 0.0, 0.0]),
    ):
        advantages = torch.full_like(u, advantage)
        found = losses.policy_loss(u, advantages, mask, 0.2, clip_high=0.28)
        assert found.tolist() == [pytest.approx(loss)]
        assert torch.autograd.grad(found.sum(), u)[0].tolist() == [slope]
        assert losses.clipped(u, advantages, mask, 0.2, 0.28).tolist() == [share]
    bad = torch.full_like(u, -9.0)
    assert losses.policy_loss(u, bad, mask, 0.2, 3.0, 0.28).max().item() == pytest.approx(13.5)


def test_masked_log_probabilities_are_zeroed_before_the_exponential() -> None:
    """−∞ or a huge number on padding is neither NaN nor infinite afterwards, nor is its gradient."""
    logps = torch.tensor([[-1.0, 1e4, float("-inf")]], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([[-1.5, 0.0, float("-inf")]], dtype=torch.float64)
    mask = torch.tensor([[True, False, False]])
    u = losses.ratio(logps, old, mask)
    assert u.tolist() == [[pytest.approx(2.718281828459045**0.5), 1.0, 1.0]]
    losses.policy_loss(u, torch.ones_like(u), mask, 0.9).sum().backward()
    assert logps.grad is not None
    assert logps.grad.isfinite().all()
    assert logps.grad[0, 1:].tolist() == [0.0, 0.0]
    for estimator in ("k1", "k2", "k3"):
        assert losses.kl(logps, old, mask, estimator)[0, 1:].tolist() == [0.0, 0.0]


def test_value_loss_takes_the_worse_of_clipped_and_not() -> None:
    values, old = torch.tensor([[2.0, 0.1, 0.0]]), torch.tensor([[0.0, 0.0, 0.0]])
    returns, mask = torch.tensor([[3.0, 1.0, 9.0]]), torch.tensor([[True, True, False]])
    assert losses.value_loss(values, old, returns, mask, 0.2).tolist() == [pytest.approx([0.5 * 2.8**2, 0.405, 0])]
    assert losses.value_loss(values, old, returns, mask).tolist() == [pytest.approx([0.5, 0.405, 0])]


def test_kl_estimators_by_name_over_the_whole_vocabulary() -> None:
    """k1 and k3 have the KL as their mean; k2 and k3 are never negative; the gradients are those that are promised."""
    torch.manual_seed(1)
    logits = torch.randn(1, 7, dtype=torch.float64, requires_grad=True)
    reference = torch.randn(1, 7, dtype=torch.float64).log_softmax(-1)
    logps = logits.log_softmax(-1)
    mask = torch.ones(1, 7, dtype=torch.bool)
    probs = logps.detach().exp()
    exact = (logps.exp() * (logps - reference)).sum()
    each = {name: losses.kl(logps, reference, mask, name) for name in ("k1", "k2", "k3")}
    for name in ("k1", "k3"):
        assert (probs * each[name]).sum().item() == pytest.approx(exact.item(), rel=1e-12)
    assert (each["k1"] < 0).any()
    assert (each["k2"] >= 0).all()
    assert (each["k3"] >= 0).all()

    def gradient(value: Tensor) -> Tensor:
        return torch.autograd.grad(value, logits, retain_graph=True)[0]

    reverse = (reference.exp() * (reference - logps)).sum()
    assert torch.allclose(gradient((probs * each["k2"]).sum()), gradient(exact), atol=1e-12)
    assert torch.allclose(gradient((probs * each["k3"]).sum()), gradient(reverse), atol=1e-12)
    with pytest.raises(ValueError, match="estimators: k1, k2, k3"):
        losses.kl(logps, reference, mask, "k4")


def test_importance_is_truncated_and_has_no_gradient() -> None:
    old = torch.tensor([[-1.0, -1.0, -1.0]], requires_grad=True)
    engine, mask = torch.tensor([[-1.0, -3.0, -9.0]]), torch.tensor([[True, True, False]])
    found = losses.importance(old, engine, mask, 2.0)
    assert found.tolist() == [[1.0, 2.0, 1.0]]
    assert not found.requires_grad


def test_the_score_stands_on_the_end_token_not_on_padding() -> None:
    mask = torch.tensor([[True, True, False], [True, True, True], [False, False, False]])
    penalties = torch.full((3, 3), 0.5)
    found = placed(torch.tensor([3.0, 7.0, 9.0]), mask, penalties)
    assert found.tolist() == [[-0.5, 2.5, 0.0], [-0.5, -0.5, 6.5], [0.0, 0.0, 0.0]]


def test_scores_are_whitened_by_all_so_far_then_clipped() -> None:
    torch.manual_seed(2)
    parts = [torch.randn(n, dtype=torch.float64) * 3 + 5 for n in (1, 7, 40)]
    seen = Running()
    for part in parts:
        seen = seen.after(part)
    whole = torch.cat(parts)
    assert (seen.number, seen.mean, seen.deviation) == (
        48, pytest.approx(whole.mean().item()), pytest.approx(whole.std().item()),
    )  # fmt: skip
    last = parts[-1]
    assert torch.allclose(shaped(last, seen, 0), (last - whole.mean()) / whole.std())
    assert shaped(last, None, 0).equal(last)
    assert shaped(last, seen, 0.5).abs().max().item() == 0.5
    assert seen.after(last[:0]) == seen
    assert Running().after(torch.tensor([4.0, 4.0])).deviation == 1.0


def test_the_adaptive_coefficient_rises_above_its_target_and_falls_below_it() -> None:
    assert adapted(0.1, 9.0, 6.0, 100, 1000) == pytest.approx(0.1 * 1.02)
    assert adapted(0.1, 6.3, 6.0, 100, 1000) == pytest.approx(0.1 * 1.005)
    assert adapted(0.1, 1.0, 6.0, 100, 1000) == pytest.approx(0.1 * 0.98)
    assert adapted(0.1, 9.0, 0.0, 100, 1000) == 0.1
