"""`trimtab index sync`: the index becomes what its source is, and the law as it stood stays to be found."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from retrieval.cli.command import main
from retrieval.passage import Filter, Passage
from retrieval.search.index import Index
from retrieval.search.plan import Change, ended, is_history, plan

ROOT = Path(__file__).parents[2]
LITE = importlib.util.find_spec("milvus_lite") and importlib.util.find_spec("pymilvus")
no_lite = pytest.mark.skipif(not LITE, reason="milvus-lite and pymilvus are not installed")


def sync(index: Path, *more: str) -> int:
    return main(["sync", str(index), *more, "--embedder", "none"])


def held(index: Path) -> dict[str, tuple[str, str, str]]:
    with Index.open(index, readonly=True) as opened:
        return {p.id: (p.text, p.in_force_from, p.in_force_to) for p in opened.documents()}


def as_of(index: Path, day: str) -> list[str]:
    with Index.open(index, readonly=True) as opened:
        return sorted(hit.text for hit in opened.search("dogs leash metres", 9, where=Filter(on=day)))


@pytest.fixture
def law(tmp_path: Path) -> Path:
    folder = tmp_path / "law"
    folder.mkdir()
    (folder / "act.md").write_text("# A\ndogs on a leash of 1 metres\n# B\ndogs bark\n# C\ncats roam\n")
    return folder


@pytest.mark.parametrize(
    "name", ["i", pytest.param("i.db", marks=[no_lite, pytest.mark.filterwarnings("ignore")])], ids=["local", "milvus"]
)
def test_an_act_of_three_versions_answers_as_it_stood(
    name: str, law: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = tmp_path / name
    assert sync(index, str(law), "--on", "2020-01-01") == 0
    assert held(index)["act.md:A"] == ("dogs on a leash of 1 metres", "", "")
    (law / "act.md").write_text("# A\ndogs on a leash of 2 metres\n# C\ncats roam\n")
    assert sync(index, str(law), "--on", "2021-06-01") == 0
    (law / "act.md").write_text(
        "---\neffective: 2023-01-01\n---\n# A\ndogs on a leash of 3 metres\n# C\ncats roam\n# D\nno dogs at night\n"
    )
    assert sync(index, str(law), "--on", "2022-05-05") == 0
    said = capsys.readouterr().out
    assert "~ act.md:A" in said
    assert "+ dogs on a leash of 3 metres" in said
    assert "- act.md:B" in said
    assert as_of(index, "2020-06-01") == ["dogs bark", "dogs on a leash of 1 metres"]
    assert [t for t in as_of(index, "2021-05-31") if "leash" in t] == ["dogs on a leash of 1 metres"]
    assert [t for t in as_of(index, "2021-06-01") if "dogs" in t] == ["dogs on a leash of 2 metres"]
    assert [t for t in as_of(index, "2022-12-31") if "dogs" in t] == ["dogs on a leash of 2 metres"]
    assert [t for t in as_of(index, "2023-01-01") if "dogs" in t] == ["dogs on a leash of 3 metres", "no dogs at night"]


def test_a_second_sync_changes_nothing(law: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = tmp_path / "i"
    sync(index, str(law))
    (law / "act.md").write_text("# A\ndogs on a leash of 2 metres\n# C\ncats roam\n")
    sync(index, str(law), "--on", "2026-01-01")
    before = held(index)
    with Index.open(index) as opened:
        revision = opened.revision
    assert sync(index, str(law), "--on", "2027-01-01") == 0
    assert "0 new, 0 changed, 0 corrected, 0 gone, 0 renamed, 2 unchanged" in capsys.readouterr().out
    with Index.open(index) as opened:
        assert (held(index), opened.revision) == (before, revision)


def test_a_dry_run_shows_the_plan_and_changes_nothing(
    law: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = tmp_path / "i"
    assert sync(index, str(law), "--dry-run") == 0
    assert not index.exists()
    sync(index, str(law))
    before = held(index)
    (law / "act.md").write_text("# A\ndogs on a leash of 2 metres\n")
    capsys.readouterr()
    assert sync(index, str(law), "--dry-run") == 0
    said = capsys.readouterr().out
    assert "- act.md:B" in said
    assert "0 new, 1 changed, 0 corrected, 2 gone, 0 renamed, 0 unchanged; nothing was changed" in said
    assert held(index) == before


def test_deleting_a_middle_section_leaves_no_duplicate_and_renaming_a_file_no_history(
    law: Path, tmp_path: Path
) -> None:
    index = tmp_path / "i"
    sync(index, str(law), "--on", "2026-01-01")
    (law / "act.md").write_text("# A\ndogs on a leash of 1 metres\n# C\ncats roam\n")
    (law / "act.md").rename(law / "dogs.md")
    assert sync(index, str(law), "--on", "2026-02-01") == 0
    assert held(index) == {
        "dogs.md:A": ("dogs on a leash of 1 metres", "", ""), "dogs.md:C": ("cats roam", "", ""),
        "act.md:B@2026-01-31": ("dogs bark", "", "2026-01-31"),
    }  # fmt: skip


def test_what_cannot_be_read_is_not_gone(law: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = tmp_path / "i"
    (law / "rules.json").write_text(json.dumps([{"id": "r1", "text": "wear a badge"}]))
    sync(index, str(law))
    (law / "rules.json").write_text("{broken")
    assert sync(index, str(law)) == 1
    assert "1 passages that no source holds stay" in capsys.readouterr().err
    assert "r1" in held(index)
    for path in law.iterdir():
        path.write_text("")
    assert sync(index, str(law)) == 1
    assert "nothing was read" in capsys.readouterr().err
    assert len(held(index)) == 4


ACT = (
    '<akomaNtoso xmlns="http://docs.oasis-open.org/legaldocml/ns/akn/3.0"><act><body><section><num>1</num>'
    "<content><p>Dogs are leashed.</p></content></section></body></act></akomaNtoso>"
)


def test_a_file_that_stops_to_hold_law_is_not_gone(law: Path, tmp_path: Path) -> None:
    index = tmp_path / "i"
    (law / "act.xml").write_text(ACT)
    (law / "pom.xml").write_text("<project/>")
    assert [sync(index, str(law)), sync(index, str(law))] == [0, 0]  # pom.xml never held any
    before = held(index)
    assert "act.xml:Section-1" in before
    (law / "act.xml").write_text("<Error><Code>AccessDenied</Code></Error>")
    assert [sync(index, str(law)), sync(index, str(law))] == [1, 1]
    assert held(index) == before
    (law / "act.xml").unlink()
    assert sync(index, str(law)) == 0
    assert "act.xml:Section-1" not in held(index)
    (law / "act.xml").write_text("<Error/>")
    assert sync(index, str(law)) == 0


@pytest.mark.parametrize("header", [["Title", "text"], ["text"], ["No", "text"]])
def test_a_sheet_that_loses_its_column_is_not_gone(header: list[str], law: Path, tmp_path: Path) -> None:
    import openpyxl

    def write(last: str, *, rules: bool = True) -> None:
        book = openpyxl.Workbook()
        book.active.title = "Notes"
        book.active.append(["just a note"])
        for name, names in (("Pets", header), *([("Rules", [*header[:-1], last])] if rules else [])):
            sheet = book.create_sheet(name)
            sheet.append(names)
            sheet.append([*(["7"] * (len(header) - 1)), f"{name} are kept"])
        book.save(law / "b.xlsx")

    index = tmp_path / "i"
    write("text")
    assert [sync(index, str(law)), sync(index, str(law))] == [0, 0]
    before = held(index)
    write("Vorgabe")
    assert sync(index, str(law)) == 1
    assert held(index) == before
    write("text", rules=False)
    assert sync(index, str(law), "--on", "2026-01-01") == 0
    assert sum(until == "" for _, _, until in held(index).values()) == len(before) - 1


def test_a_corpus_beside_other_files_does_not_end_them(law: Path, tmp_path: Path) -> None:
    index = tmp_path / "i"
    assert sync(index, str(law)) == 0
    before = held(index)
    (law / "corpus.jsonl").write_text(json.dumps({"_id": "c1", "title": "", "text": "wear a badge"}) + "\n")
    assert sync(index, str(law)) == 1
    assert held(index).keys() == {*before, "c1"}


def test_a_list_names_the_sources(law: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("wear a badge")
    (tmp_path / "all.list").write_text("# what counts\nlaw\nnote.txt\n")
    assert sync(tmp_path / "i", str(tmp_path / "all.list")) == 0
    assert sorted(held(tmp_path / "i")) == ["law/act.md:A", "law/act.md:B", "law/act.md:C", "note.txt"]


def test_two_changes_on_one_day_keep_no_version_that_was_never_in_force() -> None:
    old = Passage("a", "one", in_force_from="2026-01-01")
    assert ended(old, "2026-01-01") is None
    (change,) = plan([old], {"a": Passage("a", "two")}, "2026-01-01").changes
    assert (change.op, change.history, change.after) == (
        "changed",
        None,
        Passage("a", "two", in_force_from="2026-01-01"),
    )


def test_labels_alone_make_no_version() -> None:
    (change,) = plan([Passage("a", "one")], {"a": Passage("a", "one", region="EU")}, "2026-01-01").changes
    assert (change.op, change.history) == ("corrected", None)


def test_history_is_known_by_its_id_and_end() -> None:
    assert is_history(Passage("a@2025-12-31", "x", in_force_to="2025-12-31"))
    assert not is_history(Passage("me@2025-12-31", "x"))


@pytest.mark.parametrize("seed", range(3))
def test_a_sync_that_was_killed_goes_on_to_the_same_index(tmp_path: Path, seed: int) -> None:
    source = tmp_path / "rules.jsonl"
    chance = random.Random(seed)

    def write(version: int) -> None:
        rows = [{"id": f"r{i}", "text": f"rule {i} version {version if i % 3 else 0} dog"}
                for i in range(1500) if version == 0 or i % 7]  # fmt: skip
        rows += [{"id": f"n{i}", "text": f"new rule {i}"} for i in range(200)] if version else []
        source.write_text("\n".join(map(json.dumps, rows)) + "\n")

    write(0)
    for name in ("killed", "whole"):
        assert sync(tmp_path / name, str(source), "--on", "2026-01-01") == 0
    write(1)
    assert sync(tmp_path / "whole", str(source), "--on", "2026-03-01") == 0
    command = [sys.executable, "-m", "retrieval.cli.command", "sync", str(tmp_path / "killed"), str(source), "--on",
               "2026-03-01"]  # fmt: skip
    code = "import sys; from retrieval.cli.command import main; sys.exit(main(sys.argv[1:]))"
    child = subprocess.Popen([sys.executable, "-c", code, *command[3:]], stdout=subprocess.DEVNULL,
                             env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    until = time.monotonic() + 60
    with Index.open(tmp_path / "killed") as index:
        before = index.revision
        while index.backend.refresh() < before + 1 + chance.randrange(4) and child.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    child.wait(60)
    assert sync(tmp_path / "killed", str(source)) == 0
    assert held(tmp_path / "killed") == held(tmp_path / "whole")


def test_a_first_sync_that_was_cut_off_dates_nothing(
    law: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retrieval.search import sync as module

    index, apply, done = tmp_path / "i", module.accepted, list[int]()

    def once(*given: Any) -> list[Change]:
        if done:
            raise KeyboardInterrupt
        done.append(1)
        return apply(*given)

    monkeypatch.setattr(module, "BATCH", 1)
    monkeypatch.setattr(module, "accepted", once)
    assert sync(index, str(law), "--on", "2026-01-01") == 130
    assert len(held(index)) == 1
    monkeypatch.setattr(module, "accepted", apply)
    assert sync(index, str(law), "--on", "2026-01-02") == 0
    assert {start for _, start, _ in held(index).values()} == {""}


def test_the_day_of_a_sync_that_was_cut_off_at_its_end_is_not_used_again(law: Path, tmp_path: Path) -> None:
    index = tmp_path / "i"
    assert sync(index, str(law), "--on", "2026-01-01") == 0
    with Index.open(index) as opened:
        opened.backend.set("sync_day", "2026-01-01")  # as a kill after the last batch leaves it
    assert sync(index, str(law)) == 0
    (law / "act.md").write_text("# A\ndogs on a leash of 9 metres\n# B\ndogs bark\n# C\ncats roam\n")
    assert sync(index, str(law)) == 0
    (changed,) = [start for text, start, _ in held(index).values() if "9 metres" in text]
    assert changed > "2026-01-01"


def test_a_version_not_yet_in_force_may_be_brought_forward(law: Path, tmp_path: Path) -> None:
    index = tmp_path / "i"
    assert sync(index, str(law), "--on", "2026-01-01") == 0
    act = "---\neffective: {}\n---\n# A\ndogs on a leash of {} metres\n"
    (law / "act.md").write_text(act.format("2027-01-01", 2))
    assert sync(index, str(law), "--on", "2026-02-01") == 0
    (law / "act.md").write_text(act.format("2026-09-01", 3))
    assert sync(index, str(law), "--on", "2026-03-01") == 0
    for day, metres in (("2026-08-31", 1), ("2026-09-01", 3), ("2027-01-01", 3)):
        assert [t for t in as_of(index, day) if "leash" in t] == [f"dogs on a leash of {metres} metres"]


def test_an_export_that_is_synced_again_changes_nothing(
    law: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = tmp_path / "i"
    sync(index, str(law), "--on", "2026-01-01")
    (law / "act.md").write_text("# A\ndogs on a leash of 2 metres\n")
    sync(index, str(law), "--on", "2026-02-01")
    assert main(["export", str(index), "--output", str(tmp_path / "all.jsonl")]) == 0
    assert sync(tmp_path / "j", str(tmp_path / "all.jsonl")) == 0
    assert held(tmp_path / "j") == held(index)
    capsys.readouterr()
    assert sync(tmp_path / "j", str(tmp_path / "all.jsonl")) == 0
    assert "0 new, 0 changed, 0 corrected, 0 gone, 0 renamed" in capsys.readouterr().out


def test_a_dry_run_shows_what_is_then_done(law: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = tmp_path / "i"
    for text in ("# A\none\n# B\ntwo\n", "# A\nother\n# B\ntwo\n# C\nthree\n", "# C\nthree\n"):
        (law / "act.md").write_text(text)
        plans = []
        for more in (["--dry-run"], []):
            assert sync(index, str(law), *more) == 0
            plans.append(
                [line for line in capsys.readouterr().out.splitlines() if line[:2] in ("+ ", "~ ", "- ", "> ")]
            )
        assert plans[0] == plans[1] != []


def test_labels_in_another_order_are_no_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps({"id": "a", "text": "dogs bark", "tags": ["b", "a", "b"], "version": 2}))
    for _ in range(2):
        capsys.readouterr()
        assert sync(tmp_path / "i", str(path)) == 0
    assert "0 corrected, 0 gone, 0 renamed, 1 unchanged; nothing was changed" in capsys.readouterr().out


def test_versions_of_one_rule_in_one_file_are_kept_with_their_days(tmp_path: Path) -> None:
    rows = [{"id": "a", "text": "dogs on a leash of 1 metres", "in_force_to": "2025-12-31"},
            {"id": "a", "text": "dogs on a leash of 2 metres", "in_force_from": "2026-01-01",
             "in_force_to": "2026-12-31"},
            {"id": "a", "text": "dogs on a leash of 3 metres", "in_force_from": "2027-01-01"},
            {"id": "a", "text": "dogs on a leash of 9 metres", "in_force_from": "2027-06-01"}]  # fmt: skip
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    for _ in range(2):
        assert sync(tmp_path / "i", str(path)) == 1  # the last overlaps the one before
        for day, metres in (("2025-12-31", 1), ("2026-01-01", 2), ("2026-12-31", 2), ("2027-01-01", 3)):
            assert as_of(tmp_path / "i", day) == [f"dogs on a leash of {metres} metres"]


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("day", ["2025-06-01", "2026-06-01"])
@pytest.mark.parametrize("now", [1, 2])
def test_versions_that_a_source_begins_to_state_keep_the_past(
    newest_first: bool, day: str, now: int, tmp_path: Path
) -> None:
    path, index = tmp_path / "r.jsonl", tmp_path / "i"
    path.write_text(json.dumps({"id": "a", "text": f"dogs on a leash of {now} metres"}))
    assert sync(index, str(path), "--on", "2020-01-01") == 0
    rows = [{"id": "a", "text": "dogs on a leash of 2 metres", "in_force_from": "2026-01-01"},
            {"id": "a", "text": "dogs on a leash of 1 metres", "in_force_to": "2025-12-31"}]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows if newest_first else rows[::-1])))
    for _ in range(2):
        assert sync(index, str(path), "--on", day) == 0
        assert len(as_of(index, "2025-03-01")) == 1
        assert as_of(index, "2025-12-31") == ["dogs on a leash of 1 metres"]
        assert as_of(index, "2026-01-01") == ["dogs on a leash of 2 metres"]
    if now == 1:
        assert as_of(index, "2025-03-01") == ["dogs on a leash of 1 metres"]


def test_a_version_with_another_text_than_the_index_has_follows_on_it() -> None:
    old = Passage("a", "zero", in_force_from="2020-01-01")
    wanted = {p.id: p for p in (Passage("a", "two", in_force_from="2026-01-01"),
                                Passage("a@2025-12-31", "one", in_force_from="2024-01-01",
                                        in_force_to="2025-12-31"))}  # fmt: skip
    written = [p for change in plan([old], wanted, "2025-06-01").changes for p in change.passages]
    assert [(p.id, p.text, p.in_force_from) for p in written] == [
        ("a@2023-12-31", "zero", "2020-01-01"), ("a", "two", "2026-01-01"), ("a@2025-12-31", "one", "2024-01-01"),
    ]  # fmt: skip


@pytest.mark.parametrize("start", ["2025-06-01", "2026-01-01"])
def test_an_id_that_a_version_was_given_may_be_that_of_a_row(
    start: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"id": "a", "text": "one", "in_force_to": "2024-12-31"},
            {"id": "a", "text": "two", "in_force_from": "2025-01-01", "in_force_to": "2025-12-31"},
            {"id": "a@2025-12-31", "text": "three", "in_force_from": start}]  # fmt: skip
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    overlaps = start < "2026"
    assert sync(tmp_path / "i", str(path)) == overlaps
    assert ("duplicate id 'a@2025-12-31'" in capsys.readouterr().err) == overlaps
    assert len(held(tmp_path / "i")) == (2 if overlaps else 3)


@pytest.mark.parametrize("command", ["build", "sync"])
def test_a_row_with_the_id_of_a_chunk_stops_no_other(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.jsonl"
    rows = [{"id": "a", "text": "dogs " * 600}, {"id": "a#1", "text": "cats"}, {"id": "b", "text": "birds"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    more = ["--input", str(path)] if command == "build" else [str(path)]
    for _ in range(2):
        assert main([command, str(tmp_path / "i"), *more, "--embedder", "none"]) == 1
        said = capsys.readouterr()
        assert "'a#1' is that of another document's passage" in said.err
        assert "+ a#1" not in said.out
        assert sorted(held(tmp_path / "i")) == ["a", "b"]
        command, more = "sync", [str(path)]  # which finds nothing new
    assert "0 new" in said.out


def test_only_a_taken_id_leaves_a_passage_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps({"id": "a", "text": "dogs"}))

    tried = []

    def fails(*_: object) -> int:
        tried.append(1)
        raise ValueError("another fault")

    monkeypatch.setattr(Index, "add", fails)
    assert sync(tmp_path / "i", str(path)) == 1
    assert len(tried) == 1
    assert held(tmp_path / "i") == {}
