"""The law's own XML where it is hard: quotes, notes, schedules, versions, what is repealed or not in force yet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retrieval.cli.command import main
from retrieval.passage import Passage
from retrieval.text.formats import read
from retrieval.text.row import Defaults

DATA = Path(__file__).parents[1] / "data" / "law"
EXPECTED = json.loads((DATA / "expected.json").read_text(encoding="utf-8"))


def passages(path: Path) -> list[Passage]:
    return [row.passage for row in read(path, Defaults()) if row.passage]


def told(passage: Passage) -> list[str]:
    dates = [passage.in_force_from, passage.in_force_to]
    return [passage.id.partition(":")[2], passage.title, passage.text, *(dates if any(dates) else [])]


@pytest.mark.parametrize("name", EXPECTED)
def test_each_article_stands_once_under_its_own_number(name: str) -> None:
    assert [told(p) for p in passages(DATA / name)] == EXPECTED[name]


def test_articles_that_an_amendment_quotes_are_its_text() -> None:
    for name in ("akn_quoted", "bill", "canada", "formex", "uk", "uslm_note"):
        titles = [p.title for p in passages(DATA / f"{name}.xml")]
        assert not any(words in title for title in titles for words in ("Article 9", "4A", "Section 9", "§ 7", "Cats"))


def test_notes_in_a_number_are_no_part_of_it() -> None:
    assert passages(DATA / "akn_swiss.xml")[0].id == "akn_swiss.xml:Art.-5"


def test_a_raised_number_is_another_article() -> None:
    assert [p.id.partition(":")[2] for p in passages(DATA / "akn_swiss.xml")][1:] == ["Art.-6bis", "Art.-22¹"]


def test_a_schedules_paragraph_is_no_section_of_its_act() -> None:
    keys = [p.id.partition(":")[2] for p in passages(DATA / "uk.xml")]
    assert keys == ["0", "Section-1", "Section-2", "Paragraph-1", "SCHEDULE-2-Fees"]


def test_one_version_ends_the_day_before_the_next_begins() -> None:
    first, second = (p for p in passages(DATA / "akn_quoted.xml") if p.title.endswith("Section 1 Leash"))
    assert (first.in_force_from, first.in_force_to, second.in_force_from) == ("2020-01-01", "2022-05-31", "2022-06-01")


def test_what_is_removed_or_not_in_force_yet_is_left_out() -> None:
    assert not any("Not in force" in p.text for p in passages(DATA / "canada.xml"))
    assert not any("Section 3" in p.title for p in passages(DATA / "akn_quoted.xml"))


def test_sections_beside_a_schedule_with_articles_are_passages(tmp_path: Path) -> None:
    path = tmp_path / "act.xml"
    path.write_text(
        '<akomaNtoso xmlns="http://docs.oasis-open.org/legaldocml/ns/akn/3.0"><act><body><section><num>1</num><content>'
        "<p>Dogs are leashed.</p></content></section><hcontainer><num>Schedule</num><heading>Treaty</heading><article>"
        "<num>1</num><content><p>Birds fly.</p></content></article></hcontainer></body></act></akomaNtoso>"
    )
    assert [(p.id.partition(":")[2], p.text) for p in passages(path)] == [
        ("Section-1", "Dogs are leashed."), ("Article-1", "Birds fly."),
    ]  # fmt: skip


def test_other_xml_in_a_folder_is_named_and_holds_no_sync_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/pom.xml").write_text("<project><name>x</name></project>")
    (tmp_path / "in/a.txt").write_text("dogs bark")
    assert main(["sync", str(tmp_path / "i"), str(tmp_path / "in"), "--embedder", "none"]) == 0
    assert "pom.xml:1: not read: XML with the root <project>" in capsys.readouterr().err
    assert main(["sync", str(tmp_path / "j"), str(tmp_path / "in/pom.xml"), "--embedder", "none"]) == 1


def test_a_date_of_a_period_that_cannot_be_read_is_left_out_and_reported_once(tmp_path: Path) -> None:
    events = {"e0": "0001-01-01", "e1": "2010-01-01", "e2": "2015-01-01", "e3": "2020-01-01", "e4": "unknown"}
    periods = {"p1": ("e1", "e2", "e2", "e3"), "p2": ("e1", "e4"), "p3": ("e0", "e0"), "p4": ("e0", "e3", "e3", "")}
    groups = "".join(
        f'<temporalGroup eId="{name}">'
        + "".join(f'<timeInterval start="#{a}" end="#{b}"/>' for a, b in zip(ends[::2], ends[1::2], strict=True))
        + "</temporalGroup>"
        for name, ends in periods.items()
    )
    refs = "".join(f'<eventRef eId="{name}" date="{day}"/>' for name, day in events.items())
    sections = "".join(
        f'<section period="#{name}"><num>{i}</num><content><p>Rule {i}.</p></content></section>'
        for i, name in enumerate((*periods, "p2"), 1)
    )
    (tmp_path / "a.xml").write_text(
        f'<akomaNtoso xmlns="http://docs.oasis-open.org/legaldocml/ns/akn/3.0"><act><meta><lifecycle>{refs}</lifecycle>'
        f"<temporalData>{groups}</temporalData></meta><body>{sections}</body></act></akomaNtoso>"
    )
    assert [(p.in_force_from, p.in_force_to) for p in passages(tmp_path / "a.xml")] == [
        ("2010-01-01", "2019-12-31"), ("2010-01-01", ""), ("0001-01-01", ""), ("0001-01-01", ""), ("2010-01-01", ""),
    ]  # fmt: skip
    assert [row.problem for row in read(tmp_path / "a.xml", Defaults()) if row.problem] == [
        "no day comes before 0001-01-01",
        "the date of e4 is not a date like 2026-01-31: 'unknown'",
    ]
