"""What a source holds: every file once or named, whatever its name, its links and its encoding."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import zstandard

from retrieval.cli.command import main
from retrieval.passage import Passage
from retrieval.search.index import Index
from retrieval.text.encoding import decode
from retrieval.text.formats import listing, read
from retrieval.text.row import Defaults


def passages(path: Path, root: Path | None = None) -> list[Passage]:
    return [row.passage for row in read(path, Defaults(), None, root) if row.passage]


def problems(path: Path) -> list[str]:
    return [row.problem for row in read(path, Defaults()) if not row.passage]


def build(tmp_path: Path) -> int:
    return main(["build", str(tmp_path / "i"), "--input", str(tmp_path / "in"), "--embedder", "none"])


def ids(tmp_path: Path) -> list[str]:
    with Index.open(tmp_path / "i", readonly=True) as index:
        return [p.id for p in index.documents()]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


def test_links_are_followed_once_and_never_in_circles(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    (outside / "far.txt").write_text("birds")
    (source / "sub").mkdir()
    (source / "sub/near.txt").write_text("dogs")
    (source / "far").symlink_to(outside)
    (source / "again").symlink_to("sub")
    (source / "copy.txt").symlink_to("sub/near.txt")
    (source / "sub/loop").symlink_to("..")
    (source / "up").symlink_to(tmp_path)
    os.mkfifo(source / "pipe.txt")
    assert build(tmp_path) == 0
    assert ids(tmp_path) == ["far/far.txt", "sub/near.txt"]
    said = capsys.readouterr().err
    for name in ("again", "copy.txt", "loop", "up", "pipe.txt"):
        assert f"{name}: not read: " in said


def test_a_broken_link_is_a_problem_and_nothing_is_taken_for_deleted(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path / "mounted.txt"
    outside.write_text("birds")
    (source / "a.txt").write_text("dogs")
    (source / "b.txt").symlink_to(outside)
    sync = ["sync", str(tmp_path / "i"), str(source), "--embedder", "none"]
    assert main(sync) == 0
    outside.unlink()
    assert main(sync) == 1
    assert "b.txt: a broken link to" in capsys.readouterr().err
    assert ids(tmp_path) == ["a.txt", "b.txt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_may_not_be_opened_is_a_problem(source: Path) -> None:
    (source / "open.txt").write_text("dogs")
    (source / "shut.txt").write_text("cats")
    (source / "shut").mkdir()
    (source / "shut.txt").chmod(0)
    (source / "shut").chmod(0)
    found = listing(source)
    assert [(p.name, "Permission denied" in reason) for p, reason in found.failed] == [("shut", True)]
    assert problems(source / "shut.txt") == ["cannot be read: Permission denied"]
    (source / "shut").chmod(0o755)


def test_a_file_that_went_away_does_not_stop_the_others(source: Path) -> None:
    assert problems(source / "gone.txt") == ["cannot be read: No such file or directory"]


def test_names_that_no_id_may_hold_are_escaped(source: Path, tmp_path: Path) -> None:
    for name in ("new\nline.md", "tab\there.md", "u\u0308ber.md", "😀.md", "a#1.md"):
        (source / name).write_text("# A\n" + ascii(name))
    with open(os.fsencode(source) + b"/caf\xe9.md", "w") as file:
        file.write("# A\nbirds")
    assert build(tmp_path) == 0
    assert ids(tmp_path) == ["a#1.md:A", "caf%E9.md:A", "new%0Aline.md:A", "tab%09here.md:A", "über.md:A", "😀.md:A"]


def test_a_damaged_archive_is_a_problem_of_its_file(source: Path, tmp_path: Path) -> None:
    (source / "a.jsonl.zst").write_bytes(b"no zstd at all")
    (source / "b.txt.ZST").write_bytes(zstandard.compress(b"dogs"))
    (source / "c.jsonl.zst").write_bytes(zstandard.compress(b'{"id": "r", "text": "cats"}\n' * 9)[:-4])
    assert "not zstd" in problems(source / "a.jsonl.zst")[0]
    assert build(tmp_path) == 0
    assert "b.txt.ZST" in ids(tmp_path)


def test_a_page_nested_too_deeply_does_not_stop_the_others(source: Path, tmp_path: Path) -> None:
    (source / "deep.html").write_text("<div>" * 50_000 + "dogs")
    (source / "flat.html").write_text("<p>cats")
    assert build(tmp_path) == 0
    assert "flat.html" in ids(tmp_path)


def test_a_list_may_be_of_any_encoding(source: Path, tmp_path: Path) -> None:
    (source / "über.txt").write_text("dogs")
    path = tmp_path / "all.list"
    path.write_bytes("in/über.txt\n".encode("utf-16"))
    assert [p.name for p in listing(path).files] == ["über.txt"]


ZH = "某某条例\n\n第一条　为了保护犬只，制定本条例。\n第二条　犬只应当拴绳，违者罚款。\n"
JA = "犬の規則\n\n第一条　犬は綱でつなぐものとする。\n第二条　猫は自由とする。\n"
RU = "Закон о собаках\n\nСтатья 1. Цели\nСобаки содержатся на поводке.\nСтатья 2. Кошки\nКошки свободны.\n"
DE = (
    "Hundeordnung\n\n§ 1 Leinen\nHunde sind größtenteils an der Leine zu führen.\n§ 2 Übermaß\nKläffen ist ärgerlich.\n"
)
PL = "Ustawa o psach\n\nArt. 1. Pies jest na smyczy, żółty też.\nArt. 2. Kość należy się psu, ąęłńśźż.\n"
EL = "Νόμος\n\nΆρθρο 1\nΟι σκύλοι δένονται.\nΆρθρο 2\nΟι γάτες είναι ελεύθερες.\n"
KO = "반려견 규칙\n\n제1조(목적) 이 규칙은 반려견을 보호한다.\n제2조(목줄) 반려견은 목줄을 한다.\n"


@pytest.mark.parametrize(
    ("text", "encodings"),
    [
        (ZH, "gb18030 utf-16 utf-16-le utf-16-be utf-32 utf-8-sig"),
        (JA, "cp932 euc_jp iso2022_jp utf-16-le utf-16-be"),
        (JA.replace("犬は綱", "①犬は綱"), "cp932"),
        (KO, "cp949 utf-16-le utf-16-be"),
        (RU, "cp1251 koi8_r iso8859_5 cp866 mac_cyrillic utf-16-le"),
        (DE, "cp1252 cp850 mac_roman utf-16-le"),
        (PL, "cp1250 iso8859_2 utf-16-be"),
        (EL, "cp1253 iso8859_7"),
    ],
    ids=["zh", "ja", "ja-extended", "ko", "ru", "de", "pl", "el"],
)
def test_encodings_are_recognised(text: str, encodings: str) -> None:
    assert {name: decode(text.encode(name)) for name in encodings.split()} == dict.fromkeys(encodings.split(), text)


def test_a_stray_nul_makes_no_text_utf_16() -> None:
    assert decode(b"Dogs\0 are leashed.\nCats roam!") == "Dogs\0 are leashed.\nCats roam!"


def test_a_page_that_claims_utf_16_in_ascii_is_utf_8(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<meta charset="utf-16"><p>Dogs are leashed, always.</p>')
    assert [p.text for p in passages(tmp_path / "a.html")] == ["Dogs are leashed, always."]
