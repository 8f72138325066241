"""What the lexical side reads: tantivy indexes on disk that every process maps and one at a time writes.

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
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from retrieval.backends.local import postings
from retrieval.backends.local.lexical import Reader
from retrieval.backends.local.postings import Postings
from retrieval.backends.local.record import Store
from retrieval.lock import is_disk_full, locked, replace_durably
from retrieval.passage import primary
from retrieval.text import language

log = logging.getLogger("trimtab.lexical")
RETRY_S = 5.0  # after a failure, before it is tried again: each try may take seconds
VERSION = 11  # of the analysis and the fields; another number means: build anew
LISTS = ("meta.json", "chunks/meta.json")  # of the files of each tantivy index
UNCLEAR = 1000  # documents up to which a model is asked about those without a language's common words, at 1 ms each
SAMPLE = 2000  # characters of many short passages that their language is told by
Progress = Callable[[int], None] | None


class Terms:
    """`reader` is the newest that this process has; a search keeps the one it began with."""

    def __init__(self, folder: Path, store: Store) -> None:
        self._folder, self._store = folder, store
        self._note, self._lock = folder / "lexical.json", folder / "lexical.lock"
        self._mutex = threading.Lock()
        self._postings: Postings | None = None
        self._place = ""
        self._again = 0.0  # time.monotonic() before which nothing is tried after a failure
        self.reader = Reader(None, None, None, frozenset(), -1)

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
        found = self._open_postings()
        found.reload()
        documents, chunks = found.documents.searcher(), found.chunks.searcher()
        languages = frozenset(note["languages"])
        self.reader = Reader(documents, chunks, found.documents.schema, languages, int(note["revision"]))

    def _open_postings(self) -> Postings:
        assert self._postings is not None, "opened or built before"
        return self._postings

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
        """False where the files are not what the note says: all are read once per process, then only the lists of them.

        Those lists differ when a writer was killed between tantivy's commit and its own note of it.
        """
        place = self._folder / note["place"]
        if self._place == note["place"]:
            return all(_checksum(place / name) == note["files"].get(name) for name in LISTS)
        if _checksums(place) != note["files"]:
            return False
        self._postings, self._place = postings.open_in(place), note["place"]
        return True

    def _rebuild(self, progress: Progress) -> dict[str, Any]:
        revision = self._store.revision()
        place = self._folder / f"lexical-{uuid.uuid4().hex[:12]}"
        place.mkdir()
        try:
            self._postings, self._place = postings.create(place), place.name
            note = self._vouch(revision, self._write(0, [], progress))
        except BaseException:
            self._postings, self._place = None, ""
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
        """Index the passages behind `after`, take out those withdrawn, and return the languages of the index."""
        found = self._open_postings()
        found.reload()
        left = [chunk for ends in postings.torn(found, withdrawn) for chunk in self._store.texts(ends[0] - 1, ends[1])]
        writer = postings.Writer(found)
        self._last = after
        votes, labels = self._votes(after)
        languages, commonest = language.settle(votes.values(), {*known, *labels})
        writer.delete([*withdrawn, *(n for n, *_ in left)])
        for _, group in groupby(chain(left, self._store.texts(after)), key=itemgetter(1)):
            chunks = list(group)
            vote = votes.get(chunks[0][0], "")
            spoken = primary(chunks[0][4]) or (
                vote if vote in languages else language.among(chunks[0][3], languages, commonest)
            )
            writer.add(chunks, spoken)
            self._last = max(self._last, chunks[-1][0])
            if progress:
                progress(len(chunks))
        writer.commit()
        return set(languages)

    def _votes(self, after: int) -> tuple[dict[int, str], set[str]]:
        """The language of each document by its first passage, as far as it tells, and those that labels name."""
        votes, labels, sample, unclear = dict[int, str](), set[str](), "", dict[int, str]()
        for _, group in groupby(self._store.texts(after), key=itemgetter(1)):
            n, _, title, text, label = next(iter(group))
            votes[n] = primary(label) or language.detect(f"{text}\n{title}")
            if not votes[n] and len(votes) <= UNCLEAR:
                unclear[n] = f"{title}\n{text[:SAMPLE]}"
            labels |= {primary(label)} - {""}
            sample += f"{text}\n" if len(sample) < SAMPLE else ""
        if len(unclear) >= language.FEW and len(votes) <= UNCLEAR:  # short rules: no word tells, but the model does
            votes |= {n: language.likely(text) for n, text in unclear.items()}
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


def _checksums(place: Path, known: dict[str, str] | None = None) -> dict[str, str]:
    """Of every file but tantivy's own notes. But for LISTS, a file once written is never changed."""
    found = {}
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        if path.suffix == ".lock" or path.name.startswith(".") or path.is_dir():
            continue
        found[name] = known[name] if known and name in known and name not in LISTS else _checksum(path)
    return found


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
