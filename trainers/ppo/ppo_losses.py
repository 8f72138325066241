"""PPO's losses as pure functions on tokens: one number a token, masked ones 0.

Shapes are (B, T) throughout, `mask` true where the answer has a token; in nats and in the inputs' dtype. What divides
the sums (the minibatch's tokens or answers, over all processes) is the learner's matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def ratio(logps: Tensor, old: Tensor, mask: Tensor) -> Tensor:
    """π(a|s) / π_old(a|s); 1 on masked tokens, whose log-probabilities are set to 0 before the exponential."""
    import torch

    return torch.where(mask, logps - old, torch.zeros_like(logps)).exp()


def policy_loss(
    u: Tensor, advantages: Tensor, mask: Tensor, clip: float, dual_clip: float = 0.0, clip_high: float | None = None
) -> Tensor:
    """−min(u Â, clip(u, 1 ± ε) Â) (Schulman et al. 2017, arXiv 1707.06347, equation 7), u the ratio.

    `clip_high`: ε above 1, where it differs; a larger one lets unlikely tokens rise (Clip-Higher: DAPO, arXiv
    2503.14476, section 3.1; VAPO, arXiv 2504.05118, section 4.3). With `dual_clip` c > 1, a negative advantage costs at
    most −c Â (Ye et al. 2020, arXiv 1912.09729, equation 3).
    """
    import torch

    above = clip if clip_high is None else clip_high
    surrogate = torch.minimum(u * advantages, u.clamp(1 - clip, 1 + above) * advantages)
    if dual_clip:
        bounded = torch.maximum(surrogate, dual_clip * advantages)
        surrogate = torch.where(advantages < 0, bounded, surrogate)
    return -surrogate * mask


def clipped(u: Tensor, advantages: Tensor, mask: Tensor, clip: float, clip_high: float | None = None) -> Tensor:
    """Tokens at which the clip stops the gradient: 1.0 or 0.0."""
    above = clip if clip_high is None else clip_high
    high, low = (advantages > 0) & (u > 1 + above), (advantages < 0) & (u < 1 - clip)
    return ((high | low) & mask).to(u.dtype)


def value_loss(values: Tensor, old: Tensor, returns: Tensor, mask: Tensor, clip: float = 0.0) -> Tensor:
    """½ max((V − R)², (V_clip − R)²), V_clip within ±clip of the value before the update; clip 0: ½ (V − R)²."""
    import torch

    loss = (values - returns) ** 2
    if clip:
        near = old + (values - old).clamp(-clip, clip)
        loss = torch.maximum(loss, (near - returns) ** 2)
    return 0.5 * loss * mask


def kl(logps: Tensor, reference: Tensor, mask: Tensor, estimator: str = "k1") -> Tensor:
    """An estimate of KL(π ‖ π_ref) from tokens sampled from π, d = log π − log π_ref (Schulman 2020, approximating KL).

    k1 = d: unbiased, of either sign in a sample. k2 = ½ d²: biased, never negative; in a loss its gradient is that of
    the KL. k3 = e^−d − 1 + d: unbiased, never negative; in a loss its gradient is that of KL(π_ref ‖ π).
    """
    import torch

    d = torch.where(mask, logps - reference, torch.zeros_like(logps))
    if estimator == "k1":
        return d
    if estimator == "k2":
        return 0.5 * d**2
    if estimator == "k3":
        return torch.expm1(-d) + d
    raise ValueError(f"no KL estimator {estimator!r}; estimators: k1, k2, k3")


def importance(old: Tensor, engine: Tensor, mask: Tensor, cap: float) -> Tensor:
    """min(π_old / π_engine, cap), no gradient: corrects for an engine whose numbers differ (truncated, Espeholt et al.
    2018, arXiv 1802.01561); 1 on masked tokens.
    """
    return ratio(old, engine, mask).clamp(max=cap).detach()
