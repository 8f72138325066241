"""Every passage's labels as columns in memory, so that a filter is a few array operations over a million rows.

A value is a code into a vocabulary: a filter asks each distinct value once and looks the answer up for each row.
Rows are in the order of n, new ones at the end. Columns are never changed, only succeeded.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retrieval.backends.local.record import Label
from retrieval.passage import Filter, in_force, national, speaks

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Column:
    """`codes[row]` indexes `values`."""

    codes: npt.NDArray[np.int32]
    values: tuple[str, ...]

    def where(self, admits: Callable[[str], bool]) -> Mask:
        """For each row, whether `admits` holds for its value."""
        table = np.fromiter(map(admits, self.values), np.bool_, len(self.values))
        mask: Mask = table[self.codes] if len(self.values) else np.zeros(len(self.codes), np.bool_)
        return mask

    def extended(self, values: list[str]) -> Column:
        """A column with these values at its end."""
        known = {value: code for code, value in enumerate(self.values)}
        codes = [known.setdefault(value, len(known)) for value in values]
        return Column(np.concatenate([self.codes, np.array(codes, np.int32)]), tuple(known))


_EMPTY = Column(np.zeros(0, np.int32), ())


@dataclass(frozen=True, slots=True)
class Columns:
    """`alive[row]` is false for a passage that was withdrawn while some cache still holds it."""

    n: npt.NDArray[np.int64]
    alive: Mask
    region: Column = _EMPTY
    language: Column = _EMPTY
    kind: Column = _EMPTY
    tags: Column = _EMPTY
    dates: Column = _EMPTY  # "from/to"

    def extended(self, labels: list[Label]) -> Columns:
        """Columns with these labels as new rows; n must grow."""
        if not labels:
            return self
        n, region, language, kind, tags, start, end = map(list, zip(*labels, strict=True))
        return Columns(
            np.concatenate([self.n, np.array(n, np.int64)]),
            np.concatenate([self.alive, np.ones(len(labels), np.bool_)]),
            self.region.extended(region),
            self.language.extended(language),
            self.kind.extended(kind),
            self.tags.extended(tags),
            self.dates.extended([f"{a}/{b}" for a, b in zip(start, end, strict=True)]),
        )

    def without(self, numbers: list[int]) -> Columns:
        """Columns in which the passages of these numbers are dead."""
        alive = self.alive.copy()
        alive[self.locate(np.array(numbers, np.int64))[0]] = False
        return Columns(self.n, alive, self.region, self.language, self.kind, self.tags, self.dates)

    def locate(self, numbers: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Mask]:
        """The rows of those numbers that are known, and which are."""
        found = np.searchsorted(self.n, numbers)
        found[found == len(self.n)] = 0
        known: Mask = self.n[found] == numbers if len(self.n) else np.zeros(len(numbers), np.bool_)
        return found[known], known

    def mask(self, where: Filter) -> Mask:
        """What `Filter.admits` says, for every row, and alive."""
        mask = self.alive
        if where.region is not None:
            region, strict = where.region, where.strict
            mask = mask & self.region.where(lambda v: v == region or (national(v) and not strict))
        if where.language is not None:
            wanted, strict = where.language, where.strict
            mask = mask & self.language.where(lambda v: speaks(v, wanted, strict))
        if where.kind is not None:
            mask = mask & self.kind.where(lambda v: v == where.kind)
        if where.on is not None:
            on = where.on
            mask = mask & self.dates.where(lambda v: in_force(v.partition("/")[0], v.partition("/")[2], on))
        if where.tags:
            wanted_tags = set(where.tags)
            mask = mask & self.tags.where(lambda v: wanted_tags <= set(json.loads(v)))
        return mask


@dataclass(frozen=True, slots=True)
class Allowed:
    """The rows that a search may return. `bits` is the mask packed for FAISS."""

    mask: Mask
    count: int
    bits: npt.NDArray[np.uint8]

    @staticmethod
    def of(mask: Mask) -> Allowed:
        """Count and pack a mask."""
        return Allowed(mask, int(np.count_nonzero(mask)), np.packbits(mask, bitorder="little"))

    @property
    def all(self) -> bool:
        """Whether no row is left out."""
        return self.count == len(self.mask)


def best_first(
    rows: npt.NDArray[np.int64], scores: npt.NDArray[np.float32], tie: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Ties in the order of rows; sums that were added up in another order differ by a share of less than `tie`."""
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    step = -np.diff(falling, prepend=falling[:1]) > tie * np.abs(falling)
    order = order[np.lexsort((rows[order], np.cumsum(step)))]
    return rows[order], scores[order]


def load(labels: list[Label], known: npt.NDArray[np.int64]) -> Columns:
    """Columns of all live passages, with dead rows for those of `known` that are gone."""
    live = np.array([label[0] for label in labels], np.int64)
    dead = np.setdiff1d(known, live)
    empty = Columns(np.zeros(0, np.int64), np.zeros(0, np.bool_))
    if not len(dead):
        return empty.extended(labels)
    gone: list[Label] = [(int(n), "", "", "", "[]", "", "") for n in dead]
    return empty.extended(sorted([*labels, *gone])).without([int(n) for n in dead])
