"""How far an ensemble of reward models agrees with a pair's label, and what to do with labels that it rejects.

Wang et al. 2024, "Secrets of RLHF in Large Language Models Part II: Reward Modeling" (arXiv 2401.06080), section 2: a
pair's strength is the mean of the models' margins r(x, y_w) − r(x, y_l); wrong labels gather at its lower end.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def strength(margins: "Tensor") -> tuple["Tensor", "Tensor"]:
    """(mean, standard deviation) over the models, each (N,), of margins (M, N) in the reward's unit.

    Margins of one model are first divided by their root mean square, so that no model counts more for its scale.
    """
    scaled = margins / margins.square().mean(1, keepdim=True).sqrt().clamp(min=1e-12)
    return scaled.mean(0), scaled.std(0, correction=0)


def rejected_labels(mean: "Tensor", share: float) -> "Tensor":
    """(N,) bool: the pairs of the lowest `share` of strengths whose label the ensemble rejects (strength below 0)."""
    import torch

    lowest = torch.zeros_like(mean, dtype=torch.bool)
    lowest[mean.argsort(stable=True)[: int(share * len(mean))]] = True
    return lowest & (mean < 0)


def adaptive_margin(mean: "Tensor", rejected: "Tensor") -> "Tensor":
    """(N,): the margin m̂ ≥ 0 of −log σ(r_w − r_l − m̂) (equation 8), of the labels after those rejected were turned."""
    return mean.where(~rejected, -mean).clamp(min=0)
