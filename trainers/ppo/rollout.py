"""A step's answers as tensors, and the micro-batches that models see of them.

Prompts are padded on the left and answers on the right, so that all answers begin in one column, as in generation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """What a model is asked of B answers; ids, attention and positions (B, P + T), `mask` (B, T)."""

    ids: Tensor
    attention: Tensor
    positions: Tensor
    mask: Tensor

    @property
    def asked(self) -> dict[str, Any]:
        """Keyword arguments of a transformers model."""
        return {"input_ids": self.ids, "attention_mask": self.attention, "position_ids": self.positions,
                "use_cache": False}  # fmt: skip

    @property
    def width(self) -> int:
        """T, the columns of the answers."""
        return self.mask.shape[1]

    @property
    def tokens(self) -> Tensor:
        """The answers' ids, (B, T)."""
        return self.ids[:, -self.width :]


@dataclass(frozen=True)
class Rollout:
    """N answers: a prompt's stand side by side.

    Attributes:
        prompts: (N, P) ids, left-padded. prompt_mask: (N, P).
        answers: (N, T) ids, right-padded. mask: (N, T), true where the answer has a token to learn from.
        scores: (N,) as the scorer gave them. cut: (N,), true where the answer was cut off at its longest.
        engine: (N, T) log-probabilities in nats by what sampled them; None where that was the trainer itself.
    """

    prompts: Tensor
    prompt_mask: Tensor
    answers: Tensor
    mask: Tensor
    scores: Tensor
    cut: Tensor
    engine: Tensor | None = None

    @property
    def known(self) -> Tensor:
        """(N,), true for the answers that have a score and a token."""
        return self.mask.any(1)

    def __len__(self) -> int:
        return len(self.answers)

    def to(self, device: Any) -> Rollout:
        """On that device."""
        return self.each(lambda value: value.to(device))

    def each(self, function: Callable[[Tensor], Tensor]) -> Rollout:
        """The function's results, tensor by tensor."""
        parts: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {name: None if it is None else function(it) for name, it in parts.items()}
        return Rollout(**changed)

    def batch(self, rows: Tensor) -> Batch:
        """The micro-batch of these rows, without columns that are padding in all of them."""
        import torch

        before, mask = self.prompt_mask[rows], self.mask[rows]
        first = self.prompts.shape[1] - max(1, int(before.sum(1).max()))
        width = max(1, int(mask.sum(1).max()))
        ids = torch.cat([self.prompts[rows, first:], self.answers[rows, :width]], dim=1)
        attention = torch.cat([before[:, first:], mask[:, :width]], dim=1).long()
        positions = (attention.cumsum(1) - 1).clamp(min=0)
        return Batch(ids, attention, positions, mask[:, :width])


def rollout_of(
    prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], scores: Sequence[float | None],
    cut: Sequence[bool], pad: int, width: int, engine: Sequence[Sequence[float]] | None = None,
    longest: int = 0,
) -> Rollout:  # fmt: skip
    """Pad to tensors; `width` is T, `longest` the least P.

    An answer without a score, or without tokens, is masked, so that nothing is learned of it, and its score is 0.
    """
    import torch

    most = max(longest, *map(len, prompts))
    usable = [score is not None and len(answer) > 0 for score, answer in zip(scores, answers, strict=True)]
    return Rollout(
        torch.tensor([[pad] * (most - len(ids)) + list(ids) for ids in prompts]),
        torch.tensor([[False] * (most - len(ids)) + [True] * len(ids) for ids in prompts]),
        torch.tensor([list(ids) + [pad] * (width - len(ids)) for ids in answers]),
        torch.tensor(
            [[good and t < len(ids) for t in range(width)] for good, ids in zip(usable, answers, strict=True)]
        ),
        torch.tensor([score or 0.0 for score in scores]),
        torch.tensor(list(cut)),
        None if engine is None else torch.tensor([list(row) + [0.0] * (width - len(row)) for row in engine]),
    )


def minibatches(order: Tensor, size: int) -> Iterator[Tensor]:
    """Stretches of `size` rows of an order; the last may be shorter."""
    for start in range(0, len(order), size):
        yield order[start : start + size]


def order_of(seed: int, step: int, epoch: int, number: int) -> Tensor:
    """A permutation of the step's rows, the same in every process and after a resume; (number,)."""
    import torch

    from trainers.rounds.generator import seed_of

    generator = torch.Generator().manual_seed(seed_of(seed, step * 1009 + epoch) % 2**63)
    return torch.randperm(number, generator=generator)
