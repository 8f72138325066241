"""How the next token is chosen: OpenAI's sampling fields on one row of logits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, slots=True)
class Sampling:
    """The fields of a request that decide about tokens; the defaults are OpenAI's."""

    temperature: float = 1.0  # 0: always the most likely token
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    min_p: float = 0.0  # of the most likely token's probability
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0  # over prompt and answer, as in CTRL (Keskar et al., 2019)
    logit_bias: Mapping[int, float] = field(default_factory=dict)  # by token id
    seed: int | None = None
    max_tokens: int = 16
    stop: tuple[str, ...] = ()
    logprobs: int | None = None  # how many alternatives to tell beside the chosen token; None: no log-probabilities
    ignore_eos: bool = False  # go on after the end-of-text token


def choose(logits: Floats, it: Sampling, said: Counter[int], prompt: frozenset[int], rng: np.random.Generator) -> int:
    """The next token's id.

    Args:
        logits: (vocabulary,), left as they are.
        said: how often each token is in the answer so far.
        prompt: the prompt's tokens.
    """
    logits = _weighted(logits, it, said, prompt)
    if it.temperature == 0:
        return int(logits.argmax())
    logits = logits / it.temperature
    if it.top_k and it.top_k < len(logits):
        logits = np.where(logits < np.partition(logits, -it.top_k)[-it.top_k], -np.inf, logits)
    p = np.exp(logits - logits.max())
    p /= p.sum()
    if it.min_p:
        p[p < it.min_p * p.max()] = 0
    if it.top_p < 1:
        order = np.argsort(-p, kind="stable")
        before = np.cumsum(p[order]) - p[order]  # the most likely one always stays
        p[order[before >= it.top_p]] = 0
    sums = np.cumsum(p, dtype=np.float64)
    return int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))


def _weighted(logits: Floats, it: Sampling, said: Counter[int], prompt: frozenset[int]) -> Floats:
    """The logits with penalties and biases; a copy where there are any."""
    penalised = bool(said) and bool(it.presence_penalty or it.frequency_penalty)
    if not (penalised or it.logit_bias or it.repetition_penalty != 1):
        return logits
    logits = logits.astype(np.float32, copy=True)
    if it.repetition_penalty != 1:
        seen = np.fromiter(prompt | said.keys(), np.int64)
        logits[seen] = np.where(
            logits[seen] > 0, logits[seen] / it.repetition_penalty, logits[seen] * it.repetition_penalty
        )
    for token, times in said.items() if penalised else ():
        logits[token] -= it.presence_penalty + it.frequency_penalty * times
    for token, bias in it.logit_bias.items():
        if 0 <= token < len(logits):
            logits[token] += bias
    return logits


def log_softmax(logits: Floats) -> Floats:
    """Log-probabilities along the last axis."""
    shifted: Floats = logits - logits.max(-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(-1, keepdims=True))
    return shifted
