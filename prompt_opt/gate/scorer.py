"""The trained judge of a rewrite: embeddings of what changed, and what the rules doubt, through one hidden layer.

The weights (`additions.safetensors`) come from `trimtab train gate`; `additions.md` says what they learned from
and how well they do. A rewrite is as harmful as its worst change. Texts are cut off before they are embedded, so the
cost of a verdict is bounded.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prompt_opt.gate.additions import Change, changes, words
from prompt_opt.gate.rules import DOUBTS, Mode

Array = npt.NDArray[np.float32]
EMBEDDER = "multilingual-e5-small"
FLAGS = 16 + len(DOUBTS)  # what `features` adds to the four vectors
_COMPARED = 400  # characters of both spans together
_SPAN, _PROMPT = 260, 400  # bytes of a text that are embedded: 65 and 100 tokens in any script
_KEPT = 256  # prompts whose vectors are kept
_SCALE = 8.0  # brings centred unit vectors of this embedder to about the flags' size
Embed = Callable[[list[str]], Array]  # texts to unit vectors, shape (texts, dimension)


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """One hidden layer. Shapes: mean (dimension,), hidden (4 * dimension + FLAGS, units), out (units,)."""

    mean: Array
    hidden: Array
    hidden_bias: Array
    out: Array
    out_bias: float
    threshold: float  # a rewrite with a higher score is rejected


@dataclass(frozen=True, slots=True)
class Edit:
    """A prompt and its rewrite, or the hint to stand after it, and the rules of `DOUBTS` that object."""

    prompt: str
    rewrite: str
    mode: Mode
    doubts: frozenset[str]


class Scorer:
    """Judges rewrites; made once, used from any thread that `embed` can be used from."""

    def __init__(self, embed: Embed, weights: Weights | None = None) -> None:
        self._embed, self._weights = embed, weights or load()
        self._prompt = lru_cache(_KEPT)(lambda text: embed([text])[0])

    def prepare(self, prompt: str) -> None:
        """Embed a prompt before its rewrite is there, so that the verdict need not."""
        self._prompt(opening(prompt))

    def __call__(self, original: str, rewrite: str, mode: Mode, doubts: Collection[str] = ()) -> str:
        """The worst of the changes, where that is worse than the threshold; else "".

        `doubts` are the rules that object without being sure.
        """
        edit = Edit(original, rewrite, mode, frozenset(doubts))
        found = changes(original, rewrite, mode)
        if not found and not doubts:
            return ""
        scores = self.scores(edit, found)
        worst = max(range(len(scores)), key=lambda i: scores[i])
        if scores[worst] <= self._weights.threshold:
            return ""
        change = found[worst] if found else Change("", "")
        shown = [f"+ {change.added}" if change.added else "", f"- {change.removed}" if change.removed else ""]
        return " ".join(part for part in shown if part) or ", ".join(sorted(doubts))

    def scores(self, edit: Edit, found: tuple[Change, ...]) -> list[float]:
        """How harmful each change looks, 0 to 1; one score where there is no change."""
        w = self._weights
        texts = spans(found)
        vectors = dict(zip(texts, self._embed(texts), strict=True)) if texts else {}
        inputs = features(edit, found, vectors, self._prompt(opening(edit.prompt)), w.mean)
        return rated(inputs, w)


def rated(inputs: Array, w: Weights) -> list[float]:
    """How harmful each change looks, 0 to 1. `inputs` are of `features`, shape (changes, 4 * dimension + FLAGS)."""
    inner = np.maximum(inputs @ w.hidden + w.hidden_bias, 0.0)
    return [1.0 / (1.0 + math.exp(-float(x))) for x in inner @ w.out + w.out_bias]


def spans(found: tuple[Change, ...]) -> list[str]:
    """The texts that `features` wants vectors of."""
    return [t for t in dict.fromkeys(_cut(t, _SPAN) for c in found for t in (c.added, c.removed)) if t]


def opening(prompt: str) -> str:
    """As much of a prompt as is embedded."""
    return _cut(prompt, _PROMPT)


def features(edit: Edit, found: tuple[Change, ...], vectors: dict[str, Array], prompt: Array, mean: Array) -> Array:
    """The model's input, shape (changes, 4 * dimension + FLAGS).

    Centred vectors of the added and the removed span, of the prompt and, as their mean, of all that is added; what the
    spans are, and what the whole is.
    """
    whole = _whole(edit, len(found))
    about = (prompt - mean) * _SCALE
    pairs = [
        tuple((vectors[_cut(t, _SPAN)] - mean) * _SCALE if t else np.zeros_like(mean) for t in (c.added, c.removed))
        for c in found or (Change("", ""),)
    ]
    everything = np.mean([added for added, _ in pairs], axis=0)
    rows = []
    for change, (added, removed) in zip(found or (Change("", ""),), pairs, strict=True):
        flags = [*_flags(change), 2 * _cosine(added, about), 2 * _cosine(added, removed), *whole]
        rows.append(np.concatenate([added, removed, about, everything, np.array(flags, np.float32)]))
    return np.stack(rows).astype(np.float32)


def _whole(edit: Edit, count: int) -> list[float]:
    """What a rewrite is as a whole: the doubts, its form and length, and how many of the words are old and new."""
    old, new = Counter(words(edit.prompt)), Counter(words(edit.rewrite))
    return [
        *(float(name in edit.doubts) for name in DOUBTS),
        float(edit.mode == "complement"),
        math.log((len(edit.rewrite.encode()) + 1) / (len(edit.prompt.encode()) + 1)),
        math.log1p(len(edit.prompt.encode())) / 4 - 1,
        math.log1p(count) - 1,
        (old & new).total() / max(1, old.total()),
        (new - old).total() / max(1, new.total()),
        *(float(any(sign in text for sign in "?？")) for text in (edit.prompt, edit.rewrite)),
        float("\n" in edit.rewrite),
    ]


def _cut(text: str, most: int) -> str:
    """A text's beginning, of so many bytes at most."""
    return text if len(text) * 4 <= most else text.encode("utf-8", "replace")[:most].decode("utf-8", "ignore")


def _cosine(one: Array, other: Array) -> float:
    norms = math.sqrt(float(one @ one) * float(other @ other))
    return float(one @ other) / norms if norms else 0.0


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
            tensors["mean"], tensors["hidden"], tensors["hidden_bias"], tensors["out"],
            float(tensors["out_bias"][0]), float(tensors["threshold"][0]),
        )  # fmt: skip
    except KeyError as error:
        raise ValueError(f"no tensor {error} in the weights of the gate") from None
