"""Fits the gate's model: one hidden layer, by Adam, in numpy, so that a seed gives the same weights again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prompt_opt.gate.scorer import Array, Weights

_Float = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Settings:
    """How the model is trained."""

    members: int = 2  # networks, whose mean is the model
    units: int = 192  # of each
    epochs: int = 30  # each of as many draws as there are changes
    batch: int = 128
    rate: float = 3e-3
    smoothing: float = 0.05  # how far the labels are from 0 and 1
    dropout: float = 0.4  # of the input
    inner_dropout: float = 0.3
    seed: int = 17


def fit(
    inputs: Array, harmful: Array, often: Array, added_mean: Array, removed_mean: Array, settings: Settings
) -> Weights:
    """Weights that tell harmful changes by their features.

    Args:
        inputs: of `scorer.features`, shape (changes, features).
        harmful: 1 or 0, shape (changes,).
        often: how often a change is drawn, in relation to the others, shape (changes,).
    """
    rng = np.random.default_rng(settings.seed)
    chances = often / often.sum()
    labels = harmful * (1 - 2 * settings.smoothing) + settings.smoothing
    members = [_member(inputs, labels, chances, settings, rng) for _ in range(settings.members)]
    joined = {name: np.concatenate([member[name] for member in members], axis=-1) for name in members[0]}
    joined["out"] = joined["out"] / settings.members  # the mean of networks side by side is a network
    joined["out_bias"] = joined["out_bias"].mean(keepdims=True)
    half = {name: value.astype(np.float16).astype(np.float32) for name, value in joined.items()}
    return Weights(
        added_mean, removed_mean, half["hidden"], half["hidden_bias"], half["out"], float(half["out_bias"][0]), 0.5
    )


def _member(
    inputs: Array, labels: Array, chances: Array, settings: Settings, rng: np.random.Generator
) -> dict[str, _Float]:
    """The parameters of one network."""
    size = inputs.shape[1]
    params = {
        "hidden": rng.uniform(-1, 1, (size, settings.units)) / size**0.5,
        "hidden_bias": np.zeros(settings.units),
        "out": rng.uniform(-1, 1, settings.units) / settings.units**0.5,
        "out_bias": np.zeros(1),
    }
    moments = {name: (np.zeros_like(value), np.zeros_like(value)) for name, value in params.items()}
    step = 0
    for _ in range(settings.epochs):
        order = rng.choice(len(inputs), len(inputs), p=chances)
        for start in range(0, len(order), settings.batch):
            batch, step = order[start : start + settings.batch], step + 1
            gradients = _gradients(params, inputs[batch].astype(np.float64), labels[batch], settings, rng)
            for name, gradient in gradients.items():
                _advance(params[name], gradient, moments[name], step, settings)
    return params


def _gradients(
    params: dict[str, _Float], x: _Float, y: Array, settings: Settings, rng: np.random.Generator
) -> dict[str, _Float]:
    """Of the mean cross-entropy, with inverted dropout on both layers' inputs."""
    x = x * (rng.random(x.shape) >= settings.dropout) / (1 - settings.dropout)
    before = x @ params["hidden"] + params["hidden_bias"]
    mask = (rng.random(before.shape) >= settings.inner_dropout) / (1 - settings.inner_dropout)
    inner = np.maximum(before, 0) * mask
    wrong = (1 / (1 + np.exp(-(inner @ params["out"] + params["out_bias"]))) - y) / len(y)
    back = np.outer(wrong, params["out"]) * mask * (before > 0)
    return {
        "hidden": x.T @ back,
        "hidden_bias": back.sum(axis=0),
        "out": inner.T @ wrong,
        "out_bias": wrong.sum(keepdims=True),
    }


def _advance(value: _Float, gradient: _Float, moments: tuple[_Float, _Float], step: int, settings: Settings) -> None:
    """One step of Adam (Kingma and Ba, arXiv 1412.6980), in place."""
    first, second = moments
    first += 0.1 * (gradient - first)
    second += 0.001 * (gradient**2 - second)
    value -= settings.rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
