"""The networks of a step: the actor with its reference, and the critic; each sees a `Batch` and answers by token."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trainers.ppo.rollout import Batch


@dataclass(frozen=True)
class Told:
    """Of B answers: logits (B, T, V) of the distributions that the tokens were drawn from; values (B, T) by a second
    head on the same trunk, where the actor has one.
    """

    logits: Tensor
    values: Tensor | None = None

    def logps(self, batch: Batch) -> Tensor:
        """log π of the answers' tokens, (B, T), in nats; 0 where they are padding."""
        chosen = self.logits.gather(-1, batch.tokens[..., None]).squeeze(-1)
        return (chosen - self.logits.logsumexp(-1)) * batch.mask

    def entropy(self, batch: Batch) -> Tensor:
        """−Σ π log π at every token, (B, T), in nats; 0 where they are padding."""
        logs = self.logits.log_softmax(-1)
        return -(logs.exp() * logs).sum(-1) * batch.mask


class Policy(Protocol):
    """What is trained: an nn.Module."""

    def __call__(self, batch: Batch) -> Told:
        """What it says now, with gradients."""
        ...

    def reference(self, batch: Batch) -> Told:
        """What it said before it learned."""
        ...


class Actor(nn.Module):
    """A causal language model at a sampling temperature, with its reference: the adapter off, or a frozen copy.

    `head`: values of the shared trunk, (B, T); their gradient ends at the head where `stop_gradient` is set.
    """

    def __init__(
        self, model: Any, frozen: Any = None, temperature: float = 1.0, head: nn.Module | None = None,
        stop_gradient: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.model, self.head, self.temperature, self.stop_gradient = model, head, temperature, stop_gradient
        self._frozen = [frozen]  # in a list: its weights are none of this module's

    @property
    def bare(self) -> Any:
        """The transformers model, which calls its adapter's layers itself."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def frozen(self) -> Any:
        """The reference, where it is a model of its own."""
        return self._frozen[0]

    def forward(self, batch: Batch) -> Told:
        """One pass; a distribution stands at the position before its token."""
        width = batch.width
        out = self.bare(**batch.asked, logits_to_keep=before(batch), output_hidden_states=self.head is not None)
        values = None
        if self.head is not None:
            hidden = out.hidden_states[-1][:, -width - 1 : -1].float()
            values = self.head(hidden.detach() if self.stop_gradient else hidden).squeeze(-1)
        return Told(out.logits.float() / self.temperature, values)

    @torch.no_grad()
    def reference(self, batch: Batch) -> Told:
        """What the actor said before it learned."""
        with self.model.disable_adapter() if self.frozen is None else nullcontext():
            out = (self.frozen or self.bare)(**batch.asked, logits_to_keep=before(batch))
        return Told(out.logits.float() / self.temperature)


def before(batch: Batch) -> Tensor:
    """The positions before the answers' tokens, (T,).

    A number for `logits_to_keep` would slice the states, and without a gradient torch multiplies slices row by row,
    with a copy of the output layer for each in bfloat16.
    """
    last = batch.ids.shape[1] - 1
    return torch.arange(last - batch.width, last, device=batch.ids.device)


class Critic(nn.Module):
    """A sequence classifier whose head is read at every position: V of the state before each token, (B, T)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @property
    def bare(self) -> Any:
        """The transformers model, which calls its adapter's layers itself."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def trunk(self) -> Any:
        """The transformers model without its head."""
        return getattr(self.bare, self.bare.base_model_prefix)

    def forward(self, batch: Batch) -> Tensor:
        """One pass."""
        hidden = self.trunk(**batch.asked).last_hidden_state
        values: Tensor = self.bare.score(hidden[:, -batch.width - 1 : -1]).squeeze(-1).float()
        return values
