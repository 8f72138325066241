"""Word, OpenDocument, PDF, HTML, RTF and reStructuredText: what a reader sees, and nothing that only programs see."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest

from retrieval.passage import Passage
from retrieval.text.formats import read
from retrieval.text.row import Defaults

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def passages(path: Path) -> list[Passage]:
    return [row.passage for row in read(path, Defaults()) if row.passage]


def problems(path: Path) -> list[str]:
    return [row.problem for row in read(path, Defaults()) if row.problem]


def written(path: Path, text: str) -> list[Passage]:
    path.write_text(text, encoding="utf-8")
    return passages(path)


def keys(found: list[Passage]) -> list[str]:
    return [p.id.partition(":")[2] for p in found]


def paragraph(document: Any, xml: str) -> None:
    from docx.oxml import parse_xml

    document.element.body.insert(len(document.element.body) - 1, parse_xml(f"<w:p {W}>{xml}</w:p>"))


def run(text: str, properties: str = "") -> str:
    return f'<w:r><w:rPr>{properties}</w:rPr><w:t xml:space="preserve">{text}</w:t></w:r>'


def in_list(number: int, level: int, text: str) -> str:
    place = f'<w:numPr><w:ilvl w:val="{level}"/><w:numId w:val="{number}"/></w:numPr>'
    return f"<w:pPr>{place}</w:pPr>{run(text)}"


def add_lists(document: Any, levels: str, *numbers: str) -> None:
    """The lists 70, 71, … of one abstract list; each text in `numbers` is what the list overrides."""
    from docx.oxml import parse_xml

    root = document.part.numbering_part.element
    root.insert(0, parse_xml(f'<w:abstractNum {W} w:abstractNumId="70">{levels}</w:abstractNum>'))
    for i, override in enumerate(numbers):
        root.append(parse_xml(f'<w:num {W} w:numId="{70 + i}"><w:abstractNumId w:val="70"/>{override}</w:num>'))


def level(depth: int, form: str, text: str, more: str = "") -> str:
    return (f'<w:lvl w:ilvl="{depth}"><w:start w:val="1"/><w:numFmt w:val="{form}"/>{more}'
            f'<w:lvlText w:val="{text}"/></w:lvl>')  # fmt: skip


def patched(source: Path, target: Path, added: dict[str, str], changed: dict[str, tuple[str, str]]) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            before, after = changed.get(name, ("", ""))
            new.writestr(name, old.read(name).replace(before.encode(), after.encode()) if before else old.read(name))
        for name, text in added.items():
            new.writestr(name, text)


def test_a_word_list_may_begin_anew(tmp_path: Path) -> None:
    import docx

    document = docx.Document()
    restart = '<w:lvlOverride w:ilvl="0"><w:startOverride w:val="{}"/></w:lvlOverride>'
    add_lists(document, level(0, "decimal", "%1.") + level(1, "lowerLetter", "(%2)"), "", restart.format(1),
              restart.format(7))  # fmt: skip
    for number, depth, text in ((70, 0, "ask"), (70, 1, "by mail"), (70, 0, "wait"), (71, 0, "pay"), (72, 0, "rest"),
                                (72, 0, "go")):  # fmt: skip
        paragraph(document, in_list(number, depth, text))
    document.save(str(tmp_path / "a.docx"))
    (found,) = passages(tmp_path / "a.docx")
    assert found.text.split("\n") == ["1. ask", "(a) by mail", "2. wait", "1. pay", "7. rest", "8. go"]


def test_legal_numbering_shows_digits_of_roman_chapters(tmp_path: Path) -> None:
    import docx

    document = docx.Document()
    add_lists(document, level(0, "upperRoman", "Article %1.") + level(1, "decimal", "Section %1.%2", "<w:isLgl/>"), "")
    for depth, text in ((0, "Name"), (1, "The name is Dog Club."), (0, "Members"), (1, "Anyone may join.")):
        paragraph(document, in_list(70, depth, text))
    document.save(str(tmp_path / "a.docx"))
    assert keys(passages(tmp_path / "a.docx")) == ["Section-1.1", "Section-2.1"]


def test_numbers_in_a_table_are_read(tmp_path: Path) -> None:
    import docx
    from docx.oxml import parse_xml

    document = docx.Document()
    add_lists(document, level(0, "decimal", "%1."), "")
    table = document.add_table(2, 2)
    for row, text in zip(table.rows, ("Be kind", "Be fair"), strict=True):
        row.cells[0].paragraphs[0]._p.append(parse_xml(f"<w:pPr {W}><w:numPr><w:numId w:val='70'/></w:numPr></w:pPr>"))
        row.cells[0].paragraphs[0].add_run("No")
        row.cells[1].text = text
    document.save(str(tmp_path / "a.docx"))
    assert passages(tmp_path / "a.docx")[0].text == "| 1. No | Be kind |\n|---|---|\n| 2. No | Be fair |"


def test_notes_stand_where_they_belong_and_contents_and_hidden_text_nowhere(tmp_path: Path) -> None:
    import docx

    document = docx.Document()
    document.styles.add_style("toc 1", 1)
    document.add_paragraph("Dog Act")
    for line in ("Article 1 Scope\t1", "Article 2 Fees\t2"):
        document.add_paragraph(line).style = document.styles["toc 1"]
    paragraph(document, run("Article 1 Scope"))
    paragraph(document, run("Dogs") + '<w:r><w:footnoteReference w:id="2"/></w:r>' + run(" are leashed.")
              + run(" secret", "<w:vanish/>"))  # fmt: skip
    paragraph(document, run("Article 2 Fees"))
    paragraph(document, run("See Art. 22") + run("1", '<w:vertAlign w:val="superscript"/>') + run("."))
    document.save(str(tmp_path / "plain.docx"))
    notes = f'<w:footnotes {W}><w:footnote w:id="2"><w:p>{run("Not cats.")}</w:p></w:footnote></w:footnotes>'
    base = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    link = f'<Relationship Id="rIdF" Type="{base}/footnotes" Target="footnotes.xml"/></Relationships>'
    kind = "application/vnd.openxmlformats-officedocument.wordprocessingml.footnotes+xml"
    types = f'<Override PartName="/word/footnotes.xml" ContentType="{kind}"/></Types>'
    patched(tmp_path / "plain.docx", tmp_path / "a.docx", {"word/footnotes.xml": notes},
            {"word/_rels/document.xml.rels": ("</Relationships>", link), "[Content_Types].xml": ("</Types>", types)},
            )  # fmt: skip
    assert [(p.title, p.text) for p in passages(tmp_path / "a.docx")] == [
        ("Dog Act", "Dog Act"), ("Dog Act, Article 1 Scope", "Dogs[1] are leashed.\n[1] Not cats."),
        ("Dog Act, Article 2 Fees", "See Art. 22¹."),
    ]  # fmt: skip


def test_a_document_with_macros_is_read(tmp_path: Path) -> None:
    import docx

    document = docx.Document()
    document.add_paragraph("Dogs are leashed.")
    document.save(str(tmp_path / "plain.docx"))
    main = ("openxmlformats-officedocument.wordprocessingml.document.main", "ms-word.document.macroEnabled.main")
    patched(tmp_path / "plain.docx", tmp_path / "a.docm", {}, {"[Content_Types].xml": main})
    assert [p.text for p in passages(tmp_path / "a.docm")] == ["Dogs are leashed."]


def test_sections_of_a_word_document_need_no_blank_lines(tmp_path: Path) -> None:
    import docx

    document = docx.Document()
    for text in (
        "Travel policy",
        "1. Purpose",
        "It governs travel.",
        "2. Scope",
        "All of us.",
        "2.1 Exceptions",
        "None.",
    ):
        document.add_paragraph(text)
    document.save(str(tmp_path / "a.docx"))
    assert keys(passages(tmp_path / "a.docx")) == ["0", "1", "2", "2.1"]


ODT = (
    '<office:document-content xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0"'
    ' xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0"'
    ' xmlns:style="urn:oasis:names:tc:opendocument:xmlns:style:1.0"'
    ' xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0"'
    ' xmlns:draw="urn:oasis:names:tc:opendocument:xmlns:drawing:1.0"><office:automatic-styles>'
    '<style:style style:name="Up"><style:text-properties style:text-position="super 58%"/></style:style>'
    "</office:automatic-styles><office:body><office:text>{}</office:text></office:body></office:document-content>"
)
META = (
    '<office:document-meta xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0"'
    ' xmlns:meta="urn:oasis:names:tc:opendocument:xmlns:meta:1.0"><office:meta>'
    '<meta:user-defined meta:name="Effective">03/04/2025</meta:user-defined>'
    '<meta:user-defined meta:name="Jurisdiction">EU</meta:user-defined></office:meta></office:document-meta>'
)


def test_an_opendocument_has_notes_boxes_raised_numbers_and_tables_in_tables(tmp_path: Path) -> None:
    note = ("<text:note><text:note-citation>1</text:note-citation><text:note-body><text:p>Not cats.</text:p>"
            "</text:note-body></text:note>")  # fmt: skip
    box = "<draw:frame><draw:text-box><text:p>In a box.</text:p></draw:text-box></draw:frame>"
    cell = "<table:table-cell>{}</table:table-cell>"
    row = "<table:table><table:table-row>{}</table:table-row></table:table>"
    inner = row.format(cell.format("<text:p>C</text:p>"))
    cells = cell.format("<text:p>A</text:p>") + cell.format(f"<text:p>B</text:p>{inner}")
    text = (f'<text:p>Dogs{note} under Art. 22<text:span text:style-name="Up">1</text:span>.{box}</text:p>'
            f"{row.format(cells)}")  # fmt: skip
    with zipfile.ZipFile(tmp_path / "a.odt", "w") as archive:
        archive.writestr("content.xml", ODT.format(text))
        archive.writestr("meta.xml", META)
    (found,) = passages(tmp_path / "a.odt")
    assert found.text.split("\n") == ["Dogs[1] under Art. 22¹.", "[1] Not cats.", "In a box.", "| A | B C |"]
    assert found.region == "EU"
    assert problems(tmp_path / "a.odt") == ["properties: in_force_from is not a date like 2026-01-31: '03/04/2025'"]


def pdf(path: Path, pages: list[list[str]]) -> None:
    """Lines from the top of each page; "" leaves one out."""
    objects = [b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>"]
    for lines in pages:
        body = "".join(f"1 0 0 1 70 {800 - 14 * i} Tm ({line}) Tj\n" for i, line in enumerate(lines) if line)
        data = f"BT /F1 11 Tf\n{body}ET".encode("cp1252")
        objects.append(b"<</Length %d>>stream\n%b\nendstream" % (len(data), data))
    count, parent = len(pages), 2 * len(pages) + 2
    page = b"<</Type/Page/Parent %d 0 R/MediaBox[0 0 595 842]/Contents %d 0 R/Resources<</Font<</F1 1 0 R>>>>>>"
    objects += [page % (parent, i + 2) for i in range(count)]
    kids = b" ".join(b"%d 0 R" % (count + 2 + i) for i in range(count))
    objects += [b"<</Type/Pages/Count %d/Kids[%b]>>" % (count, kids), b"<</Type/Catalog/Pages %d 0 R>>" % parent]
    out, places = io.BytesIO(), []
    out.write(b"%PDF-1.4\n")
    for i, data in enumerate(objects, 1):
        places.append(out.tell())
        out.write(b"%d 0 obj\n%b\nendobj\n" % (i, data))
    start = out.tell()
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
    out.write(b"".join(b"%010d 00000 n \n" % place for place in places))
    out.write(b"trailer<</Size %d/Root %d 0 R>>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, len(objects), start))
    path.write_bytes(out.getvalue())


def test_left_and_right_pages_have_running_heads_of_their_own(tmp_path: Path) -> None:
    rule = "Dogs of this kind are held on a leash in all public places."
    heads = ["Official Journal", "Dog Act"]
    pages = [[heads[i % 2], "", f"Article {i}", f"{'ABCDEFGH'[i - 1]} heading", "", rule] for i in range(1, 9)]
    pdf(tmp_path / "a.pdf", pages)
    found = passages(tmp_path / "a.pdf")
    assert not any(name in p.text for p in found[1:] for name in ("Dog Act", "Official Journal"))
    assert [p.title for p in found if "Article" in p.title][:2] == [
        "Dog Act, Article 1 A heading", "Dog Act, Article 2 B heading",
    ]  # fmt: skip


def test_two_pages_may_have_a_running_head(tmp_path: Path) -> None:
    pdf(tmp_path / "a.pdf", [["ACME Corp", "", "Dog rules", "", "Article 1", "Dogs are leashed.", "", "Page 1 of 2"],
                             ["ACME Corp", "", "Article 2", "Cats roam.", "", "Page 2 of 2"]])  # fmt: skip
    assert [(p.title, p.text) for p in passages(tmp_path / "a.pdf")][1:] == [
        ("Dog rules, Article 1", "Dogs are leashed."), ("Dog rules, Article 2", "Cats roam."),
    ]  # fmt: skip


def test_an_encrypted_pdf_says_so(tmp_path: Path) -> None:
    import pypdf

    pdf(tmp_path / "plain.pdf", [["Dogs are leashed."]])
    for name, user in (("shut.pdf", "secret"), ("open.pdf", "")):
        writer = pypdf.PdfWriter()
        writer.append(str(tmp_path / "plain.pdf"))
        writer.encrypt(user, "owner")
        writer.write(str(tmp_path / name))
    assert problems(tmp_path / "shut.pdf") == ["is encrypted"]
    assert [p.text for p in passages(tmp_path / "open.pdf")] == ["Dogs are leashed."]


def test_a_page_inside_of_a_form_is_read_without_what_is_hidden_or_struck_out(tmp_path: Path) -> None:
    (found,) = written(
        tmp_path / "a.html",
        "<form><h1>Act</h1><label>Search</label><p>For <del>cats</del><ins>dogs</ins><sup>1</sup>.<p hidden>secret</p>"
        '<p style="display: none">secret</p><button>Go</button><table><tr><th>Dog<th>Fee<tr><td>Big<script>x()</script>'
        "<td>5</table></form>",
    )
    assert found.text == "For dogs¹.\n| Dog | Fee |\n|---|---|\n| Big | 5 |"


def test_lists_of_a_page_keep_the_numbers_that_a_browser_shows(tmp_path: Path) -> None:
    (found,) = written(
        tmp_path / "a.html",
        "<h1>Act</h1><ol type=a><li>first<li>second<ol type=i start=3><li>third</ol></ol><ol><li>(1) own</ol>"
        "<ol style='list-style: none'><li>plain</ol><ol reversed><li value=9>nine<li>ten</ol><ul><li>point</ul>",
    )
    assert found.text.split("\n") == [
        "a. first", "b. second", "iii. third", "(1) own", "plain", "9. nine", "10. ten", "- point",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.html", "<p>Art. 22. Praca.<p>Art. 22<sup>1</sup>. Dane.<p>Art. 23. Umowa."),
        ("a.md", "Art. 22. Praca.\n\nArt. 22<sup>1</sup>. Dane.\n\nArt. 23. Umowa."),
        ("a.rst", "Art. 22. Praca.\n\nArt. 22\\ :sup:`1`. Dane.\n\nArt. 23. Umowa."),
        ("a.rtf", r"{\rtf1\ansi Art. 22. Praca.\par Art. 22{\super 1}. Dane.\par Art. 23. Umowa.\par}"),
    ],
)
def test_a_raised_number_makes_another_article(name: str, text: str, tmp_path: Path) -> None:
    assert keys(written(tmp_path / name, text)) == ["Art.-22", "Art.-22¹", "Art.-23"]


def test_ruby_is_left_out(tmp_path: Path) -> None:
    (found,) = written(tmp_path / "a.html", "<p><ruby>犬<rp>(</rp><rt>いぬ</rt><rp>)</rp></ruby>はつなぐ。")
    assert found.text == "犬はつなぐ。"


def test_rich_text_has_letters_of_every_plane_and_nothing_hidden(tmp_path: Path) -> None:
    (found,) = written(tmp_path / "a.rtf", r"{\rtf1\ansi\uc1 Dogs \u-10179?\u-8704? \u167? 5.{\v hidden}\par}")
    assert found.text == "Dogs 😀 § 5."


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (r"{\rtf1\ansi\v hidden\v0 visible {\v also {\b deep} \'e4\u228?}text\par}", "visible text"),
        (r"{\rtf1\ansi {\b\v hid\v0 seen words} and {\v x\plain more}\par}", "seen words and more"),
        (r"{\rtf1\ansi {\v\b hid}{\b bold} {\viewkind4 }last\par}", "bold last"),
    ],
)
def test_hidden_rich_text_ends_where_it_says(text: str, seen: str, tmp_path: Path) -> None:
    (found,) = written(tmp_path / "a.rtf", text)
    assert found.text == seen


def test_a_page_may_count_from_anything(tmp_path: Path) -> None:
    (found,) = written(
        tmp_path / "a.html",
        "<h1>Act</h1><ol start='--1'><li>one</ol><ol type=i start=30000000><li>two</ol>"
        "<ol type=I start=4000><li>three</ol><ol type=a start=99999><li>four</ol><ol><li value=30000000>five</ol>",
    )
    assert found.text.split("\n") == ["1. one", "i. two", "4000. three", "99999. four", "1. five"]


def test_what_a_text_box_holds_stands_once(tmp_path: Path) -> None:
    note = ("<text:note><text:note-citation>1</text:note-citation><text:note-body><text:p>Not cats.</text:p>"
            "</text:note-body></text:note>")  # fmt: skip
    box = "<draw:frame><draw:text-box>{}</draw:text-box></draw:frame>"
    inner = box.format("<text:p>Inner.</text:p>")
    text = f"<text:p>Dogs.<text:span>{box.format(f'<text:p>Outer{note}.{inner}</text:p>')}</text:span></text:p>"
    with zipfile.ZipFile(tmp_path / "a.odt", "w") as archive:
        archive.writestr("content.xml", ODT.format(text))
    (found,) = passages(tmp_path / "a.odt")
    assert found.text.split("\n") == ["Dogs.", "Outer[1].", "[1] Not cats.", "Inner."]


def test_an_empty_paragraph_of_a_list_counts_unless_its_mark_was_deleted(tmp_path: Path) -> None:
    import docx

    document = docx.Document()
    add_lists(
        document,
        '<w:lvl w:ilvl="0"><w:start w:val="1"/><w:numFmt w:val="decimal"/><w:lvlText w:val="%1."/></w:lvl>',
        "",
    )
    place = '<w:numPr><w:ilvl w:val="0"/><w:numId w:val="70"/></w:numPr>'
    paragraph(document, in_list(70, 0, "first"))
    paragraph(document, f"<w:pPr>{place}</w:pPr>")
    for mark in ("del", "moveFrom"):
        paragraph(document, f'<w:pPr>{place}<w:rPr><w:{mark} w:id="1" w:author="a"/></w:rPr></w:pPr>')
    paragraph(document, in_list(70, 0, "third"))
    document.save(str(tmp_path / "a.docx"))
    text = "\n".join(p.text for p in passages(tmp_path / "a.docx"))
    assert [line for line in text.split("\n") if line] == ["1. first", "3. third"]


def test_lists_of_restructuredtext_keep_their_marks(tmp_path: Path) -> None:
    (found,) = written(tmp_path / "a.rst", "One\n===\n\na. first\nb. second\n\n   (i) third\n   (ii) last\n\n- point\n")
    assert [line for line in found.text.split("\n") if line] == [
        "a. first", "b. second", "(i) third", "(ii) last", "- point",
    ]  # fmt: skip
