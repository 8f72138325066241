"""The lexical side: BM25 (k1 1.2, b 0.75) over title and text, by tantivy.

A chunk is ranked by the terms of its whole document (where that has few chunks), since that finds documents
better than chunks alone do; among one document's chunks the one that has the query's terms itself comes first.

A cache on disk that every process maps and one writes.

`lexical.json` names the folder in use, the revision that it holds and a checksum of each of its files; it is
replaced only after tantivy's own commit. What it does not vouch for is built anew from the store.
Term statistics count a withdrawn passage until its segment is merged; results never contain it.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval import analyse
from retrieval.columns import Allowed, Columns, Mask, best_first
from retrieval.lock import locked, replace_durably
from retrieval.passage import primary
from retrieval.store import Store

VERSION = 2  # of the analysis and the fields; another number means: build anew
ECHO = 0.3  # what a chunk without any term of the query loses of its document's score
AROUND = 8  # chunks of a document up to which each is indexed with the terms of all
FEW = 2048  # allowed passages up to which they are named to tantivy instead of sifted out of its answers
TIE = 1e-5  # scores that differ by a smaller share are the same, summed in another order
TIED_UPTO = 4096  # how far a tie at the cut is followed, to break it by age and not by where a segment lies
Ranked = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]
Found = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32], float]  # rows, scores, ceiling


class Lexical:
    """One reader of the cache, and its writer when there is something to take in."""

    def __init__(self, folder: Path, store: Store) -> None:
        self._folder, self._store = folder, store
        self._note, self._lock = folder / "lexical.json", folder / "lexical.lock"
        self._mutex = threading.Lock()
        self._index: Any = None
        self._searcher: Any = None
        self.languages: frozenset[str] = frozenset()
        self.revision = -1
        self._place = ""

    def sync(self, revision: int, progress: Callable[[int], None] | None = None) -> None:
        """Make at least this revision searchable. Whoever comes first writes; the others wait and read."""
        if self.revision >= revision:
            return
        with self._mutex, locked(self._lock):
            note = self._read_note()
            if note is None or not self._open(note):
                note = self._rebuild(progress)
            elif int(note["revision"]) < revision:
                note = self._catch_up(note, progress)
            self._index.reload()
            self._searcher = self._index.searcher()
            self.languages = frozenset(note["languages"])
            self.revision = int(note["revision"])

    def search(
        self, query: str, k: int, columns: Columns, allowed: Allowed, *, language: str | None, exact: bool
    ) -> Found:
        """The k best of the rows that `mask` allows, and a bound on what any passage can score."""
        searcher, schema = self._searcher, self._index.schema
        known = self.languages
        spoken = frozenset({primary(language)}) & known if language else known
        counts = Counter(analyse.query_terms(query, spoken or known))
        if not counts or not allowed.count:
            return np.zeros(0, np.int64), np.zeros(0, np.float32), 0.0
        wanted, mask = _any_of(schema, counts), allowed.mask
        if allowed.count <= FEW and not allowed.all:
            wanted = _among(schema, wanted, columns.n[mask].tolist())
        depth = int(1.3 * k * min(30.0, len(mask) / allowed.count))
        tied_upto = len(mask) if exact else TIED_UPTO
        rows, scores = self._sift(wanted, k, depth + 8, columns, mask=mask, tied_upto=tied_upto)
        rows, scores = self._tell_chunks_apart(counts, rows, scores, columns)
        return rows, scores, _ceiling(searcher, counts)

    def _tell_chunks_apart(
        self, counts: Counter[str], rows: npt.NDArray[np.int64], scores: npt.NDArray[np.float32], columns: Columns
    ) -> Ranked:
        """Lower those chunks whose document owes its score to another of them."""
        same = np.flatnonzero(-np.diff(scores) < TIE * scores[:-1])
        tied = np.unique(np.concatenate([same, same + 1]))  # chunks of one document have one score
        if not len(tied):
            return rows, scores
        numbers = columns.n[rows[tied]].tolist()
        schema = self._index.schema
        own = _among(schema, _any_of(schema, counts, "own"), numbers)
        hits = self._searcher.search(own, limit=len(numbers), count=False).hits
        found = self._searcher.fast_field_values("n", [address for _, address in hits])
        score_of = dict(zip(found, [score for score, _ in hits], strict=True))
        if not score_of:
            return rows, scores
        mine = np.array([score_of.get(n, 0.0) for n in numbers], np.float32)
        group = np.cumsum(-np.diff(scores[tied], prepend=scores[tied[:1]]) >= TIE * scores[tied])
        best = np.zeros(int(group[-1]) + 1, np.float32)
        np.maximum.at(best, group, mine)
        share = np.divide(mine, best[group], out=np.ones_like(mine), where=best[group] > 0)
        scores = scores.copy()
        scores[tied] *= 1.0 - ECHO * (1.0 - share)
        return best_first(rows, scores, TIE)

    def _sift(self, wanted: Any, k: int, depth: int, columns: Columns, *, mask: Mask, tied_upto: int) -> Ranked:
        """Ask for so many that k allowed ones should be among them (and ties at the cut), then for more."""
        while True:
            hits = self._searcher.search(wanted, limit=depth, count=False).hits
            rows, scores = _rows(self._searcher, hits, columns)
            kept = mask[rows]
            rows, scores = rows[kept], scores[kept]
            enough = len(rows) > k and (scores[-1] < scores[k - 1] * (1 - TIE) or depth >= tied_upto)
            if enough or len(hits) < depth:
                return rows[:k], scores[:k]
            depth = max(4 * depth, int(1.3 * depth * k / max(1, len(rows))))

    # The cache

    def _read_note(self) -> dict[str, Any] | None:
        try:
            note = json.loads(self._note.read_text())
            good = note["version"] == VERSION and note["identity"] == self._store.setting("identity")
            good = good and 0 <= int(note["revision"]) <= self._store.revision()
            good = good and isinstance(note["languages"], list) and isinstance(note["files"], dict)
            return note if good and (self._folder / note["place"]).is_dir() else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _open(self, note: dict[str, Any]) -> bool:
        """False where the files are not what the note says, which it checks once per process and folder."""
        import tantivy

        place = self._folder / note["place"]
        if self._place == note["place"]:
            return True
        if _checksums(place) != note["files"]:
            return False
        self._index, self._place = _configured(tantivy.Index(_schema(), str(place))), note["place"]
        return True

    def _rebuild(self, progress: Callable[[int], None] | None) -> dict[str, Any]:
        import tantivy

        revision = self._store.revision()
        place = self._folder / f"lexical-{uuid.uuid4().hex[:12]}"
        for old in self._folder.glob("lexical-*"):
            shutil.rmtree(old, ignore_errors=True)  # a process that still reads one keeps its mapped files
        place.mkdir()
        self._index, self._place = _configured(tantivy.Index(_schema(), str(place))), place.name
        languages = self._write(0, [], progress)
        return self._vouch(revision, languages)

    def _catch_up(self, note: dict[str, Any], progress: Callable[[int], None] | None) -> dict[str, Any]:
        revision, since = self._store.revision(), int(note["revision"])
        languages = self._write(int(note["last"]), self._store.withdrawn(since), progress)
        return self._vouch(revision, languages | set(note["languages"]), note["files"])

    def _write(self, after: int, withdrawn: list[int], progress: Callable[[int], None] | None) -> set[str]:

        writer = self._index.writer(heap_size=64_000_000, num_threads=1)
        languages: set[str] = set()
        self._last = after
        for n in withdrawn:
            writer.delete_documents_by_term("n", n)
        for _, group in groupby(self._store.texts(after), key=itemgetter(1)):
            chunks = list(group)
            language = primary(chunks[0][4]) or analyse.detect(chunks[0][3])
            languages.add(language)
            for document in _documents(chunks, language):
                writer.add_document(document)
            self._last = chunks[-1][0]
            if progress:
                progress(len(chunks))
        writer.commit()
        writer.wait_merging_threads()
        return languages

    def _vouch(self, revision: int, languages: set[str], known: dict[str, str] | None = None) -> dict[str, Any]:
        note = {
            "version": VERSION, "identity": self._store.setting("identity"), "place": self._place,
            "revision": revision, "last": self._last, "languages": sorted(languages),
            "files": _checksums(self._folder / self._place, known or {}),
        }  # fmt: skip
        replace_durably(self._note, json.dumps(note).encode())
        return note


def _documents(chunks: list[tuple[int, str, str, str, str]], language: str) -> Iterator[Any]:
    import tantivy

    own = [analyse.terms(f"{title}\n{text}", language) for _, _, title, text, _ in chunks]
    whole = [*analyse.terms(chunks[0][2], language)] if 1 < len(chunks) <= AROUND else []
    for _, _, _, text, _ in chunks if whole or 1 < len(chunks) <= AROUND else []:
        whole += analyse.terms(text, language)
    for (n, *_), terms in zip(chunks, own, strict=True):
        document = tantivy.Document()
        document.add_unsigned("n", n)
        document.add_text("terms", " ".join(whole or terms))
        if whole:
            document.add_text("own", " ".join(terms))
        yield document


def _schema() -> Any:
    import tantivy

    builder = tantivy.SchemaBuilder()
    builder.add_unsigned_field("n", fast=True, indexed=True)
    for field in ("terms", "own"):
        builder.add_text_field(field, tokenizer_name="whitespace", index_option="freq")
    return builder.build()


def _configured(index: Any) -> Any:
    index.config_reader(reload_policy="manual")
    return index


def _among(schema: Any, wanted: Any, numbers: list[int]) -> Any:
    """The same scores, of these passages only."""
    import tantivy

    among = tantivy.Query.const_score_query(tantivy.Query.term_set_query(schema, "n", numbers), 0.0)
    return tantivy.Query.boolean_query([(tantivy.Occur.Must, wanted), (tantivy.Occur.Must, among)])


def _any_of(schema: Any, counts: Counter[str], field: str = "terms") -> Any:
    import tantivy

    query, clauses = tantivy.Query, []
    for term, count in counts.items():
        clause = query.term_query(schema, field, term, "freq")
        clauses.append((tantivy.Occur.Should, query.boost_query(clause, float(count)) if count > 1 else clause))
    return query.boolean_query(clauses)


def _ceiling(searcher: Any, counts: Counter[str]) -> float:
    """More than any passage can score: every term of the query, each so often that once more adds nothing."""
    total = searcher.num_docs + 1
    found = ((count, min(searcher.doc_freq("terms", term), total)) for term, count in counts.items())
    return sum(2.2 * count * math.log1p((total - df + 0.5) / (df + 0.5)) for count, df in found)


def _rows(searcher: Any, hits: Any, columns: Columns) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Of those hits that this process knows already."""
    numbers = np.array(searcher.fast_field_values("n", [address for _, address in hits]), np.int64)
    scores = np.array([score for score, _ in hits], np.float32)
    rows, known = columns.locate(numbers)
    return best_first(rows, scores[known], TIE)


def _checksums(place: Path, known: dict[str, str] | None = None) -> dict[str, str]:
    """Of every file but tantivy's own lists. But for meta.json, a file once written is never changed."""
    found = {}
    for path in sorted(place.iterdir()):
        if path.suffix == ".lock" or path.name.startswith("."):
            continue
        if known and path.name in known and path.name != "meta.json":
            found[path.name] = known[path.name]
        else:
            with path.open("rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
