"""What the lexical side reads: a tantivy index on disk that every process maps and one at a time writes.

`lexical.json` names the folder in use, the revision that it holds and a checksum of each of its files; it is
replaced only after tantivy's own commit. What it does not vouch for, or tantivy cannot read, is built anew from the
store, beside the old one. Where that fails, on a full disk say, the revision that is open is searched on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from retrieval.backends.local.lexical import Reader
from retrieval.backends.local.record import Store
from retrieval.lock import is_disk_full, locked, replace_durably
from retrieval.passage import primary
from retrieval.text import analysis, language

log = logging.getLogger("trimtab.lexical")
RETRY_S = 5.0  # after a failure, before it is tried again: each try may take seconds
VERSION = 7  # of the analysis and the fields; another number means: build anew
SAMPLE = 2000  # characters of many short passages that their language is told by
AROUND = 8  # chunks of a document up to which each is indexed with the terms of all
Progress = Callable[[int], None] | None


class Terms:
    """`reader` is the newest that this process has; a search keeps the one it began with."""

    def __init__(self, folder: Path, store: Store) -> None:
        self._folder, self._store = folder, store
        self._note, self._lock = folder / "lexical.json", folder / "lexical.lock"
        self._mutex = threading.Lock()
        self._index: Any = None
        self._place = ""
        self._again = 0.0  # time.monotonic() before which nothing is tried after a failure
        self.reader = Reader(None, None, frozenset(), -1)

    def sync(self, revision: int, progress: Progress = None) -> None:
        """Make at least this revision searchable. Whoever comes first writes; the others wait and read.

        Where that fails, what is open stays: it lacks the newest passages, and is tried again in a moment.

        Raises:
            Exception: it failed, and nothing is open yet.
        """
        if self.reader.revision >= revision or time.monotonic() < self._again:
            return
        with self._mutex, locked(self._lock):
            try:
                self._make_current(revision, progress)
            except BaseException as error:
                traceback.clear_frames(error.__traceback__)  # or they keep tantivy's writer, and that its lock
                if not is_failure(error) or self.reader.searcher is None:
                    raise
                self._again = time.monotonic() + RETRY_S
                log.error("%s: words of the newest changes cannot be searched yet: %s", self._folder, error)

    def distrust(self) -> None:
        """Look at every file again before the next search: one of them cannot be what it was."""
        with self._mutex:
            self._place = ""
            self.reader = replace(self.reader, revision=-1)

    def _make_current(self, revision: int, progress: Progress) -> None:
        try:
            note = self._read_note()
            if note is not None and self._open(note):
                if int(note["revision"]) < revision:
                    note = self._catch_up(note, progress)
                return self._take(note)
        except BaseException as error:
            if not is_failure(error) or is_disk_full(error):
                raise
            log.warning("%s: the lexical cache is damaged and is built again: %s", self._folder, error)
        self._take(self._rebuild(progress))

    def _take(self, note: dict[str, Any]) -> None:
        self._index.reload()
        languages = frozenset(note["languages"])
        self.reader = Reader(self._index.searcher(), self._index.schema, languages, int(note["revision"]))

    def _read_note(self) -> dict[str, Any] | None:
        try:
            note = json.loads(self._note.read_text())
            good = note["version"] == VERSION and note["identity"] == self._store.setting("identity")
            revision, known = self._store.revision(), int(note["revision"])
            if good and known > revision:
                log.error("%s has lost changes: it is at revision %d, and was at %d", self._folder, revision, known)
            good = good and 0 <= known <= revision
            good = good and all(isinstance(language, str) for language in note["languages"])
            good = good and isinstance(note["files"], dict) and isinstance(note["last"], int)
            return note if good and (self._folder / note["place"]).is_dir() else None
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return None

    def _open(self, note: dict[str, Any]) -> bool:
        """False where the files are not what the note says: all are read once per process, then only the list of them.

        That list differs when a writer was killed between tantivy's commit and its own note of it.
        """
        import tantivy

        place = self._folder / note["place"]
        if self._place == note["place"]:
            return bool(_checksum(place / "meta.json") == note["files"].get("meta.json"))
        if _checksums(place) != note["files"]:
            return False
        self._index, self._place = _configured(tantivy.Index(_schema(), str(place))), note["place"]
        return True

    def _rebuild(self, progress: Progress) -> dict[str, Any]:
        import tantivy

        revision = self._store.revision()
        place = self._folder / f"lexical-{uuid.uuid4().hex[:12]}"
        place.mkdir()
        try:
            self._index, self._place = _configured(tantivy.Index(_schema(), str(place))), place.name
            note = self._vouch(revision, self._write(0, [], progress))
        except BaseException:
            self._index, self._place = None, ""
            shutil.rmtree(place, ignore_errors=True)  # it would only take up the room that is missing
            raise
        for old in self._folder.glob("lexical-*"):
            if old != place:
                shutil.rmtree(old, ignore_errors=True)  # a process that still reads one keeps its mapped files
        return note

    def _catch_up(self, note: dict[str, Any], progress: Progress) -> dict[str, Any]:
        revision, since = self._store.revision(), int(note["revision"])
        languages = self._write(int(note["last"]), self._store.withdrawn(since), progress, note["languages"])
        return self._vouch(revision, languages | set(note["languages"]), note["files"])

    def _write(self, after: int, withdrawn: list[int], progress: Progress, known: Iterable[str] = ()) -> set[str]:
        writer = self._index.writer(heap_size=64_000_000, num_threads=1)
        self._last = after
        votes, labels = self._votes(after)
        languages, commonest = language.settle(votes.values(), {*known, *labels})
        for n in withdrawn:
            writer.delete_documents_by_term("n", n)
        for _, group in groupby(self._store.texts(after), key=itemgetter(1)):
            chunks = list(group)
            vote = votes.get(chunks[0][0], "")
            spoken = primary(chunks[0][4]) or (
                vote if vote in languages else language.among(chunks[0][3], languages, commonest)
            )
            for document in _documents(chunks, spoken):
                writer.add_document(document)
            self._last = chunks[-1][0]
            if progress:
                progress(len(chunks))
        writer.commit()
        writer.wait_merging_threads()
        return set(languages)

    def _votes(self, after: int) -> tuple[dict[int, str], set[str]]:
        """The language of each document by its first passage, as far as it tells, and those that labels name."""
        votes, labels, sample = dict[int, str](), set[str](), ""
        for _, group in groupby(self._store.texts(after), key=itemgetter(1)):
            n, _, title, text, label = next(iter(group))
            votes[n] = primary(label) or language.detect(f"{text}\n{title}")
            labels |= {primary(label)} - {""}
            sample += f"{text}\n" if len(sample) < SAMPLE else ""
        if not any(votes.values()):
            labels |= {language.detect(sample)} - {""}  # rules too short to tell by themselves
        return votes, labels

    def _vouch(self, revision: int, languages: set[str], known: dict[str, str] | None = None) -> dict[str, Any]:
        note = {
            "version": VERSION, "identity": self._store.setting("identity"), "place": self._place,
            "revision": revision, "last": self._last, "languages": sorted(languages),
            "files": _checksums(self._folder / self._place, known or {}),
        }  # fmt: skip
        replace_durably(self._note, json.dumps(note).encode())
        return note


def is_failure(error: BaseException) -> bool:
    """An error, or a panic of tantivy's, which pyo3 raises beside all errors."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _documents(chunks: list[tuple[int, str, str, str, str]], language: str) -> Iterator[Any]:
    """A document's chunks, each with the terms of all where they are few, and with its own."""
    import tantivy

    title, several = chunks[0][2], 1 < len(chunks) <= AROUND
    text = "\n".join(chunk[3] for chunk in chunks) if several else ""
    whole = analysis.passage_terms(title, text, language) if several else []
    for n, _, own_title, text, _ in chunks:
        own = analysis.passage_terms(own_title, text, language)
        document = tantivy.Document()
        document.add_unsigned("n", n)
        document.add_text("terms", " ".join(whole or own))
        if whole:
            document.add_text("own", " ".join(own))
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


def _checksums(place: Path, known: dict[str, str] | None = None) -> dict[str, str]:
    """Of every file but tantivy's own lists. But for meta.json, a file once written is never changed."""
    found = {}
    for path in sorted(place.iterdir()):
        if path.suffix == ".lock" or path.name.startswith("."):
            continue
        if known and path.name in known and path.name != "meta.json":
            found[path.name] = known[path.name]
        else:
            found[path.name] = _checksum(path)
    return found


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
