"""What the engine reads of a model, whichever files it is in: facts, tokenizer, tensors.

GGUF's names are the engine's own: a folder of transformers is described by them (`serve.engine.local.folder`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from serve.engine.vocabulary import tokenizer
from serve.gguf import GgufError, Tensor, metadata, tensors

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# A tensor's name -> float32, (outputs, inputs) or (size,). Raises KeyError where there is none of that name.
Weights = Callable[[str], np.ndarray[Any, Any]]
_ENDS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "</s>")


@dataclass(frozen=True, slots=True)
class Source:
    """One model.

    Attributes:
        path: the GGUF file, or the folder.
        files: those with the weights.
        meta: the model's facts by GGUF's keys; its chat template among them.
        tensors: the shape of each, (outputs, inputs) or (size,), by GGUF's name.
        weights: reads one of them.
        tokenizer: of texts without the marks around them.
        bos: the token before every text, None where there is none.
        ends: tokens that end an answer.
    """

    path: Path
    files: tuple[Path, ...]
    meta: Mapping[str, Any]
    tensors: Mapping[str, tuple[int, ...]]
    weights: Weights
    tokenizer: Tokenizer
    bos: int | None
    ends: frozenset[int]


def opened(path: Path) -> Source:
    """The model in a GGUF file, or in a folder of transformers.

    Raises:
        GgufError, Unsupported: it cannot be read, or its tokenizer is of another kind; the message says which.
        OSError: the files cannot be read.
    """
    if path.is_dir():
        from serve.engine.local.folder import read

        return read(path)
    return _of_gguf(path)


def usual_ends(tokens: Mapping[str, int]) -> frozenset[int]:
    """The tokens that end a turn or a text by their usual names, of a vocabulary."""
    return frozenset(tokens[name] for name in _ENDS if name in tokens)


def _of_gguf(file: Path) -> Source:
    meta, parts = metadata(file), {tensor.name: tensor for tensor in tensors(file)}
    vocabulary = tokenizer(meta)
    if vocabulary is None:
        raise GgufError(f"{file.name}: its tokenizer ({meta.get('tokenizer.ggml.model')}) is not supported")
    eos = meta.get("tokenizer.ggml.eos_token_id")
    ends = usual_ends({token: at for at, token in enumerate(meta["tokenizer.ggml.tokens"])})
    data = np.memmap(file, np.uint8, "r")
    return Source(
        file, (file,), meta, {name: tensor.shape[::-1] for name, tensor in parts.items()},
        weights=lambda name: floats(data, parts[name]), tokenizer=vocabulary,
        bos=meta["tokenizer.ggml.bos_token_id"] if meta.get("tokenizer.ggml.add_bos_token") else None,
        ends=ends if eos is None else ends | {eos},
    )  # fmt: skip


def floats(data: np.ndarray[Any, Any], tensor: Tensor) -> np.ndarray[Any, Any]:
    """A GGUF tensor as float32, (outputs, inputs) or (size,)."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize, quant_shape_to_byte_shape

    kind = GGMLQuantizationType(tensor.type)
    block, size = GGML_QUANT_SIZES[kind]
    raw = data[tensor.offset : tensor.offset + math.prod(tensor.shape) // block * size]
    shape = tensor.shape[::-1]
    plain = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}.get(kind)
    if plain is not None:
        return raw.view(plain).reshape(shape).astype(np.float32, copy=False)
    return dequantize(raw.reshape(quant_shape_to_byte_shape(shape, kind)), kind).astype(np.float32, copy=False)
