"""Losses of whole lists of answers, as pure functions: B prompts with up to K scored answers each.

Letters as in `losses`: s = log π(y|x) summed over an answer's tokens, s̄ = s / tokens, r the answer's score. All take
`Lists` and return (B,), one loss a list. With two answers each equals the loss of pairs that its docstring names.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from trainers.methods.losses import LOSSES, Pairs, Settings

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Lists:
    """B lists, every tensor (B, K): log-probability sums, tokens, scores, and whether there is an answer at all.

    `reference`: log-probability sums of the reference, for the losses that read one.
    """

    logps: "Tensor"
    tokens: "Tensor"
    scores: "Tensor"
    there: "Tensor"
    reference: "Tensor | None" = None

    @property
    def better(self) -> "Tensor":
        """(B, K, K): whether answer i has a higher score than answer j, where both are there."""
        both = self.there[:, :, None] & self.there[:, None, :]
        return (self.scores[:, :, None] > self.scores[:, None, :]) & both

    @property
    def best(self) -> "Tensor":
        """(B,): the place of the highest score; the first of equals."""
        return self.scores.masked_fill(~self.there, float("-inf")).argmax(1)


def rrhf(lists: Lists, settings: Settings) -> "Tensor":
    """Σ_{r_i > r_j} max(0, s̄_j − s̄_i) (Yuan et al. 2023, arXiv 2304.05302, equation 2).

    The NLL of the best answer (equation 3) is added by the trainer, which knows by how many tokens to divide.
    """
    means = lists.logps / lists.tokens
    worse_above = (means[:, None, :] - means[:, :, None]).clamp(min=0)
    return (worse_above * lists.better).sum((1, 2))


def listmle(lists: Lists, settings: Settings) -> "Tensor":
    """−log of the Plackett-Luce probability of the scores' order under f = β s̄ (Xia et al. 2008, equation 6).

    Of two answers: SimPO without a margin, −log σ(β(s̄_w − s̄_l)).
    """
    import torch

    order = lists.scores.masked_fill(~lists.there, float("-inf")).argsort(dim=1, descending=True, stable=True)
    there = lists.there.gather(1, order)
    strength = (settings.beta * lists.logps / lists.tokens).gather(1, order)
    lowest = torch.finfo(strength.dtype).min
    below = strength.masked_fill(~there, lowest).flip(1).logcumsumexp(1).flip(1)
    return ((below - strength) * there).sum(1)


def sppo(lists: Lists, settings: Settings) -> "Tensor":
    """mean over answers of (s − s^ref − (P − ½)/β)² (Wu et al. 2024, arXiv 2405.00675, equation 4.6); 1/β is its η.

    The scores are P̂(y ≻ π | x), each answer's probability to win against the policy's own, in [0, 1]. Each loss is 0
    where π ∝ π_ref e^(P/β), one step of self-play.
    """
    if lists.reference is None:
        raise ValueError("sppo needs the reference's log-probabilities")
    distance = lists.logps - lists.reference - (lists.scores - 0.5) / settings.beta
    return (distance.square() * lists.there).sum(1) / lists.there.sum(1)


def over_pairs(loss: "Callable[[Pairs, Settings], Tensor]", lists: Lists, settings: Settings) -> "Tensor":
    """The mean of a pair loss over all pairs of a list with different scores; 0 for a list without any.

    Of two answers it is the pair's loss to the last digit.
    """
    import torch

    at, one, two = lists.better.nonzero(as_tuple=True)
    logps, tokens, ref = lists.logps, lists.tokens, lists.reference
    of_pairs = loss(
        Pairs(
            chosen=logps[at, one],
            rejected=logps[at, two],
            chosen_tokens=tokens[at, one],
            rejected_tokens=tokens[at, two],
            ref_chosen=None if ref is None else ref[at, one],
            ref_rejected=None if ref is None else ref[at, two],
            gap=lists.scores[at, one] - lists.scores[at, two],
        ),
        settings,
    )
    sums = torch.zeros_like(lists.logps[:, 0]).index_add(0, at, of_pairs)
    return sums / lists.better.sum((1, 2)).clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class ListLoss:
    """A row of the table: `reads`, `reference` and `sft` as in `losses.Loss`."""

    of: "Callable[[Lists, Settings], Tensor]"
    formula: str
    paper: str
    reads: Mapping[str, float]
    reference: bool = False
    sft: float = 0.0


LIST_LOSSES: Mapping[str, ListLoss] = {
    "rrhf": ListLoss(
        of=rrhf, formula="Σ_{r_i > r_j} max(0, s̄_j − s̄_i) + NLL_best", paper="RRHF, arXiv 2304.05302", reads={}, sft=1.0
    ),
    "listmle": ListLoss(
        of=listmle, formula="−Σ_k log softmax(β s̄)_k over those left", paper="ListMLE, Xia et al. 2008",
        reads={"beta": 2.0},
    ),
    "sppo": ListLoss(
        of=sppo, formula="mean (s − s^ref − (P − ½)/β)²", paper="SPPO, arXiv 2405.00675", reads={"beta": 0.1},
        reference=True,
    ),
    **{
        name: ListLoss(of=partial(over_pairs, loss.of), formula=f"mean over pairs of {loss.formula}", paper=loss.paper,
                       reads=loss.reads, sft=loss.sft)
        for name, loss in LOSSES.items() if loss.of is not None and not loss.reference
    },
}  # fmt: skip
