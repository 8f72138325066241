"""The trained judge of a rewrite: the words of both texts where they stand, and what the rules doubt.

An embedder's middle layers give each word of the prompt and of the rewrite a vector. One hidden layer sees the means of
the prompt's, of the rewrite's and of the new words' (and the extremes of these), how near each text's words come to the
other's, and some counts.
The weights (`additions.safetensors`) come from `trimtab train gate`; `additions.md` says what they learned from
and how well they do. Texts are cut off before they are embedded, so the cost of embedding them is bounded.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from prompt_opt.gate.additions import Comparison, Span, compare, keys
from prompt_opt.gate.rules import DOUBTS, Mode

Array = npt.NDArray[np.float32]
EMBEDDER, LAYER = "multilingual-e5-small", 8
MODES: tuple[Mode, ...] = ("replace", "complement")
MOST = 192  # tokens of a text that are embedded
VECTORS = 5  # of the new words the mean, the greatest and the least values; of the prompt and of the rewrite the mean
_NEAR = 0.5  # a word whose nearest one has less is far from the other text
_KEPT = 32  # prompts whose token vectors are kept, of 295 kB each at most


class Tokens(Protocol):
    """A text's tokens: their vectors, shape (tokens, dimension), and where each stands in it."""

    @property
    def vectors(self) -> Array: ...  # noqa: D102
    @property
    def spans(self) -> tuple[Span, ...]: ...  # noqa: D102


class Embed(Protocol):
    """Gives texts' tokens; `id` names what decides the vectors."""

    @property
    def id(self) -> str: ...  # noqa: D102
    def __call__(self, texts: Sequence[str]) -> Sequence[Tokens]: ...  # noqa: D102


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """One hidden layer. Shapes: mean and scale (inputs,), hidden (inputs, units), out (units,)."""

    center: Array  # of token vectors, (dimension,)
    mean: Array
    scale: Array
    hidden: Array
    hidden_bias: Array
    out: Array
    out_bias: float
    thresholds: Array  # by MODES; a rewrite with a higher score is rejected
    embedder: str  # the `id` of the one that they were trained on


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
        """Loads the weights that come with the package, where none are given.

        Raises:
            ValueError: the weights were trained on another embedder's vectors.
        """
        self._weights = weights or load()
        if self._weights.embedder != embed.id:
            raise ValueError(
                f"the gate's weights were trained on the vectors of {self._weights.embedder}, and those here are of"
                f' {embed.id}: train them anew (trimtab train gate) or use additions = "exact"'
            )
        self._embed = embed
        self._prompt: Callable[[str], Tokens] = lru_cache(_KEPT)(lambda text: embed([text])[0])

    def prepare(self, prompt: str) -> None:
        """Embed a prompt before its rewrite is there, so that the verdict need not."""
        self._prompt(prompt)

    def __call__(self, original: str, rewrite: str, mode: Mode, doubts: Collection[str] = ()) -> str:
        """What makes a harmful rewrite so: its new sentence furthest from the prompt, or else the words that went, or
        else the doubts; "" for a rewrite that is judged harmless.

        `doubts` are the rules that object without being sure.
        """
        found = compare(original, rewrite, mode)
        if not found.added and not found.removed and not doubts:
            return ""
        before, after = self._prompt(original), self._embed([rewrite])[0]
        edit = Edit(original, rewrite, mode, frozenset(doubts))
        score = rated(features(edit, found, before, after, self._weights.center), self._weights)
        if score <= self._weights.thresholds[MODES.index(mode)]:
            return ""
        if found.added:
            near = _nearest(after, before, self._weights.center).max(axis=1, initial=-1.0)
            start, end = min(found.added, key=lambda row: _mean(near, _within(after.spans, row[1])))[0]
            return f"+ {rewrite[start:end].strip()}"
        return " ".join(f"- {original[a:b]}" for _, gone in found.removed for a, b in gone) or ", ".join(sorted(doubts))


def rated(inputs: Array, w: Weights) -> float:
    """How harmful a rewrite looks, 0 to 1. `inputs` are of `features`, shape (inputs,)."""
    inner = np.maximum((inputs - w.mean) / w.scale @ w.hidden + w.hidden_bias, 0.0)
    logit = float(inner @ w.out + w.out_bias)
    return 1.0 / (1.0 + math.exp(-max(-50.0, min(50.0, logit))))


def features(edit: Edit, found: Comparison, before: Tokens, after: Tokens, center: Array) -> Array:
    """The model's input: VECTORS pooled vectors, how near the texts' words are to each other, and counts."""
    new = _within(after.spans, [span for _, spans in found.added for span in spans])
    gone = _within(before.spans, [span for _, spans in found.removed for span in spans])
    cosines = _nearest(after, before, center)
    to_prompt, to_rewrite = cosines.max(axis=1, initial=-1.0), cosines.max(axis=0, initial=-1.0)
    nearness = [*_spread(to_prompt[new]), *_spread(to_rewrite[gone]), *_spread(to_prompt), *_spread(to_rewrite)]
    added, zero = after.vectors[new] - center, np.zeros_like(center)
    pooled = [added.mean(axis=0), added.max(axis=0), added.min(axis=0)] if new else [zero] * 3
    pooled += [t.vectors.mean(axis=0) - center if t.spans else zero for t in (before, after)]
    return np.concatenate([*pooled, np.array([*nearness, *_counts(edit, found)])]).astype(np.float32)


def _within(spans: Sequence[Span], changed: Sequence[Span]) -> list[int]:
    """Which tokens overlap with what changed; both are in the order of the text."""
    out, at = [], 0
    for i, (start, end) in enumerate(spans):
        while at < len(changed) and changed[at][1] <= start:
            at += 1
        if at < len(changed) and changed[at][0] < end:
            out.append(i)
    return out


def _nearest(after: Tokens, before: Tokens, center: Array) -> Array:
    """Cosines of the rewrite's tokens and the prompt's, shape (rewrite, prompt)."""
    one, other = (_unit(tokens.vectors - center) for tokens in (after, before))
    cosines: Array = one @ other.T
    return cosines


def _unit(vectors: Array) -> Array:
    unit: Array = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    return unit


def _spread(near: Array) -> list[float]:
    """Of some tokens' greatest cosines: the mean, the least, the share of far ones, the mean of the least three."""
    if not len(near):
        return [0.0] * 4
    return [float(near.mean()), float(near.min()), float((near < _NEAR).mean()), float(np.sort(near)[:3].mean())]


def _mean(values: Array, at: Sequence[int]) -> float:
    return float(values[list(at)].mean()) if at else 1.0


def _counts(edit: Edit, found: Comparison) -> list[float]:
    """The doubts, the rewrite's form and length, and how much of the words is old and new."""
    old, now = Counter(keys(edit.prompt)), Counter(keys(edit.rewrite))
    length, own = (len(text.encode("utf-8", "replace")) for text in (edit.rewrite, edit.prompt))
    (had, has), (gone, new) = found.words, found.changed
    return [
        *(float(name in edit.doubts) for name in DOUBTS),
        float(edit.mode == "complement"),
        math.log((length + 1) / (own + 1)),
        math.log1p(own),
        float(len(found.added)), float(len(found.removed)), math.log1p(new), math.log1p(gone),
        new / max(1, has), gone / max(1, had), (old & now).total() / max(1, old.total()),
        *(float(any(sign in text for sign in "?？")) for text in (edit.prompt, edit.rewrite)),
        float("\n" in edit.rewrite),
    ]  # fmt: skip


def load(path: Path | None = None) -> Weights:
    """The weights of a safetensors file, by default the ones that come with the package.

    Raises:
        ValueError: the file holds other tensors, or does not say which embedder it was trained on.
    """
    import json

    from safetensors.numpy import load as deserialize

    data = path.read_bytes() if path else files("prompt_opt.gate").joinpath("additions.safetensors").read_bytes()
    head = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    tensors = {name: tensor.astype(np.float32) for name, tensor in deserialize(data).items()}
    try:
        return Weights(
            tensors["center"], tensors["mean"], tensors["scale"], tensors["hidden"], tensors["hidden_bias"],
            tensors["out"], float(tensors["out_bias"][0]), tensors["thresholds"],
            head["__metadata__"]["embedder"],
        )  # fmt: skip
    except KeyError as error:
        raise ValueError(f"no {error} in the weights of the gate") from None
