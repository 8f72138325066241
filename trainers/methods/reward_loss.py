"""The losses of a reward model, as pure functions on d = r_w − r_l, one loss a pair, in nats.

Shapes are (B,) throughout; the dtype is the inputs'.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def cross_entropy(gap: "Tensor", probability: "Tensor") -> "Tensor":
    """−p log σ(d) − (1−p) log σ(−d), p the probability that the chosen answer is better (arXiv 2401.06080, eq. 7).

    With p = 1 it is Bradley-Terry's −log σ(d).
    """
    from torch.nn.functional import logsigmoid

    return -probability * logsigmoid(gap) - (1 - probability) * logsigmoid(-gap)


def confident(gap: "Tensor", probability: "Tensor", confidence: float) -> "Tensor":
    """(1−α) CE(d, p) + α CE(d, 1[d > 0]) (Burns et al. 2023, arXiv 2312.09390, equation 1), α the `confidence`.

    With α = 0 the model imitates the weak labels p; with α = 1 it only grows surer of what it says. The paper's
    threshold is 0 here, since a pair has no first answer.
    """
    own = (gap > 0).to(gap.dtype).detach()
    return (1 - confidence) * cross_entropy(gap, probability) + confidence * cross_entropy(gap, own)


def recovered(weak: float, strong: float, ceiling: float) -> float | None:
    """The performance gap recovered, (strong − weak) / (ceiling − weak): 0 as the weak one, 1 as the ceiling.

    None where the ceiling is not above the weak one, and there is no gap.
    """
    return (strong - weak) / (ceiling - weak) if ceiling > weak else None
