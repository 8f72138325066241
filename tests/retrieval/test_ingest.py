import json
from pathlib import Path

import pytest
import zstandard

from retrieval.passage import Passage
from retrieval.text.formats import files, read
from retrieval.text.row import Defaults


def write(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def passages(path: Path, defaults: Defaults | None = None) -> list[Passage]:
    return [row.passage for row in read(path, defaults or Defaults()) if row.passage]


def problems(path: Path) -> list[tuple[str, str]]:
    return [(row.place.rpartition(":")[2], row.problem) for row in read(path, Defaults()) if not row.passage]


def test_jsonl_rows_become_passages_and_take_the_defaults(tmp_path: Path) -> None:
    rows = [
        {"_id": "a", "title": "T", "text": "one", "region": "江苏", "tags": ["x", "y"], "authority": None},
        {"id": 7, "text": "two", "tags": "x, y", "metadata": {"kind": "law"}},
        {"text": "three"},
    ]
    path = write(tmp_path / "c.jsonl", "\n".join(json.dumps(row) for row in rows) + "\n")
    a, b, c = passages(path, Defaults(language="zh", region="全国"))
    assert (a.id, a.title, a.region, a.language, a.tags) == ("a", "T", "江苏", "zh", ("x", "y"))
    assert (b.id, b.kind, b.region, b.tags) == ("7", "law", "全国", ("x", "y"))
    assert c.id == f"sha-{c.content_hash.hex()}"


def test_a_bad_row_is_reported_with_its_line_and_the_rest_goes_in(tmp_path: Path) -> None:
    lines = [
        b'{"_id": "good", "text": "one"}', b"", b"{not json", b'{"_id": "bad bytes", "text": "caf\xe9"}', b"[1, 2]",
        b'{"_id": "empty", "text": "  "}', b'{"_id": "nul", "text": "a\\u0000b"}',
        b'{"_id": "half", "text": "\\ud800"}',
        b'{"_id": "list", "text": ["a"]}', b'{"_id": "date", "text": "t", "in_force_to": "soon"}', b"[" * 100_000,
        b'{"_id": "last", "text": "two"}',
    ]  # fmt: skip
    path = write(tmp_path / "c.jsonl", b"\n".join(lines) + b"\n")
    assert [p.id for p in passages(path)] == ["good", "last"]
    found = dict(problems(path))
    assert list(found) == [str(n) for n in range(2, 12)]
    assert found["2"] == "empty row"
    assert found["3"].startswith("not JSON")
    assert found["4"] == "not UTF-8: byte 0xe9 at character 4"
    assert "not a JSON object" in found["5"]
    assert found["6"] == "text is empty"
    assert "NUL" in found["7"]
    assert "surrogate" in found["8"]
    assert found["9"] == "text must be text, not list"
    assert "not a date" in found["10"]


def test_csv_takes_quoted_line_breaks_and_names_bad_rows(tmp_path: Path) -> None:
    path = write(
        tmp_path / "c.csv",
        b'\xef\xbb\xbfid,text,region\na,"one\ntwo, three",Ontario\nb,caf\xe9,x\nc,,x\nd,four,x,extra\ne,five,\n',
    )
    assert [(p.id, p.text, p.region) for p in passages(path)] == [
        ("a", "one\ntwo, three", "Ontario"),
        ("e", "five", ""),
    ]
    assert problems(path) == [
        ("4", "not UTF-8: byte 0xe9 at character 4"), ("5", "text is empty"),
        ("6", "more fields than the header has columns"),
    ]  # fmt: skip
    assert problems(write(tmp_path / "d.csv", "a,b\n1,2\n")) == [("1", "no column 'text' in a, b")]
    assert "not CSV" in problems(write(tmp_path / "e.csv", 'id,text\na,"never closed\n'))[0][1]


def test_markdown_is_cut_at_headings_but_not_inside_fences(tmp_path: Path) -> None:
    path = write(tmp_path / "spec.md", "intro\n# A\nfirst\n```sh\n# no heading\n```\n## B\nsecond\n# C\n\n# D\nlast\n")
    assert [(p.id, p.title, p.text) for p in passages(path)] == [
        ("spec.md:0", "", "intro"),
        ("spec.md:A", "A", "first\n```sh\n# no heading\n```"),
        ("spec.md:B", "A › B", "second"),
        ("spec.md:D", "D", "last"),
    ]


def test_plain_text_is_cut_at_its_articles(tmp_path: Path) -> None:
    path = write(
        tmp_path / "udhr.txt", "Declaration\n\n   Article 1\n   Born free.\n   Article 2\n   No\n   distinction.\n"
    )
    assert [(p.title, p.text) for p in passages(path)] == [
        ("Declaration", "Declaration"), ("Declaration, Article 1", "Born free."),
        ("Declaration, Article 2", "No\ndistinction."),
    ]  # fmt: skip
    path = write(tmp_path / "法.txt", "第一条 公民。\n第二条 国家。\n")
    assert [(p.title, p.text) for p in passages(path)] == [("第一条", "公民。"), ("第二条", "国家。")]
    bad = write(tmp_path / "bad.txt", "Article 1\ngood\nArticle 2\nsö schön für größe\nb".encode() + b"\xe9d\n")
    assert [p.text for p in passages(bad)] == ["good"]
    assert problems(bad) == [("5", "not UTF-8: byte 0xe9 at character 2")] or problems(bad)[0][0] == "5"


def test_zst_is_read_as_what_it_holds(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl.zst", zstandard.compress(b'{"_id": "a", "text": "one"}\n'))
    assert [p.id for p in passages(path)] == ["a"]


def test_a_folder_is_its_corpus_or_all_that_can_be_read(tmp_path: Path) -> None:
    for name in ("beir/corpus.jsonl", "beir/queries.jsonl", "mixed/a.md", "mixed/b/c.txt", "mixed/d.png"):
        write(tmp_path / name, "x")
    assert [p.name for p in files(tmp_path / "beir")] == ["corpus.jsonl"]
    assert [p.name for p in files(tmp_path / "mixed")] == ["a.md", "c.txt"]
    with pytest.raises(ValueError, match="unknown kind of file"):
        files(tmp_path / "mixed/d.png")
    with pytest.raises(FileNotFoundError, match="no such input"):
        files(tmp_path / "nowhere")
