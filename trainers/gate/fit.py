"""Fits the gate's model: one hidden layer, by AdamW, in numpy, so that a seed gives the same weights again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prompt_opt.gate.scorer import MODES, VECTORS, Array, Weights


@dataclass(frozen=True, slots=True)
class Settings:
    """How the model is trained."""

    members: int = 4  # networks, whose mean is the model
    units: int = 48  # of each
    epochs: int = 30
    batch: int = 128  # rewrites
    rate: float = 2e-3  # at its highest, after the first 30% of the steps
    decay: float = 0.1
    smoothing: float = 0.05  # how far the labels are from 0 and 1
    dropout: float = 0.5  # of the input
    inner_dropout: float = 0.3
    counts: float = 0.6  # the standard deviation of the inputs that are no vectors; the others' is 1
    seed: int = 17


def fit(inputs: Array, harmful: Sequence[bool], center: Array, embedder: str, settings: Settings) -> Weights:
    """Weights that tell harmful rewrites. The thresholds are left at 0.5.

    Args:
        inputs: of `scorer.features`, shape (rewrites, inputs).
        harmful: of each rewrite.
        center: the mean of token vectors.
        embedder: the `id` of what gave the vectors.
    """
    rng = np.random.default_rng(settings.seed)
    mean, scale = inputs.mean(axis=0), inputs.std(axis=0) / settings.counts
    for start in range(0, VECTORS * len(center), len(center)):  # each as a whole, or small directions would be blown up
        part = slice(start, start + len(center))
        scale[part] = math.sqrt(float((scale[part] ** 2).mean())) * settings.counts
    scale = np.maximum(scale, 1e-6).astype(np.float32)
    x = ((inputs - mean) / scale).astype(np.float32)
    labels = np.array(harmful, np.float32) * (1 - 2 * settings.smoothing) + settings.smoothing
    members = [_member(x, labels, settings, rng) for _ in range(settings.members)]
    joined = {name: np.concatenate([member[name] for member in members], axis=-1) for name in members[0]}
    joined["out"] = joined["out"] / settings.members  # the mean of networks side by side is a network
    joined["out_bias"] = joined["out_bias"].mean(keepdims=True)
    half = {name: value.astype(np.float16).astype(np.float32) for name, value in joined.items()}
    return Weights(
        center, mean, scale, half["hidden"], half["hidden_bias"], half["out"], float(half["out_bias"][0]),
        np.full(len(MODES), 0.5, np.float32), embedder,
    )  # fmt: skip


def _member(x: Array, labels: Array, settings: Settings, rng: np.random.Generator) -> dict[str, Array]:
    """The parameters of one network."""
    size = x.shape[1]
    params = {
        "hidden": rng.uniform(-1, 1, (size, settings.units)) / size**0.5,
        "hidden_bias": np.zeros(settings.units),
        "out": rng.uniform(-1, 1, settings.units) / settings.units**0.5,
        "out_bias": np.zeros(1),
    }
    params = {name: value.astype(np.float32) for name, value in params.items()}
    moments = {name: (np.zeros_like(value), np.zeros_like(value)) for name, value in params.items()}
    steps = settings.epochs * -(-len(x) // settings.batch)
    step = 0
    for _ in range(settings.epochs):
        order = rng.permutation(len(x))
        for start in range(0, len(order), settings.batch):
            batch, step = order[start : start + settings.batch], step + 1
            gradients = _gradients(params, x[batch], labels[batch], settings, rng)
            rate = settings.rate * _pace(step / steps)
            for name, gradient in gradients.items():
                params[name] *= 1 - rate * settings.decay
                _advance(params[name], gradient, moments[name], step, rate)
    return params


def _pace(done: float) -> float:
    """The share of the highest rate: up in the first 30%, then down to 0, both along half a cosine."""
    return (1 - math.cos(math.pi * (done / 0.3 if done < 0.3 else (1 - done) / 0.7))) / 2


def _gradients(
    params: dict[str, Array], x: Array, y: Array, settings: Settings, rng: np.random.Generator
) -> dict[str, Array]:
    """Of the mean cross-entropy, with inverted dropout on both layers' inputs."""
    x = x * _kept(x.shape, settings.dropout, rng)
    before = x @ params["hidden"] + params["hidden_bias"]
    mask = _kept(before.shape, settings.inner_dropout, rng)
    inner = np.maximum(before, 0) * mask
    logits = inner @ params["out"] + params["out_bias"]
    wrong = (1 / (1 + np.exp(-logits)) - y) / np.float32(len(y))
    back = np.outer(wrong, params["out"]) * mask * (before > 0)
    return {
        "hidden": x.T @ back,
        "hidden_bias": back.sum(axis=0),
        "out": inner.T @ wrong,
        "out_bias": wrong.sum(keepdims=True),
    }


def _kept(shape: tuple[int, ...], dropout: float, rng: np.random.Generator) -> Array:
    """The factors of inverted dropout."""
    return (rng.random(shape, np.float32) >= dropout) * np.float32(1 / (1 - dropout))


def _advance(value: Array, gradient: Array, moments: tuple[Array, Array], step: int, rate: float) -> None:
    """One step of Adam (Kingma and Ba, arXiv 1412.6980), in place."""
    first, second = moments
    first += 0.1 * (gradient - first)
    second += 0.001 * (gradient * gradient - second)
    scale = (1 - 0.999**step) ** 0.5 / (1 - 0.9**step)
    value -= rate * scale * first / (np.sqrt(second) + 1e-8)
