"""A full disk under an index: what is there stays searchable, a change says why it fails, and room heals it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from retrieval.backends.local import terms
from retrieval.lock import is_disk_full
from retrieval.passage import Passage
from retrieval.search.index import Index

SIZE = 16 * 2**20
RULES = [Passage(f"r{n}", f"Rule number {n} is about lantern{n}.") for n in range(100)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a file system of its own needs the right to mount one")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, left: int) -> Path:
    """Take all room but `left` bytes."""
    ballast = folder / "ballast"
    file = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while True:
            os.write(file, bytes(4096))
    os.ftruncate(file, max(0, os.fstat(file).st_size - left))
    os.close(file)
    return ballast


def found(index: Index, word: str) -> list[str]:
    return [hit.id for hit in index.search(word, 1)]


def added(index: Index, passages: list[Passage]) -> bool:
    """Whether they could be added; False where the disk was full, and for no other reason."""
    try:
        index.add(passages)
    except (OSError, sqlite3.Error) as error:
        if not is_disk_full(error):
            raise
        return False
    return True


@pytest.mark.parametrize("left", [0, 8192, 40960, 131072, 524288])
def test_a_change_fails_by_name_and_the_rest_is_still_found(
    disk: Path, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    monkeypatch.setattr(terms, "RETRY_S", 0.0)
    with Index.open(disk / "law", create=True, embedder="none") as index:
        index.add(RULES)
        assert found(index, "lantern7") == ["r7"]
        ballast = fill(disk, left)
        late = [Passage(f"late{n}", f"Sundial number {n}. " * 50) for n in range(600)]
        kept = 0
        for start in range(0, 600, 100):
            kept += added(index, late[start : start + 100])
            assert found(index, "lantern7") == ["r7"]
        assert kept < 6
        ballast.unlink()
        index.add([*late, Passage("after", "A gnomon casts the shadow.")])
        assert found(index, "gnomon") == ["after"]
        assert found(index, "lantern7") == ["r7"]
        assert index.count() >= len(RULES) + len(late) + 1
    with Index.open(disk / "law", embedder="none") as again:
        assert found(again, "gnomon") == ["after"]


def test_a_withdrawn_rule_is_gone_even_where_its_words_cannot_be(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms, "RETRY_S", 60.0)
    with Index.open(disk / "law", create=True, embedder="none") as index:
        index.add(RULES)
        assert found(index, "lantern7") == ["r7"]
        fill(disk, 60_000)
        index.withdraw(["r7"])
        assert "r7" not in found(index, "lantern7")
        assert found(index, "lantern8") == ["r8"]
