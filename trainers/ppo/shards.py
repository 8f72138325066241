"""FSDP2: a network in pieces, one of each weight in every process, gathered layer by layer while the layer runs.

Gradients are summed into the pieces during the backward pass, so every process must run as many passes as the others.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from trainers.run.recipe import RecipeError


def asked_for() -> bool:
    """Whether the launch asks for FSDP2 (on CPUs accelerate does not read that itself); RecipeError for FSDP1."""
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return False
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise RecipeError("ppo is cut into pieces by FSDP2 only: launch it with eight_gpus_fsdp2 or nodes_fsdp2")
    if os.environ.get("FSDP_OFFLOAD_PARAMS", "false").lower() == "true":
        raise RecipeError("fsdp_offload_params: ppo keeps its pieces on the GPU; set it to false")
    # Each process cuts weights that it has read itself; transformers would leave all but the first without any.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    return True


def cut(model: Any, mesh: Any) -> None:
    """Cut a transformers model by its layers, in place; `model` is what will be called."""
    from torch.distributed.fsdp import FSDPModule, fully_shard

    names = set(model._no_split_modules)
    for part in [part for part in model.modules() if type(part).__name__ in names]:
        fully_shard(part, mesh=mesh)
    # Without a backward pass the outermost weights would stay gathered, and an update would not reach them.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    for part in model.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)  # losses are divided by what all processes hold
            part.set_force_sum_reduction_for_comms(True)  # gloo can do no other


def whole(value: Tensor) -> Tensor:
    """The tensor of all processes, in each; all have to ask."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def like(value: Tensor, example: Tensor) -> Tensor:
    """A whole tensor on the example's device, in pieces where the example is."""
    value = value.to(example.device)
    if isinstance(example, DTensor):
        return distribute_tensor(value, example.device_mesh, example.placements)
    return value


def clipped_norm(parameters: Sequence[Tensor], most: float) -> float:
    """torch's clip_grad_norm_ where some gradients are in pieces and others are not."""
    grads = [p.grad for p in parameters if p.grad is not None]
    kinds: list[list[Tensor]] = [
        [grad for grad in grads if isinstance(grad, DTensor) == in_pieces] for in_pieces in (True, False)
    ]
    norms = [whole(torch.nn.utils.get_total_norm(kind)) for kind in kinds if kind]
    norm = float(torch.stack(norms).norm())
    for grad in grads:
        grad.mul_(min(1.0, most / (norm + 1e-6)))
    return norm
