"""Files as people keep their rules in: each becomes what a reader of the file would say that it holds."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from pathlib import Path

import pytest

from retrieval.cli.command import main
from retrieval.passage import Passage
from retrieval.text.formats import listing, read
from retrieval.text.heading import head
from retrieval.text.numbered import numbered
from retrieval.text.row import Defaults

DATA = Path(__file__).parents[1] / "data" / "documents"


def passages(name: str) -> list[Passage]:
    return [row.passage for row in read(DATA / name, Defaults()) if row.passage]


def problems(name: str) -> list[str]:
    return [row.problem for row in read(DATA / name, Defaults()) if not row.passage]


def keys(found: list[Passage]) -> list[str]:
    return [p.id.partition(":")[2] for p in found]


STATUTE = ["0", "第一条", "第二条", "第三条", "第十二条", "第十二条之一", "第十三条"]


@pytest.mark.parametrize("name", ["statute_zh.txt", "statute_zh_gb18030.txt", "statute_zh_utf16.txt",
                                  "statute_zh.docx"])  # fmt: skip
def test_a_chinese_statute_is_one_passage_an_article(name: str) -> None:
    found = passages(name)
    assert keys(found) == STATUTE
    assert found[5].title == "某某市电动自行车管理条例, 第二章 登记, 第十二条之一"
    assert found[5].text == "违反本条例第十二条规定，造成火灾的，依法从重处罚。"
    assert "（三）整车出厂合格证明。" in found[3].text
    assert not any("第一章" in p.text for p in found)


def test_bold_article_heads_in_markdown_are_heads() -> None:
    found = passages("statute_zh.md")
    assert keys(found)[1:] == STATUTE[1:]
    assert found[1].title == "某某市电动自行车管理条例 › 第一章 总则 › 第一条"


def test_digits_and_blanks_in_article_numbers() -> None:
    assert keys(passages("statute_zh_digits.txt")) == ["0", "第1条", "第2条", "第3条"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bgb.txt", [("0", "Bürgerliches Gesetzbuch"),
                     ("§1", "Bürgerliches Gesetzbuch, § 1 Beginn der Rechtsfähigkeit"),
                     ("§1a", "Bürgerliches Gesetzbuch, § 1a Foo")]),
        ("ru.txt", [("0", "Трудовой кодекс"), ("Статья-1", "Трудовой кодекс, Статья 1. Цели"),
                    ("Статья-2", "Трудовой кодекс, Статья 2. Принципы")]),
        ("english_act.txt", [("0", "Animal Welfare Act 2006"),
                             ("1", "Animal Welfare Act 2006, 1. Animals to which the Act applies"),
                             ("2", "Animal Welfare Act 2006, 2. Unnecessary suffering"),
                             ("9", "Animal Welfare Act 2006, 9. Duty of care")]),
        ("cr_only.txt", [("0", "Hausordnung"), ("Artikel-1", "Hausordnung, Artikel 1"),
                         ("Artikel-2", "Hausordnung, Artikel 2")]),
        ("law.html", [("Section-1", "Noise Act › Section 1"), ("Section-2", "Noise Act › Section 2")]),
        ("code.md", [("Rules", "Rules"), ("html-head", "Rules › html head")]),
        ("policy.TXT", [("", "")]),
        ("policy.rtf", [("", "")]),
        ("policy.rst", [("Title", "Title")]),
    ],
)  # fmt: skip
def test_structure_becomes_ids_and_titles(name: str, expected: list[tuple[str, str]]) -> None:
    assert [(p.id.removeprefix(name).removeprefix(":"), p.title) for p in passages(name)] == expected


def test_front_matter_is_metadata_and_tables_stay_whole() -> None:
    found = passages("company.md")
    assert keys(found) == ["Information-security-policy", "1", "2", "3.1", "3.2", "4", "5"]
    assert {(p.in_force_from, p.tags) for p in found} == {("2025-03-01", ("version=4.2",))}
    assert found[2].text.count("\n") > 60
    assert (found[5].title, found[6].text) == (["Information security policy", "4 Incidents"][0] + " › 4 Incidents",
                                               "Nothing.")  # fmt: skip


EXCEL = [
    ("e1", "Reisekosten", "Flüge unter 6 Stunden: Economy.\nAusnahmen: „Vorstand“"),
    ("e2", "Geschenke", "Über 50 € anmelden; sonst nicht."),
]


@pytest.mark.parametrize(
    "name",
    ["excel_semicolon_cp1252.csv", "excel_semicolon_utf8bom.csv", "excel_utf16.csv", "comma_cr.csv",
     "comma_crlf_bom.csv", "tab_utf8.tsv", "sep_line.csv"],
)  # fmt: skip
def test_tables_as_excel_writes_them(name: str) -> None:
    assert [(p.id, p.title, p.text) for p in passages(name)] == EXCEL


def test_headers_in_capitals_and_with_blanks() -> None:
    assert [(p.id, p.text) for p in passages("upper_header.csv")] == [("u1", "Upper header rule.")]
    assert [(p.id, p.text) for p in passages("spaces_header.csv")] == [("u2", "Spaces header rule.")]
    assert [(p.id, p.title, p.text) for p in passages("rules.xlsx")] == [("x1", "Rule", "Do not share passwords.")]


def test_json_arrays_and_yaml_lists_are_rows() -> None:
    assert [(p.id, p.text) for p in passages("policy.json")] == [("j1", "JSON array rule: badges must be worn.")]
    assert [(p.id, p.text) for p in passages("policy.yaml")] == [("a", "Be kind.")]


def test_what_has_no_text_says_so() -> None:
    assert "has no text (a scan?)" in problems("scanned.pdf")[0]
    assert problems("empty.txt") == ["no text"]
    assert problems("empty.md") == ["no text"]
    assert "not an OpenDocument text" in problems("policy.odt")[0]
    assert "Remote work" in passages("policy.pdf")[0].text


def test_files_of_one_name_keep_their_own_passages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in {"hr/policy.md": "# A\none", "it/policy.md": "# A\ntwo", "it/policy.v2.md": "# A\nthree",
                       "2024.03 Travel.md": "# T\nfour", "2024.05 Gifts.md": "# G\nfive",
                       ".git/notes.md": "# N\nsix", "logo.png": "x"}.items():  # fmt: skip
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(text)
    assert main(["build", str(tmp_path / "i"), "--input", str(tmp_path / "in"), "--embedder", "none"]) == 0
    said = capsys.readouterr()
    assert "5 documents read" in said.out
    assert "5 now" in said.out
    assert "logo.png: not read: no reader for .png" in said.err
    assert ".git" not in said.err


def test_a_collision_names_both_places_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("hr", "it"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "policy.md").write_text(f"# A\n{name}")
    first = ["build", str(tmp_path / "i"), "--embedder", "none", "--input", str(tmp_path / "hr/policy.md")]
    assert main([*first, "--input", str(tmp_path / "it/policy.md")]) == 1
    said = capsys.readouterr().err
    assert str(tmp_path / "hr/policy.md") in said
    assert str(tmp_path / "it/policy.md") in said
    assert main(["add", str(tmp_path / "i"), "--input", str(tmp_path / "it/policy.md")]) == 1
    assert "is also the name of" in capsys.readouterr().err


def test_duplicate_ids_in_a_file_are_reported_and_nothing_read_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "r.jsonl"
    rows.write_text('{"id": "a", "text": "one"}\n{"id": "a", "text": "two"}\n')
    assert main(["build", str(tmp_path / "i"), "--embedder", "none", "--input", str(rows)]) == 0
    assert f"{rows}:2: duplicate id 'a', first at {rows}:1" in capsys.readouterr().err
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    assert main(["build", str(tmp_path / "j"), "--embedder", "none", "--input", str(empty)]) == 1
    assert "nothing was read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "label", "number"),
    [
        ("第一百三十三条之一　在道路上驾驶机动车…", "第一百三十三条之一", (133, 1)),
        ("　　第 3 条 违反第2条的，处罚。", "第 3 条", (3,)),
        ("第三条【立法目的】为了", "第三条", (3,)),
        ("第三条の二　前条の規定は", "第三条の二", (3, 2)),
        ("제1조(목적) 이 법은", "제1조", (1,)),
        ("제34조의2(정의)", "제34조의2", (34, 2)),
        ("Article 6 bis", "Article 6 bis", (6, 2)),
        ("Article premier", "Article premier", (1,)),
        ("Article L1221-1", "Article L1221-1", (1221, 1)),
        ("L1221-1", "L1221-1", (1221, 1)),
        ("§ 9b Übergangsvorschrift", "§ 9b", (9, 2)),
        ("Section 4(2)", "Section 4(2)", (4, 2)),
        ("Статья 1. Цели", "Статья 1", (1,)),
        ("ARTÍCULO 3. Objeto", "ARTÍCULO 3", (3,)),
        ("**Article 5**", "Article 5", (5,)),
        ("Artículo 4º.- Definiciones", "Artículo 4º", (4,)),
        ("Art. 5-bis (Finalità)", "Art. 5-bis", (5, 2)),
    ],
)
def test_heads_of_articles_are_known(line: str, label: str, number: tuple[int, ...]) -> None:
    found = head(line)
    assert found is not None
    assert (found.kind, found.label, found.number) == ("article", label, number)


@pytest.mark.parametrize(
    "line",
    [
        "第一条规定的电动自行车，应当登记。", "第十二条第二款规定的情形", "第三条、第四条所列", "第五条至第七条的规定",
        "Section 3 of this Act applies to dogs.", "Article 5 shall not apply.", "Article 5, paragraph 2, applies.",
        "§ 5 gilt entsprechend.", "§ 5 Abs. 2 gilt nicht.", "Art 229 § 5 EGBGB gilt.", "§ 433 BGB bleibt unberührt.",
        "제3조제2항에 따라", "제5조 및 제6조",
        "Article 6 and Article 7 apply.", "article 5 du code", "Articles 5 and 6",
        "Article 1 Scope ......... 3",
    ],
)  # fmt: skip
def test_references_at_the_start_of_a_line_are_no_heads(line: str) -> None:
    assert head(line) is None


def test_items_of_a_list_are_no_numbered_heads(tmp_path: Path) -> None:
    assert numbered("1. Buy milk.") is None
    path = tmp_path / "list.txt"
    path.write_text("Shopping\n\n1. Milk\n2. Bread\n3. Salt\n")
    assert [p.id for row in read(path, Defaults()) if (p := row.passage)] == ["list.txt"]


def test_a_wrapped_reference_is_text(tmp_path: Path) -> None:
    path = tmp_path / "act.txt"
    path.write_text(
        "Dog Act\n\nArticle 1\nDogs are kept on a leash, in accordance with\nArticle 5. The leash is short.\n\n"
        "Article 2\nA dog that was seized under the procedure laid down in\nArticle 1\nis returned.\n"
    )
    found = [p for row in read(path, Defaults()) if (p := row.passage)]
    assert keys(found) == ["0", "Article-1", "Article-2"]
    assert "Article 5. The leash is short." in found[1].text


def test_deleting_a_middle_section_moves_no_other_id(tmp_path: Path) -> None:
    path = tmp_path / "p.md"
    path.write_text("# A\none\n# B\ntwo\n# C\nthree\n")
    before = [p.id for row in read(path, Defaults()) if (p := row.passage)]
    path.write_text("# A\none\n# C\nthree\n")
    after = [p.id for row in read(path, Defaults()) if (p := row.passage)]
    assert after == [before[0], before[2]]


def test_word_numbers_that_stand_in_no_text_are_read(tmp_path: Path) -> None:
    import docx
    from docx.oxml import parse_xml

    w = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    document = docx.Document()
    root = document.part.numbering_part.element
    abstract = parse_xml(
        f'<w:abstractNum xmlns:w="{w}" w:abstractNumId="77"><w:lvl w:ilvl="0"><w:start w:val="1"/>'
        f'<w:numFmt w:val="chineseCountingThousand"/><w:lvlText w:val="第%1条"/></w:lvl></w:abstractNum>'
    )
    root.insert(0, abstract)
    root.append(parse_xml(f'<w:num xmlns:w="{w}" w:numId="77"><w:abstractNumId w:val="77"/></w:num>'))
    for text in ("狗必须拴绳。", "猫可以自由活动。"):
        paragraph = document.add_paragraph(text)
        paragraph._p.get_or_add_pPr().append(
            parse_xml(f'<w:numPr xmlns:w="{w}"><w:ilvl w:val="0"/><w:numId w:val="77"/></w:numPr>')
        )
    stream = io.BytesIO()
    document.save(stream)
    (tmp_path / "d.docx").write_bytes(stream.getvalue())
    found = [p for row in read(tmp_path / "d.docx", Defaults()) if (p := row.passage)]
    assert [(p.title, p.text) for p in found] == [("第一条", "狗必须拴绳。"), ("第二条", "猫可以自由活动。")]


ODT = (
    '<office:document-content xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0"'
    ' xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0"'
    ' xmlns:style="urn:oasis:names:tc:opendocument:xmlns:style:1.0"><office:automatic-styles>{styles}'
    "</office:automatic-styles><office:body><office:text>{text}</office:text></office:body></office:document-content>"
)


def odt(path: Path, styles: str, text: str) -> list[Passage]:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.text")
        archive.writestr("content.xml", ODT.format(styles=styles, text=text))
    return [p for row in read(path, Defaults()) if (p := row.passage)]


def test_opendocument_numbers_that_stand_in_no_text_are_read(tmp_path: Path) -> None:
    style = (
        '<text:list-style style:name="L1"><text:list-level-style-number text:level="1" style:num-prefix="第"'
        ' style:num-suffix="条" style:num-format="一, 二, 三, ..."/></text:list-style>'
    )
    item = "<text:list-item><text:p>{}</text:p></text:list-item>"
    text = f'<text:list text:style-name="L1">{item.format("狗必须拴绳。")}</text:list><text:p/>'
    text += (
        f'<text:list text:continue-numbering="true" text:style-name="L1">{item.format("猫可以自由活动。")}</text:list>'
    )
    found = odt(tmp_path / "d.odt", style, text)
    assert [(p.title, p.text) for p in found] == [("第一条", "狗必须拴绳。"), ("第二条", "猫可以自由活动。")]


def test_opendocument_headings_are_numbered_by_the_outline(tmp_path: Path) -> None:
    style = (
        '<text:outline-style><text:outline-level-style text:level="1" style:num-format=""/><text:outline-level-style'
        ' text:level="2" style:num-prefix="Article " style:num-format="1" text:start-value="4"/></text:outline-style>'
    )
    heads = "".join(
        f'<text:h text:outline-level="2">{head}</text:h><text:p>{rule}</text:p>'
        for head, rule in (("Dogs", "Dogs are kept on a leash."), ("Cats", "Cats may run free."))
    )
    found = odt(tmp_path / "d.odt", style, f'<text:h text:outline-level="1">By-law</text:h>{heads}')
    assert [key for key in keys(found) if key] == keys(found)
    assert ["Article 4" in found[0].title, "Article 5" in found[1].title] == [True, True]


def test_opendocument_items_of_a_list_keep_their_numbers(tmp_path: Path) -> None:
    style = (
        '<text:list-style style:name="L1"><text:list-level-style-number text:level="1" style:num-format="1"'
        ' style:num-suffix="."/><text:list-level-style-number text:level="2" style:num-format="a"'
        ' style:num-suffix=")"/></text:list-style>'
        '<text:list-style style:name="L2"><text:list-level-style-bullet text:level="1"/></text:list-style>'
    )
    inner = "<text:list><text:list-item><text:p>when it barks</text:p></text:list-item></text:list>"
    text = (
        f'<text:p>A dog is muzzled:</text:p><text:list text:style-name="L1"><text:list-item><text:p>in trains</text:p>'
        f"{inner}</text:list-item><text:list-item><text:p>in shops</text:p></text:list-item></text:list>"
        f'<text:list text:style-name="L2"><text:list-item><text:p>or both</text:p></text:list-item></text:list>'
    )
    (found,) = odt(tmp_path / "d.odt", style, text)
    assert found.text.split("\n") == [
        "A dog is muzzled:",
        "1. in trains",
        "a) when it barks",
        "2. in shops",
        "- or both",
    ]


def test_json_lines_under_the_name_of_json_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("\n".join(json.dumps({"id": str(i), "text": f"rule {i}"}) for i in range(3)))
    assert [p.id for row in read(path, Defaults()) if (p := row.passage)] == ["0", "1", "2"]


def test_a_corpus_folder_names_its_other_files(tmp_path: Path) -> None:
    for name in ("corpus.jsonl", "queries.jsonl"):
        (tmp_path / name).write_text('{"_id": "a", "text": "x"}\n')
    assert [p.name for p, _ in listing(tmp_path).unread] == ["queries.jsonl"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("law_akn.xml", [("Art.-1", "Art. 1 Scope", "1. This Act applies to drones."),
                         ("Art.-2", "Art. 2", "No drone flies above a crowd.")]),
        ("law_uslm.xml", [("§1", "Title 99, Title 99 DOGS, CHAPTER 1 LEASHES, § 1 Short leash",
                           "(a) In general\nDogs are leashed.\n(b) Exceptions:\n(1) puppies;"),
                          ("§2a", "Title 99, Title 99 DOGS, CHAPTER 1 LEASHES, § 2a Cats", "Cats roam.")]),
        ("law_formex.xml", [("0", "Regulation on dogs", "THE COUNCIL,\n(1) Dogs bark."),
                            ("Article-1", "Regulation on dogs, CHAPTER I General, Article 1 Scope",
                             "1. This applies to dogs.\n2. Not to:\n(a) cats;"),
                            ("Article-2", "Regulation on dogs, CHAPTER I General, Article 2",
                             "In force on the 20th day.")]),
        ("law_gii.xml", [("§1", "Hundegesetz, Abschnitt 1 Leinen, § 1 Leinenpflicht",
                          "(1) Hunde sind anzuleinen.\n(2) Ausgenommen sind\n1. Welpen,\n2. Katzen."),
                         ("§1a", "Hundegesetz, Abschnitt 1 Leinen, § 1a", "Text.")]),
        ("law_canada.xml", [("Section-1", "Dog Act, Leashes, Section 1 Short title",
                             "This Act may be cited as the Dog Act."),
                            ("Section-2.1", "Dog Act, Leashes, Section 2.1 Leash",
                             "Rule\n(1) A dog is leashed\n(a) outdoors; and")]),
        ("law_uk.xml", [("Section-1", "Dog Act 2006, Part 1 Leashes, Section 1 Short leash", "(1) A dog is leashed.")]),
    ],
)  # fmt: skip
def test_the_laws_own_xml_is_one_passage_an_article(name: str, expected: list[tuple[str, str, str]]) -> None:
    assert [(p.id.partition(":")[2], p.title, p.text) for p in passages(name)] == expected


def test_legal_xml_has_its_language_region_and_dates() -> None:
    canada, formex, akn = (passages(f"law_{name}.xml")[0] for name in ("canada", "formex", "akn"))
    assert (canada.language, canada.region, canada.in_force_from) == ("en", "Canada", "2006-12-12")
    assert (formex.language, formex.region) == ("en", "EU")
    assert akn.region == "it"


def test_entities_are_not_expanded() -> None:
    assert [p.text for p in passages("entities.xml")] == ["text"]


ACTS = json.loads((DATA.parent / "acts.json").read_text(encoding="utf-8"))  # text by lines, and title by key


@pytest.mark.parametrize("name", ACTS)
def test_acts_of_many_countries(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("\n".join(ACTS[name]["text"]), encoding="utf-8")
    found = [p for row in read(tmp_path / name, Defaults()) if (p := row.passage)]
    assert {p.id.partition(":")[2]: p.title for p in found} == ACTS[name]["titles"]


@pytest.mark.parametrize("name", ["cmn_hans", "deu", "eng", "fra", "spa"])
def test_the_declaration_has_thirty_articles_in_every_language(name: str) -> None:
    path = DATA.parent / "udhr" / f"{name}.txt"
    assert sum(1 for row in read(path, Defaults()) if row.passage) == 31


def test_a_pdf_keeps_each_article_and_drops_running_heads() -> None:
    found = passages("act.pdf")
    assert keys(found) == ["0", *(f"Article-{i}" for i in range(1, 10))]
    assert found[5].title == "REGULATION ON DOGS, Article 5 Heading E"
    assert "Official Journal" not in "".join(p.text for p in found)
    assert found[4].text.endswith("shall wear a collar. The owner is liable for damage.")


def test_numbered_rows_of_two_tables_do_not_collide(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(f"No.,Rule,Effective date\n1,rule of {name},1 May 2024\n")
    found = [p for name in ("a.csv", "b.csv") for row in read(tmp_path / name, Defaults()) if (p := row.passage)]
    assert [(p.id, p.text, p.in_force_from) for p in found] == [
        ("a.csv:1", "rule of a.csv", "2024-05-01"), ("b.csv:1", "rule of b.csv", "2024-05-01"),
    ]  # fmt: skip


def test_a_word_document_keeps_insertions_headings_and_lists(tmp_path: Path) -> None:
    import docx
    from docx.oxml import parse_xml

    w = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    document = docx.Document()
    document.add_heading("Handbook", 0)
    document.add_heading("1 Leave", 1)
    paragraph = document.add_paragraph("Kept ")
    paragraph._p.append(parse_xml(f"<w:ins {w}><w:r><w:t>inserted</w:t></w:r></w:ins>"))
    paragraph._p.append(parse_xml(f"<w:del {w}><w:r><w:delText>deleted</w:delText></w:r></w:del>"))
    document.add_paragraph("Rail", style="List Number")
    document.save(str(tmp_path / "h.docx"))
    found = [p for row in read(tmp_path / "h.docx", Defaults()) if (p := row.passage)]
    assert [(p.id, p.title, p.text) for p in found] == [("h.docx:1", "Handbook, 1 Leave", "Kept inserted\n1. Rail")]


@pytest.mark.parametrize(("name", "library"), [("policy.pdf", "pypdf"), ("statute_zh.docx", "docx"),
                                               ("law.html", "selectolax.lexbor"), ("law_akn.xml", "lxml"),
                                               ("statute_zh_gb18030.txt", "charset_normalizer")])  # fmt: skip
def test_a_missing_library_names_the_extra(
    name: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    command = ["build", str(tmp_path / "i"), "--embedder", "none", "--input", str(DATA / name)]
    assert main(command) == 1
    assert "the extra 'documents': pip install " in capsys.readouterr().err
