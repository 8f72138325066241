"""AdamW on a network's trained weights, its learning rate by the number of updates, and their moving average."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from trainers.ppo.shards import clipped_norm, like, whole

MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class Optimizer:
    """Everything that a checkpoint needs of a network's training, by the names of its weights.

    `rate`: the learning rate of an update, counted from 0. `ema`: the moving average's decay; 0 keeps none.
    """

    def __init__(
        self, name: str, module: nn.Module, rate: Callable[[int], float], weight_decay: float = 0.0, ema: float = 0.0
    ) -> None:
        self.name, self.rate, self.ema, self.updates = name, rate, ema, 0
        self.named = {key: value for key, value in module.named_parameters() if value.requires_grad}
        self.cut = any(isinstance(value, DTensor) for value in self.parameters)
        together = False if self.cut else None  # pieces and whole weights cannot be in one kernel
        self._adam = torch.optim.AdamW(self.parameters, lr=rate(0), weight_decay=weight_decay, foreach=together)
        self.averages = {key: value.detach().clone() for key, value in self.named.items()} if ema else {}

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trained weights, in the order of their names."""
        return list(self.named.values())

    def clipped_norm(self, most: float) -> float:
        """Shorten the gradient to `most`; its norm before that."""
        if self.cut:
            return clipped_norm(self.parameters, most)
        return float(torch.nn.utils.clip_grad_norm_(self.parameters, most))

    def step(self) -> None:
        """One update; the gradients are gone afterwards."""
        for group in self._adam.param_groups:
            group["lr"] = self.rate(self.updates)
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        self.updates += 1
        for key, average in self.averages.items():
            average.lerp_(self.named[key].detach(), 1 - self.ema)

    def state(self) -> dict[str, Tensor]:
        """Weights, moments and averages by name, whole and on the CPU; all processes have to ask where they are cut."""
        found: dict[str, Tensor] = {f"weight/{key}": value for key, value in self.named.items()}
        found |= {f"average/{key}": value for key, value in self.averages.items()}
        for key, value in self.named.items():
            moments = self._adam.state[value]
            found |= {f"{moment}/{key}": moments[moment] for moment in MOMENTS if moment in moments}
        return {key: whole(value.detach()).cpu().contiguous().clone() for key, value in found.items()}

    def restore(self, state: Mapping[str, Tensor], updates: int) -> None:
        """Go on from a `state`, after so many updates. KeyError for a weight that it lacks."""
        self.updates = updates
        with torch.no_grad():
            for key, value in self.named.items():
                value.copy_(like(state[f"weight/{key}"], value))
                moments = {moment: state[f"{moment}/{key}"] for moment in MOMENTS if f"{moment}/{key}" in state}
                if moments:
                    self._adam.state[value] = {
                        moment: it.cpu().clone() if moment == "step" else like(it, value).clone()
                        for moment, it in moments.items()
                    }
            for key, average in self.averages.items():
                average.copy_(like(state[f"average/{key}"], average))


def schedule_of(name: str, peak: float, updates: int, warmup: float) -> Callable[[int], float]:
    """transformers' schedule of that name as a function of the update; warmup: a share of them, or a number from 1."""
    from transformers import get_scheduler

    rising = int(warmup) if warmup >= 1 else round(warmup * updates)
    unit: Any = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    [factor] = get_scheduler(name, unit, rising, updates).lr_lambdas
    return lambda update: peak * float(factor(update))
