"""Whoever tampers with the account is noticed, and the place is named."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serve.store.account.chain import chained, parse
from serve.store.account.segment import segments
from serve.store.account.verdict import Verdict
from serve.store.account.verification import lines, verify
from serve.store.account.writer import Writer, encoded

Lines = list[bytes]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with an account of 40 requests in one segment, which no test changes."""
    return written(tmp_path_factory.mktemp("made")).parent


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of that account."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path / "account"


def written(state: Path, count: int = 40, **settings: Any) -> Path:
    """An account with so many requests, and a checkpoint after each."""
    writer = Writer(state / "account", state / "account.key", checkpoint_s=0, **settings)
    for i in range(count):
        writer.write([encoded("open", {"id": f"r{i}", "policy": "p"}), encoded("close", {"id": f"r{i}"})])
    return state / "account"


def tampered(folder: Path, change: Callable[[Lines], Lines]) -> Verdict:
    [segment] = segments(folder)
    segment.write_bytes(b"".join(change(segment.read_bytes().splitlines(keepends=True))))
    return verify(folder)


def found(verdict: Verdict) -> list[tuple[str, int]]:
    return [(it.kind, it.n) for it in verdict.findings]


def test_an_account_that_nobody_touched_is_whole_and_proved_to_its_last_checkpoint(folder: Path) -> None:
    verdict = verify(folder)
    assert verdict.whole
    assert (verdict.first, verdict.last, verdict.proved, verdict.unclosed) == (1, 121, 120, [])


def test_several_segments_are_one_chain(tmp_path: Path) -> None:
    folder = written(tmp_path, count=12, segment_bytes=3000)
    assert len(segments(folder)) == 3
    assert verify(folder).whole


@pytest.mark.parametrize("at", [1, 7, 60, 118])
def test_a_flipped_character_is_named_with_its_entry(folder: Path, at: int) -> None:
    def flip(rows: Lines) -> Lines:
        rows[at - 1] = rows[at - 1].replace(b'"at":1', b'"at":2')
        return rows

    verdict = tampered(folder, flip)
    assert found(verdict) == [("altered", at)]
    assert verdict.findings[0].place == f"000000000001.jsonl:{at}"
    assert verdict.proved < at


def test_a_flipped_character_of_a_hash_is_one_finding(folder: Path) -> None:
    def flip(rows: Lines) -> Lines:
        rows[19] = re.sub(rb'"hash":"(.)', lambda it: b'"hash":"' + (b"a" if it[1] != b"a" else b"b"), rows[19])
        return rows

    assert found(tampered(folder, flip)) == [("altered", 20)]


def test_a_deleted_entry_is_missing(folder: Path) -> None:
    verdict = tampered(folder, lambda rows: rows[:9] + rows[12:])
    assert found(verdict) == [("missing", 13)]
    assert "entries 10 to 12 are missing" in verdict.findings[0].message


def test_entries_in_another_order_are_named(folder: Path) -> None:
    verdict = tampered(folder, lambda rows: [*rows[:9], rows[10], rows[9], *rows[11:]])
    assert found(verdict) == [("reordered", 11), ("reordered", 10)]


def test_an_unreadable_line_is_one_finding(folder: Path) -> None:
    verdict = tampered(folder, lambda rows: [*rows[:9], b"what was here?\n", *rows[10:]])
    assert found(verdict) == [("unreadable", 10)]


def test_a_chain_that_was_computed_anew_is_betrayed_by_the_next_checkpoint(folder: Path) -> None:
    def rewrite(rows: Lines) -> Lines:
        link, texts = parse(rows[8])[0], [parse(row)[1] for row in rows[9:]]
        texts[1] = texts[1].replace(b'"p"', b'"q"')
        return rows[:9] + chained(link, texts)[0]

    verdict = tampered(folder, rewrite)
    assert verdict.findings[0].kind == "altered"
    assert "signed checkpoint" in verdict.findings[0].message
    assert verdict.proved == 0


def test_a_chain_without_its_checkpoints_is_not_proved(folder: Path) -> None:
    def strip(rows: Lines) -> Lines:
        link, texts = parse(rows[0])[0], [parse(row)[1] for row in rows[1:] if b'"kind":"checkpoint"' not in row]
        return rows[:1] + chained(link, texts)[0]

    verdict = tampered(folder, strip)
    assert verdict.whole
    assert verdict.proved == 0
    assert "no signature covers it" in " ".join(verdict.words())


def test_a_tail_that_was_cut_off_is_named_where_a_checkpoint_was_kept(folder: Path, tmp_path: Path) -> None:
    writer = Writer(folder, tmp_path / "account.key")
    head = writer.head()
    kept = writer.checkpoint(head.chain, head.link)
    assert verify(folder, checkpoint=kept).whole
    unnoticed = tampered(folder, lambda rows: rows[:100])
    assert unnoticed.whole
    assert unnoticed.proved == 99
    assert "kept elsewhere" in " ".join(unnoticed.words())
    noticed = verify(folder, checkpoint=kept)
    assert found(noticed) == [("cut", 100)]
    assert "entries 101 to 121 were cut off" in noticed.findings[0].message


def test_a_forged_continuation_is_named_where_a_checkpoint_was_kept(folder: Path, tmp_path: Path) -> None:
    writer = Writer(folder, tmp_path / "account.key")
    head = writer.head()
    kept = writer.checkpoint(head.chain, head.link)
    tampered(folder, lambda rows: rows[:100])
    written(tmp_path, 10)  # by the owner of the key, who can sign anything
    assert verify(folder).whole
    assert found(verify(folder, checkpoint=kept)) == [("altered", 121)]


def test_a_segment_of_another_server_is_named(tmp_path: Path) -> None:
    here, there = (
        written(tmp_path / "a", count=12, segment_bytes=3000),
        written(tmp_path / "b", count=12, segment_bytes=3000),
    )
    third = segments(here)[2]
    shutil.copy(segments(there)[2], third)
    kinds = {(it.kind, it.place.partition(":")[0]) for it in verify(here).findings}
    assert ("foreign", third.name) in kinds


def test_the_account_of_another_server_is_named_by_the_key_or_the_checkpoint(tmp_path: Path) -> None:
    here, there = written(tmp_path / "a"), written(tmp_path / "b")
    public = verify(here).public
    writer = Writer(here, tmp_path / "a" / "account.key")
    kept = writer.checkpoint(writer.head().chain, writer.head().link)
    shutil.rmtree(here)
    shutil.copytree(there, here)
    assert verify(here).whole
    assert "foreign" in {it.kind for it in verify(here, public=public).findings}
    assert "foreign" in {it.kind for it in verify(here, checkpoint=kept).findings}


def test_a_missing_segment_is_named(tmp_path: Path) -> None:
    folder = written(tmp_path, count=12, segment_bytes=3000)
    segments(folder)[1].unlink()
    [finding] = verify(folder).findings
    assert (finding.kind, finding.place) == ("missing", f"{segments(folder)[1].name}:1")


def test_a_log_without_its_beginning_is_cut(tmp_path: Path) -> None:
    folder = written(tmp_path, count=12, segment_bytes=3000)
    segments(folder)[0].unlink()
    [finding] = verify(folder).findings
    assert finding.kind == "cut"
    assert "nothing signed says why" in finding.message


def test_an_export_is_verified_offline(tmp_path: Path) -> None:
    folder = written(tmp_path, count=12, segment_bytes=3000)
    export = tmp_path / "export.jsonl"
    export.write_bytes(b"".join(lines(folder)))
    assert verify(export).whole
    rows = export.read_bytes().splitlines(keepends=True)
    export.write_bytes(b"".join(rows[:20] + rows[21:]))
    assert found(verify(export)) == [("missing", 22)]


def test_a_request_without_a_closing_entry_is_reported(tmp_path: Path) -> None:
    folder = written(tmp_path, 2)
    Writer(folder, tmp_path / "account.key").write([encoded("open", {"id": "cut-off"})])
    verdict = verify(folder)
    assert verdict.whole
    assert verdict.unclosed == ["cut-off"]
    assert "cut-off" in " ".join(verdict.words())
