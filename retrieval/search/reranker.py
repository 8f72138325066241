"""A cross-encoder that reads query and passage together: slower, better, optional."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from typing import Any

from retrieval.passage import Hit

AHEAD = 3  # candidates read for each hit wanted


class Reranker:
    """A sentence-transformers CrossEncoder, by name or folder, loaded when first used."""

    def __init__(self, name: str, model: Any = None) -> None:
        self.name, self._model, self._lock = name, model, threading.Lock()

    def order(self, query: str, hits: list[Hit], k: int) -> list[Hit]:
        """The first few anew by the model's score (0 to 1), the rest behind them as they were."""
        head, tail = hits[: max(AHEAD * k, 20)], hits[max(AHEAD * k, 20) :]
        if not head:
            return hits
        with self._lock:
            if self._model is None:
                from sentence_transformers import CrossEncoder

                self._model = CrossEncoder(self.name, device="cpu", trust_remote_code=False)
            scores = self._model.predict([(query, _text(hit)) for hit in head], show_progress_bar=False)
        scored = [replace(hit, rerank=_unit(float(score))) for hit, score in zip(head, scores, strict=True)]
        return sorted(scored, key=lambda hit: (-(hit.rerank or 0.0), hit.id)) + tail


def _text(hit: Hit) -> str:
    return f"{hit.title}\n{hit.text}" if hit.title else hit.text


def _unit(score: float) -> float:
    """CrossEncoder already applies a sigmoid for models with one label; others give a logit."""
    return score if 0.0 <= score <= 1.0 else 1.0 / (1.0 + math.exp(-score))
