"""A document on its way into a store."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retrieval.passage import Passage


@dataclass(frozen=True, slots=True)
class Entry:
    """A document ready to be stored: its chunks, and a vector for each where the index has an embedder."""

    document: Passage
    chunks: tuple[Passage, ...]
    vectors: npt.NDArray[np.float16] | None = None
