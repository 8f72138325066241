"""The trained judge of what a rewrite adds: embeddings of the changed spans through one hidden layer.

The weights (`additions.safetensors`) come from `trimtab train gate`; `additions.md` says what they learned from
and how well they do. It sees only spans, never a whole prompt, so its cost hardly depends on how long that is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from difflib import SequenceMatcher
from importlib.resources import files
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from prompt_opt.gate.additions import Change, changes

Array = npt.NDArray[np.float32]
EMBEDDER = "multilingual-e5-small"
FLAGS = 5  # what `features` adds to the two vectors
DOUBTED = 0.2  # the threshold where a rule on words objects; chosen on the sets written by hand in tests/data/gate
_COMPARED = 400  # characters of both spans together
_SCALE = 8.0  # brings centred unit vectors of this embedder to about the flags' size
Embed = Callable[[list[str]], Array]  # texts to unit vectors, shape (texts, dimension)


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """One hidden layer. Shapes: means (dimension,), hidden (2 * dimension + FLAGS, units), out (units,)."""

    added_mean: Array
    removed_mean: Array
    hidden: Array
    hidden_bias: Array
    out: Array
    out_bias: float
    threshold: float  # a change with a higher score is rejected


class Scorer:
    """Judges the changes of a rewrite; made once, used from any thread that `embed` can be used from."""

    def __init__(self, embed: Embed, weights: Weights | None = None) -> None:
        self._embed, self._weights = embed, weights or load()

    def __call__(self, original: str, rewrite: str, mode: Literal["replace", "complement"], doubt: str = "") -> str:
        """The worst of the changes, where that is worse than the threshold; else "".

        The threshold is lower where a rule on words objects as well: `doubt` is what it saw, or "".
        """
        found = changes(original, rewrite, mode)
        if not found:
            return ""
        scores = self.scores(found)
        worst = max(range(len(found)), key=lambda i: scores[i])
        if scores[worst] <= (DOUBTED if doubt else self._weights.threshold):
            return ""
        change = found[worst]
        shown = f"+ {change.added}" if change.added else ""
        return " ".join(part for part in (shown, f"- {change.removed}" if change.removed else "") if part)

    def scores(self, found: tuple[Change, ...]) -> list[float]:
        """How harmful each change looks, 0 to 1."""
        w = self._weights
        inner = np.maximum(features(found, self._embed, w.added_mean, w.removed_mean) @ w.hidden + w.hidden_bias, 0.0)
        return [1.0 / (1.0 + math.exp(-float(x))) for x in inner @ w.out + w.out_bias]


def features(found: tuple[Change, ...], embed: Embed, added_mean: Array, removed_mean: Array) -> Array:
    """The model's input, shape (changes, 2 * dimension + FLAGS): centred vectors of both spans, and what they are."""
    texts = [text for text in dict.fromkeys(t for c in found for t in (c.added, c.removed)) if text]
    vectors = dict(zip(texts, embed(texts), strict=True))
    rows = []
    for change in found:
        spans = ((change.added, added_mean), (change.removed, removed_mean))
        parts = [(vectors[text] - mean) * _SCALE if text else np.zeros_like(mean) for text, mean in spans]
        rows.append(np.concatenate([*parts, np.array(_flags(change), np.float32)]))
    return np.stack(rows).astype(np.float32)


def _flags(change: Change) -> list[float]:
    asks = any(sign in change.added for sign in "?？")
    return [
        float(bool(change.added)),
        float(bool(change.removed)),
        float(asks),
        math.log1p(len(change.added.encode())) / 4 - 1,
        _alike(change),
    ]


def _alike(change: Change) -> float:
    """How many letters both spans share, in order, 0 to 1: much where a word was only spelt right."""
    if not change.added or not change.removed or len(change.added) + len(change.removed) > _COMPARED:
        return 0.0
    return SequenceMatcher(None, change.added.lower(), change.removed.lower(), autojunk=False).ratio()


def load(path: Path | None = None) -> Weights:
    """The weights of a safetensors file, by default the ones that come with the package.

    Raises:
        ValueError: the file holds other tensors.
    """
    from safetensors.numpy import load as deserialize

    data = path.read_bytes() if path else files("prompt_opt.gate").joinpath("additions.safetensors").read_bytes()
    tensors = {name: tensor.astype(np.float32) for name, tensor in deserialize(data).items()}
    try:
        return Weights(
            tensors["added_mean"], tensors["removed_mean"], tensors["hidden"], tensors["hidden_bias"], tensors["out"],
            float(tensors["out_bias"][0]), float(tensors["threshold"][0]),
        )  # fmt: skip
    except KeyError as error:
        raise ValueError(f"no tensor {error} in the weights of the gate") from None
