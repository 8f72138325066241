"""Advantages: generalized advantage estimation over tokens, and the critic-free ones over a prompt's answers.

Shapes: (N, T), N answers in columns of T tokens, `mask` true where the answer has a token (a prefix of each row).
Everything keeps the inputs' dtype; float64 goes through unchanged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

TINY = 1e-8


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float | Tensor) -> Tensor:
    """Â_t = Σ_{k≥0} (γλ)^k δ_{t+k}, δ_t = r_t + γ V_{t+1} − V_t (Schulman et al. 2016, arXiv 1506.02438, equation 16).

    V_t is the value of the state before token t, and 0 after the last token. Masked values and rewards count as 0,
    so that what stands on padding never reaches an answer. `lam`: a number, or (N,) for one of each row.
    """
    import torch

    rewards, values = rewards * mask, values * mask
    advantages = torch.zeros_like(rewards)
    last = torch.zeros_like(rewards[:, 0])
    for t in range(rewards.shape[1] - 1, -1, -1):
        after = values[:, t + 1] if t + 1 < rewards.shape[1] else torch.zeros_like(last)
        last = rewards[:, t] + gamma * after - values[:, t] + gamma * lam * last
        advantages[:, t] = last
    return advantages * mask


def adaptive_lam(mask: Tensor, alpha: float) -> Tensor:
    """λ = 1 − 1/(α l) of an answer of l tokens, at least 0 (VAPO, arXiv 2504.05118, section 4.2); (N,)."""
    return (1 - 1 / (alpha * mask.sum(1).clamp(min=1))).clamp(min=0)


def rloo(totals: Tensor, known: Tensor, answers: int) -> Tensor:
    """R_i − mean of the other answers' R, (N,): `answers` neighbours share a prompt (arXiv 2402.14740, equation 8).

    Answers that are not `known`, (N,), have no score: they are in nobody's mean. 0 for them, and for one alone.
    """
    groups, there = (totals * known).view(-1, answers), known.view(-1, answers)
    others = there.sum(1, keepdim=True) - 1
    apart = groups - (groups.sum(1, keepdim=True) - groups) / others.clamp(min=1)
    return (apart * (there & (others > 0))).flatten()


def grpo(totals: Tensor, known: Tensor, answers: int) -> Tensor:
    """(R_i − mean) / (std + ε) of the prompt's known answers, (N,) (arXiv 2402.03300, 4.1.2); 0 where all are equal."""
    groups, there = (totals * known).view(-1, answers), known.view(-1, answers)
    number = there.sum(1, keepdim=True)
    apart = (groups - groups.sum(1, keepdim=True) / number.clamp(min=1)) * there
    deviation = ((apart**2).sum(1, keepdim=True) / (number - 1).clamp(min=1)).sqrt()
    return (apart / (deviation + 1e-4)).flatten()


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and variance 1 over all tokens that are there; what is masked stays 0."""
    number = mask.sum().clamp(min=1)
    mean = (values * mask).sum() / number
    variance = (((values - mean) * mask) ** 2).sum() / (number - 1).clamp(min=1)
    return (values - mean) / (variance + TINY).sqrt() * mask
