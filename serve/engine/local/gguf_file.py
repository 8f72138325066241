"""A model in a GGUF file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from serve.engine.local.source import Source, usual_ends
from serve.engine.vocabulary import tokenizer
from serve.gguf import GgufError, Tensor, metadata, tensors


def read(file: Path) -> Source:
    """The model in a file.

    Raises:
        GgufError: it cannot be read, or its tokenizer is of another kind; the message says which.
        OSError: the file cannot be read.
    """
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
