"""The dense side: unit vectors as half floats, scanned exactly while that is fast, by HNSW beyond.

A base, which processes share as a mapped snapshot on disk, and a delta in memory with what came since. Both
are never changed, only succeeded. Row r here is row r of `Columns`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.backends.local.columns import Allowed, best_first
from retrieval.backends.local.record import Store
from retrieval.lock import locked, replace_durably

Numbers = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
Progress = Callable[[int], None] | None

# Thresholds and settings as measured by benchmarks/retrieval.py on two cores.
ANN_FROM = 50_000  # rows from which a base is built as HNSW
LINKS, EF_BUILD = 32, 200
EF, EF_AT, EF_LEAST = 320, 140_000, 200  # recall@10 0.99 at 140,000 rows; it grows with the rows, to 1,700 at a million
EXACT_UPTO = 10_000  # allowed rows up to which a filtered search scans them
SCANNED = 16  # or so many for each that HNSW would visit: a visit costs as much as 12 to 16 rows of a scan
DELTA_UPTO = 4096  # rows of delta, or a tenth of the base if that is more, before a new base is due
DEAD_UPTO = 0.2  # share of a base's rows that may be dead before it is built anew


@dataclass(frozen=True, slots=True)
class Dense:
    """`base` is a FAISS index or None, `delta` another; `held` is how many rows each has."""

    dimension: int
    base: Any = None
    base_n: Numbers = field(default_factory=lambda: np.zeros(0, np.int64))
    delta: Any = None
    late: npt.NDArray[np.float16] | None = None  # the delta's vectors

    def extended(self, vectors: npt.NDArray[np.float16]) -> Dense:
        """The same with these unit vectors, shape (rows, dimension), added to the delta."""
        if not len(vectors):
            return self
        late = vectors if self.late is None else np.concatenate([self.late, vectors])
        delta = flat(self.dimension)
        delta.add(late.astype(np.float32))
        return Dense(self.dimension, self.base, self.base_n, delta, late)

    @property
    def due(self) -> bool:
        """A new base would pay."""
        return self.late is not None and len(self.late) > max(DELTA_UPTO, len(self.base_n) // 10)

    def search(self, query: Vectors, k: int, allowed: Allowed, exact: bool = False) -> tuple[Numbers, Vectors]:
        """Rows and cosines, best first; k of them whenever that many are allowed."""
        faiss = _faiss()
        faiss.omp_set_num_threads(1)  # holds for this thread: a second one would only wait for the first
        wanted, size = np.ascontiguousarray(query[None], np.float32), len(self.base_n)
        rows, scores = [], []
        if self.base is not None:
            found = _search_base(self.base, wanted, k, allowed, exact)
            rows.append(found[0])
            scores.append(found[1])
        if self.delta is not None:
            part = allowed.mask[size : size + self.delta.ntotal]
            late = _scan(self.delta, wanted, k, None if part.all() else np.packbits(part, bitorder="little"))
            rows.append(late[0] + size)
            scores.append(late[1])
        if not rows:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        row, score = np.concatenate(rows), np.concatenate(scores)
        row, score = best_first(row, score, 1e-6)
        return row[:k], score[:k]

    def cosines(self, query: Vectors, rows: Numbers) -> Vectors:
        """Of these rows, whatever a search found."""
        scores, size = np.zeros(len(rows), np.float32), len(self.base_n)
        early = rows < size
        if early.any():
            scores[early] = _flat_of(self.base).reconstruct_batch(rows[early]) @ query
        if self.late is not None and not early.all():
            scores[~early] = self.late[rows[~early] - size].astype(np.float32) @ query
        return scores


def _faiss() -> Any:
    logging.getLogger("faiss.loader").setLevel(
        logging.WARNING
    )  # each build that the processor can't run is a traceback
    import faiss

    return faiss


def flat(dimension: int) -> Any:
    """An empty FAISS index of half floats that scans every row."""
    faiss = _faiss()
    index = faiss.IndexScalarQuantizer(dimension, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    index.is_trained = True
    return index


def hnsw(dimension: int) -> Any:
    """An empty FAISS HNSW index over half floats."""
    faiss = _faiss()
    kind = faiss.ScalarQuantizer.QT_fp16
    index = faiss.IndexHNSWSQ(dimension, kind, LINKS, faiss.METRIC_INNER_PRODUCT)
    index.is_trained = True
    index.hnsw.efConstruction = EF_BUILD
    return index


def _flat_of(index: Any) -> Any:
    faiss = _faiss()
    return faiss.downcast_index(index.storage) if hasattr(index, "hnsw") else index


def _search_base(base: Any, query: Vectors, k: int, allowed: Allowed, exact: bool) -> tuple[Numbers, Vectors]:
    faiss = _faiss()
    size = base.ntotal
    count = allowed.count if len(allowed.mask) == size else int(np.count_nonzero(allowed.mask[:size]))
    if not count:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    bits = None if count == size else allowed.bits
    deep = int(max(EF_LEAST, EF * (size / EF_AT) ** 0.85, 2 * k) * min(4.0, 0.75 + 0.25 * size / count))
    if hasattr(base, "hnsw") and not exact and (bits is None or count > max(EXACT_UPTO, SCANNED * deep)):
        settings = faiss.SearchParametersHNSW()
        settings.efSearch = deep
        if bits is not None:
            settings.sel = _selector(bits)
        rows, scores = _kept(base.search(query, min(k, count), params=settings))
        if len(rows) == min(k, count):
            return rows, scores
    return _scan(_flat_of(base), query, min(k, count), bits)


def _scan(index: Any, query: Vectors, k: int, bits: npt.NDArray[np.uint8] | None) -> tuple[Numbers, Vectors]:
    faiss = _faiss()
    if bits is None:
        return _kept(index.search(query, min(k, index.ntotal)))
    settings: Any = faiss.SearchParameters()
    settings.sel = _selector(bits)
    return _kept(index.search(query, min(k, index.ntotal), params=settings))


def _selector(bits: npt.NDArray[np.uint8]) -> Any:
    return _faiss().IDSelectorBitmap(bits)


def _kept(found: tuple[Vectors, Numbers]) -> tuple[Numbers, Vectors]:
    scores, rows = found[0][0], found[1][0]
    return rows[rows >= 0], scores[rows >= 0]


# The snapshot: dense.json names the files and their checksums; it is replaced last.


def open_snapshot(folder: Path, store: Store, embedder: str, dimension: int) -> Dense:
    """The base on disk, or an empty one where there is none, it is another embedder's, or a byte is wrong."""
    faiss = _faiss()
    try:
        note = json.loads((folder / "dense.json").read_text())
        good = note["identity"] == store.setting("identity") and note["embedder"] == embedder
        good = good and int(note["revision"]) <= store.revision()
        paths = {name: folder / name for name in note["files"]}
        if not good or any(_checksum(path) != note["files"][name] for name, path in paths.items()):
            return Dense(dimension)
        index_path, numbers_path = (paths[note[part]] for part in ("index", "numbers"))
        base = faiss.read_index(str(index_path), faiss.IO_FLAG_MMAP_IFC)
        numbers = np.load(numbers_path, allow_pickle=False)
        good = base.d == dimension and base.ntotal == len(numbers)
        return Dense(dimension, base, numbers) if good else Dense(dimension)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return Dense(dimension)


def snapshot_token(folder: Path) -> tuple[int, int]:
    """Changes when another process has written a new base."""
    try:
        status = (folder / "dense.json").stat()
    except OSError:
        return (0, 0)
    return (status.st_ino, status.st_mtime_ns)


def compact(
    folder: Path, store: Store, embedder: str, dimension: int, progress: Progress = None, threads: int | None = None
) -> bool:
    """Write a base that holds all there is now. False if another process is at it."""
    with locked(folder / "dense.lock", wait=False) as got:
        if not got:
            return False
        old, revision = open_snapshot(folder, store, embedder, dimension), store.revision()
        live = np.array([row[0] for row in store.delta(0, 0, 0, 0).labels], np.int64)
        base, numbers = _start(folder, old, live)
        parts = [numbers]
        for new, vectors in store.vectors(int(numbers[-1]) if len(numbers) else 0, dimension):
            _add(base, vectors.astype(np.float32), threads or os.cpu_count() or 1)
            parts.append(np.array(new, np.int64))
            if progress:
                progress(len(new))
        about = {"identity": store.setting("identity"), "embedder": embedder, "revision": revision}
        _write(folder, about, base, np.concatenate(parts))
        return True


def _start(folder: Path, old: Dense, live: Numbers) -> tuple[Any, Numbers]:
    """The old base to add to, or an empty one where it is of the wrong kind, partly dead, or not a part of `live`."""
    faiss = _faiss()
    want_hnsw = len(live) >= ANN_FROM
    usable = old.base is not None and hasattr(old.base, "hnsw") == want_hnsw
    usable = usable and np.isin(old.base_n, live).mean() >= 1 - DEAD_UPTO
    usable = usable and bool(np.isin(live[live <= old.base_n[-1]], old.base_n).all())
    if not usable:
        dimension = old.dimension
        return (hnsw(dimension) if want_hnsw else flat(dimension)), np.zeros(0, np.int64)
    note = json.loads((folder / "dense.json").read_text())
    return faiss.read_index(str(folder / note["index"])), old.base_n


def _add(base: Any, vectors: Vectors, threads: int) -> None:
    faiss = _faiss()
    faiss.omp_set_num_threads(threads)
    base.add(vectors)
    faiss.omp_set_num_threads(1)


def _write(folder: Path, about: dict[str, Any], base: Any, numbers: Numbers) -> None:
    faiss = _faiss()
    token = os.urandom(6).hex()
    index_path, numbers_path = folder / f"dense-{token}.faiss", folder / f"dense-{token}.npy"
    try:
        faiss.write_index(base, str(index_path))
        np.save(numbers_path, numbers, allow_pickle=False)
        for path in (index_path, numbers_path):
            with path.open("rb") as file:
                os.fsync(file.fileno())
    except BaseException:  # half a snapshot would only take up the room that is missing
        index_path.unlink(missing_ok=True)
        numbers_path.unlink(missing_ok=True)
        raise
    note = {
        **about,
        "index": index_path.name,
        "numbers": numbers_path.name,
        "files": {path.name: _checksum(path) for path in (index_path, numbers_path)},
    }
    replace_durably(folder / "dense.json", json.dumps(note).encode())
    kept = {index_path.name, numbers_path.name}
    for old in folder.glob("dense-*"):
        if old.name not in kept:
            old.unlink(missing_ok=True)  # a process that still searches it keeps its mapped pages


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
