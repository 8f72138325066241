"""What the engine reads of a model, whichever files it is in: facts, tokenizer, tensors.

GGUF's names are the engine's own: a folder of transformers (`folder`) is described by them as a GGUF file
(`gguf_file`) is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

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


def usual_ends(tokens: Mapping[str, int]) -> frozenset[int]:
    """The tokens that end a turn or a text by their usual names, of a vocabulary."""
    return frozenset(tokens[name] for name in _ENDS if name in tokens)
