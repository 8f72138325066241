"""Acts and policies in many languages, each cut at its own heads and nowhere else."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path

import pytest

from retrieval.passage import Passage
from retrieval.text.citation import query_terms, title_terms
from retrieval.text.formats import read
from retrieval.text.heading import head
from retrieval.text.numbered import counted, deep, item
from retrieval.text.row import Defaults

CASES = json.loads((Path(__file__).parents[1] / "data" / "structure.json").read_text(encoding="utf-8"))


def passages(path: Path, text: str) -> list[Passage]:
    path.write_text(text, encoding="utf-8")
    return [row.passage for row in read(path, Defaults()) if row.passage]


def bare(text: str) -> str:
    """The letters and digits of a text; an Arabic dash counts as a letter."""
    return "".join(c for c in unicodedata.normalize("NFC", text) if c.isalnum() and c != "ـ")


def parts(line: str) -> list[str]:
    """A line's label and the rest: a title from another line may come between them.

    A table of contents says which articles its chapters have; that is no rule and is left out.
    """
    line = re.sub("（第[^（）]+―第[^（）]+）$", "", line)
    found = head(line) or item(line)
    return [found.label, found.rest] if found and bare(found.label + found.rest) == bare(line) else [line]


@pytest.mark.parametrize("name", CASES)
def test_a_text_is_cut_at_its_own_heads(name: str, tmp_path: Path) -> None:
    found = passages(tmp_path / name, "\n".join(CASES[name]["text"]) + "\n")
    assert [p.id.removeprefix(name).removeprefix(":") for p in found] == CASES[name]["keys"]


@pytest.mark.parametrize("name", CASES)
def test_no_line_of_a_text_is_lost(name: str, tmp_path: Path) -> None:
    found = passages(tmp_path / name, "\n".join(CASES[name]["text"]) + "\n")
    kept = bare("".join(f"{p.title}\n{p.text}\n" for p in found))
    assert [line for line in CASES[name]["text"] if not all(bare(part) in kept for part in parts(line))] == []


def test_sections_of_a_policy_have_what_stands_above_them(tmp_path: Path) -> None:
    text = (
        "Policy\n\n1 Access\n\n1.1 Passwords\n\n1.1.1 Passwords are long.\n\n2 Pets\n\nNone.\n\n2A Cats\n\nCats roam.\n"
    )
    assert [(p.title, p.text) for p in passages(tmp_path / "p.txt", text)][1:] == [
        ("Policy, 1 Access, 1.1 Passwords, 1.1.1", "Passwords are long."), ("Policy, 2 Pets", "None."),
        ("Policy, 2A Cats", "Cats roam."),
    ]  # fmt: skip


def test_what_was_repealed_at_one_go_is_no_text_of_the_section_before(tmp_path: Path) -> None:
    found = passages(tmp_path / "a.txt", "\n".join(CASES["repeal_range.txt"]["text"]))
    assert [p.text for p in found][1:3] == ["Hunde sind anzuleinen.", "(weggefallen)"]


def test_a_raised_number_counts_below_its_own() -> None:
    found = head("Art. 22¹. § 1. Pracodawca żąda danych.")
    assert found is not None
    assert (found.label, found.number) == ("Art. 22¹", (22, 1))


@pytest.mark.parametrize("line", ["IV. Gifts", "B. Leave", "C) Pay"])
def test_sections_may_be_counted_by_letters(line: str) -> None:
    assert counted(line) is not None


@pytest.mark.parametrize("line", ["A. we go.", "I. went home", "B. Leave is granted.", "Mr. Smith"])
def test_sentences_are_not_counted_by_letters(line: str) -> None:
    assert counted(line) is None


@pytest.mark.parametrize("line", ["1.5 million euros", "1.1", "3.4 % of all"])
def test_numbers_in_a_sentence_are_no_sections(line: str) -> None:
    assert deep(line) is None


def test_a_raised_number_is_cited_apart() -> None:
    words = str.split
    assert set(title_terms("Kodeks pracy, Art. 22¹", words)).isdisjoint(title_terms("Kodeks pracy, Art. 221", words))
    assert set(query_terms("art. 22¹ Kodeks pracy", words)) & set(title_terms("Kodeks pracy, Art. 22¹", words))


@pytest.mark.parametrize(
    ("name", "titles"),
    [
        ("tr2.txt", ["MADDE 1 Amaç", "MADDE 2 Kapsam", "MADDE 3 Tasma"]),
        ("sv2.txt", ["1 § Lagens syfte", "2 § Definitioner", "1 § Krav", "2 § Undantag"]),
        ("uk_si.txt", ["1 Citation and commencement", "2 Interpretation", "3 Leash"]),
    ],
)
def test_a_title_on_the_line_above_is_the_articles_own(name: str, titles: list[str], tmp_path: Path) -> None:
    found = passages(tmp_path / name, "\n".join(CASES[name]["text"]) + "\n")[1:]
    assert [p.title.rpartition(", ")[2] for p in found] == titles
    assert not any(title.split()[-1] in p.text.split("\n")[-1] for p, title in zip(found, titles[1:], strict=False))


@pytest.mark.parametrize("label", ["§ 312{}", "§ 5{}", "Article 9{}", "Section 20{}", "5 {} §"])
@pytest.mark.parametrize("between", [" Title", ""])
def test_articles_with_letters_are_cut_each(label: str, between: str, tmp_path: Path) -> None:
    base = label.format("").replace("5  §", "5 §")
    heads = [base, *(label.format(letter) for letter in "abcdefghijklmnopqrstuvwxyz")]
    text = "".join(f"{it}{between}\nDogs roam here.\n" for it in heads)
    found = passages(tmp_path / "a.txt", f"Dog Act\n\n{text}")
    assert [p.title.partition(", ")[2].removesuffix(" Title") for p in found if "Dogs" in p.text] == heads


UNCLOSED = ['He said “x."', "He said “x."]
OWN = ["It is balanced “so” here.", "“So” is balanced."]


@pytest.mark.parametrize("opened", UNCLOSED)
@pytest.mark.parametrize("own", OWN)
def test_a_quotation_of_a_lines_own_closes_no_other(opened: str, own: str, tmp_path: Path) -> None:
    text = (
        f"Acts\n\nArticle 1\n{opened}\n\nArticle 2\nDogs roam.\n\nArticle 3\n{own}\n\n"
        "Annex\n\nArticle 1\nBirds.\n\nArticle 2\nFish.\n"
    )
    found = passages(tmp_path / "a.txt", text)
    assert [p.text for p in found][1:] == [opened, "Dogs roam.", own, "Birds.", "Fish."]


@pytest.mark.parametrize("last", ["“(b) Cats are free.”", "“(b) Cats are free.”; and", "(b) The “free” cats.”"])
def test_a_quotation_whose_paragraphs_each_begin_with_the_mark_ends_with_its_last(last: str, tmp_path: Path) -> None:
    text = (
        "Dog Act\n\nSection 1. Cats\nInsert the following:\n“Section 2. Cats\n“(a) Cats roam.\nSection 3. Birds\n"
        f"{last}\n\n"
        "Section 2. Dogs\nDogs bark.\n\nSection 3. Fish\nFish “swim” far.\n"
    )
    found = passages(tmp_path / "a.txt", text)
    assert [p.text for p in found][2:] == ["Dogs bark.", "Fish “swim” far."]


def test_the_first_article_of_an_annex_may_have_any_number(tmp_path: Path) -> None:
    text = "Act\n\nArticle 1\nDogs.\n\nArticle 2\nBirds.\n\nAnnex\nArticle 2 The cat roams.\n"
    assert [p.text for p in passages(tmp_path / "a.txt", text)][1:] == ["Dogs.", "Birds.", "The cat roams."]


def test_excerpts_of_two_acts_keep_articles_of_one_number(tmp_path: Path) -> None:
    text = "Excerpts\n\nArticle 5\nDogs.\n\nArticle 7\nCats.\n\nArticle 6\nBirds.\n\nArticle 7\nFish.\n"
    found = passages(tmp_path / "a.txt", text)
    assert [p.text for p in found][1:] == ["Dogs.", "Cats.", "Birds.", "Fish."]
