"""A small set of rows that are good and unlike one another (DEITA, Liu et al. 2023, arXiv:2312.15685, algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt


def diverse(
    scores: Sequence[float], vectors: npt.NDArray[np.float32], size: int, threshold: float, order: Iterable[int] = ()
) -> list[int]:
    """The places of at most `size` rows, from the highest score down, each unlike those before it.

    A row is left out where a row that was kept has a cosine of `threshold` or more with it. Of equal scores the earlier
    row comes first.

    Args:
        vectors: unit vectors, shape (rows, dimension).
        order: the places to go through instead of those of the falling scores, for a progress bar around them.
    """
    kept: list[int] = []
    near = np.empty((min(size, len(scores)), vectors.shape[1] if len(scores) else 0), dtype=np.float32)
    for at in order or descending(scores):
        if len(kept) == size:
            break
        if not kept or float((near[: len(kept)] @ vectors[at]).max()) < threshold:
            near[len(kept)] = vectors[at]
            kept.append(at)
    return kept


def descending(scores: Sequence[float]) -> list[int]:
    """The places of the scores from the highest down."""
    return sorted(range(len(scores)), key=lambda at: -scores[at])
