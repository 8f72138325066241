"""A byte of the record that changes under SQLite: an answer is never wrong without a word."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from retrieval.backends.local.record import RecordDamaged
from retrieval.passage import Passage
from retrieval.search.index import Index

LONG = "The harbour master may refuse entry to any ship. " * 60
RULES = [
    Passage("fine", "A fine of 500 euros is due.", title="Fines", region="north"),
    Passage("quiet", "Quiet hours begin at ten."),
    Passage("harbour", LONG),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with Index.open(tmp_path / "law", create=True, embedder="none") as index:
        index.add(RULES)
        assert index.damage() == []
        assert index.search("fine euros", 1)[0].id == "fine"
    with closing(sqlite3.connect(tmp_path / "law" / "record.db")) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return tmp_path / "law"


def change(folder: Path, old: bytes, new: bytes) -> None:
    """Swap bytes where they stand, in every copy of them."""
    data = (folder / "record.db").read_bytes()
    assert old in data
    (folder / "record.db").write_bytes(data.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"500 euros", b"900 euros"), (b"Fines", b"Finez"), (b"north", b"south")],
    ids=["text", "title", "label"],
)
def test_a_changed_passage_is_in_no_answer_and_is_reported(
    folder: Path, old: bytes, new: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    change(folder, old, new)
    with Index.open(folder, embedder="none") as index, caplog.at_level(logging.ERROR):
        assert "fine" not in [hit.id for hit in index.search("fine euros due", 3)]
        assert "passage 'fine' is not what was written" in caplog.text
        with pytest.raises(RecordDamaged, match="'fine'"):
            index.get("fine")
        assert [p.id for p in index.page() if not p.parent] == ["quiet"]
        assert index.search("quiet hours", 1)[0].id == "quiet"
        assert "passage 'fine' is not what was written" in index.damage()
        index.add([RULES[0]])
        index.withdraw(["fine"])
        index.add([RULES[0]])
        assert index.get("fine") == RULES[0]
        assert index.search("fine euros due", 1)[0].id == "fine"
        assert index.damage() == []


def test_a_changed_document_is_not_given_back(folder: Path) -> None:
    change(folder, b"refuse entry", b"permit entry")
    with Index.open(folder, embedder="none") as index:
        with pytest.raises(RecordDamaged, match="'harbour' is not what was written"):
            index.get("harbour")
        assert index.search("harbour master", 3) == []
        assert len(index.damage()) >= 1


@pytest.mark.parametrize("harm", [Path.unlink, lambda file: file.write_bytes(b"")], ids=["gone", "empty"])
def test_a_record_that_is_lost_is_not_replaced_by_an_empty_one(folder: Path, harm: Callable[[Path], object]) -> None:
    harm(folder / "record.db")
    for create in (False, True):
        with pytest.raises(ValueError, match=r"record.db is gone or empty: restore it, or delete"):
            Index.open(folder, create=create, embedder="none")


def test_changes_that_are_lost_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The write-ahead log holds what is newest; without it the record is an older one, and valid."""
    with Index.open(tmp_path / "law", create=True, embedder="none") as index:
        index.add(RULES[:1])
        index.refresh()
        older = (tmp_path / "old.db", tmp_path / "law" / "record.db")
    older[0].write_bytes(older[1].read_bytes())
    with Index.open(tmp_path / "law", embedder="none") as index:
        index.add(RULES[1:])
        index.refresh()
    older[1].write_bytes(older[0].read_bytes())
    with Index.open(tmp_path / "law", embedder="none") as index:
        assert index.search("fine euros", 1)[0].id == "fine"
    assert "has lost changes: it is at revision 1, and was at 2" in caplog.text


def test_a_record_from_before_there_were_checksums_is_read_as_it_is(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "record.db")) as db, db:
        db.execute("ALTER TABLE passages DROP COLUMN checksum")
    with Index.open(folder, embedder="none") as index:
        assert index.get("fine") == RULES[0]
        index.add([Passage("new", "A new rule.")])
        assert index.damage() == []
        assert index.search("new rule", 1)[0].id == "new"
