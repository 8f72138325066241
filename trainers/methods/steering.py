"""Steering vectors: hidden states moved by hooks, in process, without any training (RAHF, RepE)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainers.run.recipe import RecipeError

if TYPE_CHECKING:
    from torch import Tensor


def chosen_layers(model: str, layers: Sequence[int]) -> list[int]:
    """The layers that are compared, counted from 1: the given ones, or the middle third.

    Raises:
        RecipeError: a layer that the model does not have.
    """
    from transformers import AutoConfig

    number = int(AutoConfig.from_pretrained(model, local_files_only=True).get_text_config().num_hidden_layers)
    if wrong := [layer for layer in layers if not 1 <= layer <= number]:
        raise RecipeError(f"layers: {wrong[0]} is none of this model's, which are 1 to {number}")
    return list(layers) or list(range(number // 3 + 1, max(number // 3 + 2, 2 * number // 3 + 1)))


@contextmanager
def steered(model: Any, vectors: Mapping[int, Tensor], strength: float = 1.0) -> Iterator[Any]:
    """The model with `strength` times each vector (D,) added to the output of its layer, counted from 1.

    Raises:
        ValueError: the model has no list of decoder layers to hook.
    """
    layers = decoder_layers(model)
    handles = [layers[layer - 1].register_forward_hook(_adding(strength * vector)) for layer, vector in vectors.items()]
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


def decoder_layers(model: Any) -> Any:
    """The module list with as many entries as the model has layers."""
    from torch.nn import ModuleList

    number = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, ModuleList) and len(module) == number:
            return module
    raise ValueError(f"{type(model).__name__} has no list of {number} decoder layers")


def _adding(vector: Tensor) -> Any:
    def hook(module: Any, inputs: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        moved = first + vector.to(first)
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    return hook


def read_steering(path: Path) -> dict[int, Tensor]:
    """The vectors (D,) of a steering.safetensors, by layer, counted from 1."""
    from safetensors.torch import load_file

    return {int(name.removeprefix("layer_")): vector for name, vector in load_file(path).items()}


def write_steering(path: Path, vectors: Mapping[int, Tensor]) -> None:
    """Write them; the file appears whole or not at all."""
    from safetensors.torch import save_file

    draft = path.with_suffix(".part")
    save_file({f"layer_{layer}": vector.contiguous() for layer, vector in vectors.items()}, draft)
    draft.replace(path)
