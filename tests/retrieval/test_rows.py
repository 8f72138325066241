"""Tables, JSON and YAML as people and programs write them, front matter, and dates of every way of writing."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest

from retrieval.passage import Passage
from retrieval.text.dates import iso_date
from retrieval.text.formats import read
from retrieval.text.row import Defaults, Row


def rows(path: Path, data: str | bytes) -> list[Row]:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return list(read(path, Defaults()))


def passages(path: Path, data: str | bytes) -> list[Passage]:
    return [row.passage for row in rows(path, data) if row.passage]


def problems(path: Path, data: str | bytes) -> list[str]:
    return [row.problem for row in rows(path, data) if row.problem]


@pytest.mark.parametrize(
    "text",
    [
        "2025-05-01", "2025/5/1", "2025.05.01", "20250501", "2025-05-01T00:00:00Z", "1 May 2025", "1st of May 2025",
        "May 1st, 2025", "MAY 1 2025", "Thursday, 1 May 2025", "1-May-2025", "Thu, 01 May 2025 00:00:00 GMT",
        "1er mai 2025", "le 1er mai 2025", "1. Mai 2025", "1.5.2025", "01.05.2025", "1º de maio de 2025",
        "1 de mayo de 2025", "1° maggio 2025", "1 mei 2025", "1 maja 2025 r.", "1. května 2025", "1 maj 2025",
        "1 мая 2025 г.", "1 травня 2025 року", "1 Mayıs 2025", "1 Μαΐου 2025", "1 مايو 2025", "٢٠٢٥/٥/١",
        "2025年5月1日", "二〇二五年五月一日", "令和7年5月1日", "民國114年5月1日", "2025년 5월 1일", "2025. 5. 1.",
        "ngày 1 tháng 5 năm 2025",
    ],
)  # fmt: skip
def test_dates_are_read_in_many_ways(text: str) -> None:
    assert iso_date(text, "d") == "2025-05-01"


def test_a_date_is_read_where_day_and_month_can_be_told_apart() -> None:
    assert (iso_date("13/04/2025", "d"), iso_date("4/13/2025", "d")) == ("2025-04-13", "2025-04-13")
    assert [iso_date(text, "d") for text in ("-", "n/a", "unbefristet", "无")] == [""] * 4
    for text in ("03/04/2025", "01.05.25", "45778", "May 2025", "soon", "2025-13-01", "31 February 2025"):
        with pytest.raises(ValueError, match="is not a date"):
            iso_date(text, "d")


def test_rows_of_json_have_the_names_of_columns(tmp_path: Path) -> None:
    row = {"key": "a", "content": "one", "effective_date": "1 May 2024", "jurisdiction": "NO", "heading": "H",
           "version": 3, "score": float("nan")}  # fmt: skip
    (found,) = passages(tmp_path / "r.jsonl", json.dumps(row))
    assert (found.id, found.text, found.title) == ("a", "one", "H")
    assert (found.in_force_from, found.region, found.tags) == ("2024-05-01", "NO", ("version=3",))


def test_no_value_of_a_doubled_key_is_taken(tmp_path: Path) -> None:
    text = '[{"id": "a", "text": "one", "text": "two"}, {"id": "b", "text": "three"}]'
    assert [p.id for p in passages(tmp_path / "r.json", text)] == ["b"]
    assert problems(tmp_path / "r.json", text) == ["duplicate key 'text'"]
    assert "duplicate key 'text'" in problems(tmp_path / "r.yaml", "- id: a\n  text: one\n  text: two\n")[0]
    assert problems(tmp_path / "r.jsonl", text[1 : text.index("}") + 1] + "\n") == ["duplicate key 'text'"]


def test_what_is_no_number_is_no_text(tmp_path: Path) -> None:
    assert problems(tmp_path / "r.json", '[{"id": 1, "text": NaN}]') == ["text is empty"]


def test_rows_inside_of_rows_have_what_stands_above_them(tmp_path: Path) -> None:
    act = {"title": "Noise Act", "effective": "1 May 2024", "chapters": [
        {"title": "Gardens", "articles": [{"number": "1", "title": "Mowers", "text": "No mowing."},
                                          {"number": "2", "text": "No music.", "sub": [{"text": "But at parties."}]}]},
        {"title": "Streets", "articles": [{"number": "1", "text": "No horns."}]}]}  # fmt: skip
    found = passages(tmp_path / "act.json", json.dumps(act))
    assert [(p.title, p.text) for p in found] == [
        ("Noise Act › Gardens › 1 Mowers", "No mowing."), ("Noise Act › Gardens › 2", "No music."),
        ("Noise Act › Gardens › 2", "But at parties."), ("Noise Act › Streets › 1", "No horns."),
    ]  # fmt: skip
    assert [p.id for p in found if ":" in p.id] == ["act.json:1", "act.json:2", "act.json:Streets/1"]
    assert {p.in_force_from for p in found} == {"2024-05-01"}


def test_numbered_rows_may_name_their_text_as_they_like(tmp_path: Path) -> None:
    data = [{"nr": 1, "content": "one", "quelle": "Council"}, {"nr": 2, "title": "x"}, {"nr": 3, "正文": "three"}]
    for name in ("r.json", "r.yaml"):
        found = passages(tmp_path / name, json.dumps(data))
        assert [(p.id, p.text, p.source) for p in found] == [
            (f"{name}:1", "one", "Council"), (f"{name}:3", "three", name)
        ]  # fmt: skip
        assert problems(tmp_path / name, json.dumps(data)) == ["text is empty"]


def test_texts_of_a_list_have_the_labels_around_it(tmp_path: Path) -> None:
    data = {"region": "DE", "title": "Gifts", "effective": "1 May 2024", "rules": ["Take none.", "Tell us."]}
    found = passages(tmp_path / "r.json", json.dumps(data))
    assert [(p.text, p.title, p.region, p.in_force_from) for p in found] == [
        ("Take none.", "Gifts", "DE", "2024-05-01"), ("Tell us.", "Gifts", "DE", "2024-05-01"),
    ]  # fmt: skip


@pytest.mark.parametrize("more", [{"articles": ["Art. 5"]}, {"items": ["a", "b"]}, {"see": {"documents": ["x", ""]}}])
def test_what_a_row_refers_to_is_no_passage(more: dict[str, object], tmp_path: Path) -> None:
    for row in ({"id": "a", "text": "one", **more}, {"rules": [{"id": "a", "text": "one", **more}]}):
        found = rows(tmp_path / "r.json", json.dumps([row]))
        assert [(row.passage and row.passage.text, row.problem) for row in found] == [("one", "")]


def test_ids_and_texts_in_a_script_without_blanks_are_read(tmp_path: Path) -> None:
    found = passages(tmp_path / "r.json", '{"r1": "员工不得收受礼物。", "r2": "ห้ามสูบบุหรี่"}')
    assert [(p.id, p.text) for p in found] == [("r1", "员工不得收受礼物。"), ("r2", "ห้ามสูบบุหรี่")]
    assert "holds no list of rows" in problems(tmp_path / "c.json", '{"city": "北京", "path": "/usr/local/bin"}')[0]


def test_line_separators_inside_of_a_row_end_none(tmp_path: Path) -> None:
    data = '{"id": "a", "text": "one\u2028two\x85three"}\n'
    assert [p.id for p in passages(tmp_path / "r.jsonl", data.encode("utf-16"))] == ["a"]


def test_yaml_is_read_as_it_is_written(tmp_path: Path) -> None:
    text = ("base: &b {region: NO, version: 1.10, effective: 2024-05-01}\nrules:\n"
            "- {id: 010, <<: *b, text: wear a badge}\n- {id: 12:30, text: lock up}\n- {id: yes, text: no}\n"
            )  # fmt: skip
    found = passages(tmp_path / "r.yaml", text)
    assert [(p.id, p.text) for p in found] == [("010", "wear a badge"), ("12:30", "lock up"), ("yes", "no")]
    assert (found[0].region, found[0].tags, found[0].in_force_from) == ("NO", ("version=1.10",), "2024-05-01")
    nested = "policies:\n  travel:\n  - {id: t, text: trains}\n  gifts:\n  - {id: g, text: none}\n"
    assert [p.id for p in passages(tmp_path / "n.yaml", nested)] == ["t", "g"]


def test_numbers_that_begin_anew_lose_no_row(tmp_path: Path) -> None:
    found = passages(tmp_path / "r.csv", "No.,Category,Rule text\n1,HR,Be kind\n2,HR,Be fair\n1,IT,Lock screens\n")
    assert [(p.id, p.kind, p.text) for p in found] == [
        ("r.csv:1", "HR", "Be kind"), ("r.csv:2", "HR", "Be fair"), ("r.csv:1~2", "IT", "Lock screens"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.csv", "Policy,Description\nGifts,Declare gifts\n", [("Gifts", "Declare gifts")]),
        ("b.csv", "ACME rules,,\n,,\nid,title,text\nr1,A,one\n", [("A", "one")]),
        ("e.csv", "Content Policy 2026\nNo,Rule,Owner\n1,one,HR\n2,two,IT\n", [("", "one"), ("", "two")]),
        ("l.csv", "Rules, as of 2026\nNr.;Regel;Wer\n1;one, or two;HR\n", [("", "one, or two")]),
        ("n.csv", "House policy 3,,\nRef,Rule text,Owner\nA1,one,HR\n", [("", "one")]),
        ("o.csv", "Rule text\nfollow the rule, please\none\n", [("", "one")]),
        ("m.csv", "text\nBe kind; be fair\n", [("", "Be kind; be fair")]),
        ("f.csv", "Content Policy 2026\nNo,Requirement,Owner\n1,one,HR\n", [("", "one")]),
        ("g.csv", "Content policy,Version 3,\nNo,Rule,Owner\n1,one,HR\n", [("", "one")]),
        ("h.csv", "Rule\nNo,Rule text,Owner\n1,one,HR\n", [("", "one")]),
        ("i.csv", "Rule text\none\nfollow the rule\n", [("", "one"), ("", "follow the rule")]),
        ("j.csv", "text\none\nContent\n", [("", "one"), ("", "Content")]),
        ("k.csv", "Category,Requirement\nContent,one\nText,two\n", [("", "one"), ("", "two")]),
        ("c.csv", "sep=\t\r\nid\ttext\r\nr1\tone\r\n", [("", "one")]),
        ("d.tsv", 'id\ttext\nr1\t"Dogs" are leashed\nr2\tCats\n', [("", '"Dogs" are leashed'), ("", "Cats")]),
    ],
)
def test_tables_have_titles_above_and_columns_of_many_names(
    name: str, text: str, expected: list[tuple[str, str]], tmp_path: Path
) -> None:
    assert [(p.title, p.text) for p in passages(tmp_path / name, text)] == expected
    assert len(problems(tmp_path / name, text)) == (name == "o.csv")  # "more fields than the header has columns"


def test_merged_cells_count_for_all_their_rows_and_other_sheets_are_named(tmp_path: Path) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    sheet = book.active
    for row in (["Company rules"], [], ["ID", "Category", "Rule", "Effective date"],
                ["h1", "Leave", "30 days", datetime.datetime(2024, 5, 1)], ["h2", None, "Tell us", None]):  # fmt: skip
        sheet.append(row)
    sheet.merge_cells("B4:B5")
    book.create_sheet("Notes").append(["just a note"])
    book.save(tmp_path / "b.xlsx")
    found = list(read(tmp_path / "b.xlsx", Defaults()))
    assert [(row.passage.id, row.passage.kind, row.passage.in_force_from) for row in found if row.passage] == [
        ("h1", "Leave", "2024-05-01"), ("h2", "Leave", ""),
    ]  # fmt: skip
    assert [row.note for row in found if row.note] == ["sheet 'Notes' has no column 'text'"]
    assert not any(row.problem for row in found)


def test_a_title_above_a_sheet_is_not_its_header_merged_or_not(tmp_path: Path) -> None:
    import openpyxl

    for merged in ("", "A1:C1"):
        book = openpyxl.Workbook()
        for row in (["Content Policy 2026"], ["No", "Rule", "Owner"], [1, "one", "HR"], [2, "two", "IT"]):
            book.active.append(row)
        if merged:
            book.active.merge_cells(merged)
        book.save(tmp_path / "b.xlsx")
        found = list(read(tmp_path / "b.xlsx", Defaults()))
        assert [(row.passage and row.passage.text, row.problem) for row in found] == [("one", ""), ("two", "")]


def test_short_rows_of_a_sheet_without_a_size_lose_no_other(tmp_path: Path) -> None:
    import openpyxl

    book = openpyxl.Workbook(write_only=True)
    for title in ("one", "two"):
        sheet = book.create_sheet(title)
        for row in (["id", "text", "region"], [f"{title}1"], [f"{title}2", "be kind"], [f"{title}3", "be fair", "NO"]):
            sheet.append(row)
    book.save(tmp_path / "b.xlsx")
    found = list(read(tmp_path / "b.xlsx", Defaults()))
    assert [row.passage.id if row.passage else row.problem for row in found] == [
        "text is empty", "one2", "one3", "text is empty", "two2", "two3",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "front",
    [
        "---\neffective: 1 May 2024\njurisdiction: NO\n---\n", '+++\neffective = 2024-05-01\nregion = "NO"\n+++\n',
        '{\n"effective": "2024-05-01",\n"country": "NO"\n}\n', "\n---\neffective: 2024-05-01\nregion: NO\n---\n",
        "---\nmetadata:\n  effective: 2024-05-01\n  region: NO\n---\n",
        "\ufeff---\r\nEffective Date: 2024-05-01\r\nregion: NO\r\n---\r\n",
        "---\ntitle: Travel: trains\neffective: 2024-05-01\nregion: NO\n---\n",
        "---\neffective: {from: 2024-05-01, to: null}\nregion: NO\n---\n",
    ],
)  # fmt: skip
def test_front_matter_of_many_shapes(front: str, tmp_path: Path) -> None:
    (found,) = passages(tmp_path / "a.md", f"{front}# Rule\nBe kind.\n")
    assert (found.in_force_from, found.in_force_to, found.region, found.text) == ("2024-05-01", "", "NO", "Be kind.")


def test_one_date_that_cannot_be_read_loses_no_other_label(tmp_path: Path) -> None:
    text = "---\neffective: 03/04/2024\nregion: EU\n---\n# Rule\nBe kind.\n"
    assert [p.region for p in passages(tmp_path / "a.md", text)] == ["EU"]
    assert "front matter: in_force_from is not a date" in problems(tmp_path / "a.md", text)[0]


def test_a_row_between_two_lines_is_no_front_matter(tmp_path: Path) -> None:
    (found,) = passages(tmp_path / "a.md", "\n---\nBe kind.\n---\n")
    assert "Be kind." in found.text + found.title
