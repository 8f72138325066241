"""A document on its way into a store."""

from __future__ import annotations

from collections.abc import Mapping
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


class TakenId(ValueError):
    """Documents that cannot go in, since a chunk of each has the id of another document's passage.

    Attributes:
        taken: by each document's id, the passage id that is taken.
    """

    def __init__(self, taken: Mapping[str, str]) -> None:
        ids = list(taken.values())
        what = f"the id {ids[0]!r} is" if len(ids) == 1 else f"the ids {', '.join(map(repr, ids))} are"
        super().__init__(f"{what} that of another document's passage")
        self.taken = dict(taken)
