"""The processes of a run: who learns which rows, and what is added up over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from trainers.ppo.ppo_recipe import Recipe
from trainers.ppo.rollout import Rollout
from trainers.run.recipe import RecipeError


class World:
    """accelerate's processes; gradients are added over all.

    `cut`: the networks are in pieces (FSDP2), else every process has whole copies.
    """

    def __init__(self, accelerator: Any = None, half: bool = False, cut: bool = False) -> None:
        self._accelerator, self._half = accelerator, half
        self.number = accelerator.num_processes if accelerator else 1
        self.rank = accelerator.process_index if accelerator else 0
        self.device = accelerator.device if accelerator else torch.device("cpu")
        self.cut = cut and self.number > 1
        self.mesh = init_device_mesh(self.device.type, (self.number,)) if self.cut else None

    def autocast(self) -> Any:
        """Computes in bfloat16 where the recipe and the machine do."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._half)

    def share(self, rows: Tensor) -> Tensor:
        """This process's stretch of the rows; their number is a multiple of the processes'."""
        size = len(rows) // self.number
        return rows[self.rank * size : (self.rank + 1) * size]

    def sum(self, value: Tensor) -> Tensor:
        """Over all processes; every process has the result."""
        if self.number == 1:
            return value
        total: Tensor = self._accelerator.reduce(value.to(self.device), "sum")
        return total

    def gather(self, rollout: Rollout) -> Rollout:
        """The rows of all processes, in their order; all have the same number and widths."""
        if self.number == 1:
            return rollout.to(self.device)
        return rollout.each(self._gathered)

    def _gathered(self, value: Tensor) -> Tensor:
        whole: Tensor = self._accelerator.gather(value.to(self.device))
        return whole

    def sums(self, values: Mapping[str, float]) -> dict[str, float]:
        """Each number over all processes, which have the same names."""
        names = sorted(values)
        total = self.sum(torch.tensor([values[name] for name in names], dtype=torch.float64)).tolist()
        return dict(zip(names, total, strict=True))

    def reduce_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Add the gradients of all processes, in one message; a parameter without one counts as 0, and pieces have been
        added already.
        """
        parameters = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
        if self.number == 1 or not parameters:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = self.sum(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))
        at = 0
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad.copy_(flat[at : at + parameter.numel()].view_as(parameter))
            at += parameter.numel()

    def agreed(self, text: str) -> str:
        """The first process's text, in all."""
        if self.number == 1:
            return text
        from accelerate.utils import broadcast_object_list  # type: ignore[import-untyped]

        return str(broadcast_object_list([text])[0])

    def wait(self) -> None:
        """Until every process is here."""
        if self._accelerator:
            self._accelerator.wait_for_everyone()


def accelerator_of(recipe: Recipe, out: Path) -> Any:
    """accelerate's processes and loggers; RecipeError for DeepSpeed."""
    from accelerate import Accelerator  # type: ignore[import-untyped]
    from accelerate.utils import DistributedType

    cpu = not torch.cuda.is_available()  # or accelerate would not join several CPU processes
    accelerator = Accelerator(cpu=cpu, log_with=list(recipe.report_to) or None, project_dir=str(out))
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        raise RecipeError("ppo does not run on DeepSpeed: launch it with eight_gpus_fsdp2, or with whole copies of its "
                          "networks in every process (one_gpu, two_cpus, eight_gpus)")  # fmt: skip
    if recipe.report_to:
        accelerator.init_trackers("logs")
    return accelerator
