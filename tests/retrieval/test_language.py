"""An index's languages are those of many of its passages; one passage is judged among them."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieval.passage import Passage
from retrieval.search.index import Index
from retrieval.text import analysis, compound
from retrieval.text.language import among, detect, possible, settle

ENGLISH = [f"The holder of licence {i} shall not be liable for the loss of any dog in the park." for i in range(60)]
STRAY = ["Acacia mearnsii, Lantana camara, Opuntia stricta", "São Tomé e Príncipe", "Be kind."]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("يولد جميع الناس أحرارا متساوين في الكرامة", "ar"), ("มนุษย์ทั้งหลายเกิดมามีอิสระ", "th"),
        ("第一条 公民享有权利。", "zh"),
        ("すべての人間は、生れながらにして自由である。", "ja"), ("모든 인간은 자유롭다", "ko"),
        ("Все люди рождаются свободными", "ru"),
        ("Усі люди народжуються вільними і рівними", "uk"), ("The rights of man and of the citizen", "en"),
        ("Les droits de l'homme et du citoyen", "fr"), ("xyzzy", ""),
    ],
)  # fmt: skip
def test_languages_are_known_by_script_or_words(text: str, language: str) -> None:
    assert detect(text) == language


def test_stray_guesses_are_no_language_of_an_index(tmp_path: Path) -> None:
    with Index.open(tmp_path / "i", create=True, embedder="none") as index:
        index.add(Passage(f"p{i}", text) for i, text in enumerate([*ENGLISH, *STRAY]))
        index.refresh()
        assert index.backend.languages() == {"en"}
        index.add([Passage("late", "Ser bueno con todos los perros de la ciudad y no dañar a los gatos.")])
        index.refresh()
        assert "en" in index.backend.languages()


def test_short_rules_have_the_language_of_all_of_them(tmp_path: Path) -> None:
    with Index.open(tmp_path / "i", create=True, embedder="none") as index:
        index.add(
            Passage(f"p{i}", text) for i, text in enumerate(["Be kind.", "Wash the dishes.", "Mind the gap of it."])
        )
        index.refresh()
        assert index.backend.languages() == {"en"}
        assert index.search("washing dish", 1)[0].id == "p1"


def test_short_rules_of_several_languages_are_told_apart(tmp_path: Path) -> None:
    rules = {
        "en": ["Smoking is not allowed.", "Refunds are made within 14 days.", "Passwords must have twelve characters."],
        "de": [
            "Rauchen ist hier verboten.",
            "Erstattungen erfolgen innerhalb von 14 Tagen.",
            "Besucher melden sich an.",
        ],
        "tr": [
            "Binada sigara içmek yasaktır.",
            "İadeler on dört gün içinde yapılır.",
            "Parola on iki karakter olmalı.",
        ],
        "pl": ["W budynku nie wolno palić.", "Zwroty następują w ciągu 14 dni.", "Hasło ma dwanaście znaków."],
    }
    with Index.open(tmp_path / "index", create=True, embedder="none") as index:
        index.add([Passage(f"{lang}{i}", text) for lang, texts in rules.items() for i, text in enumerate(texts)])
        index.refresh()
        assert index.backend.languages() == set(rules)
        assert index.search("Wie erfolgt die Erstattung?", 1)[0].id == "de1"  # by its stem


def test_a_label_always_counts() -> None:
    languages, commonest = settle(["en"] * 1000 + ["pt"] * 2, {"fi"})
    assert (languages, commonest) == (frozenset({"en", "fi"}), "en")


def test_a_passage_and_a_query_are_judged_among_the_languages_of_the_index() -> None:
    both = frozenset({"en", "fr"})
    assert among("Le ministre nomme un inspecteur.", both, "en") == "fr"
    assert possible("Quelles sont les obligations du propriétaire d'un chien ?", both) == {"fr"}
    assert possible("???", both) == both


def test_arabic_and_thai_are_searched(tmp_path: Path) -> None:
    with Index.open(tmp_path / "i", create=True, embedder="none") as index:
        index.add([
            Passage("ar1", "يجب على صاحب العمل دفع الأجور"), Passage("ar2", "لكل شخص الحق في التعليم"),
            Passage("th1", "มนุษย์ทั้งหลายเกิดมามีอิสระ"), Passage("th2", "ทุกคนมีสิทธิในการศึกษา"),
        ])  # fmt: skip
        assert index.search("التعليم", 1)[0].id == "ar2"
        assert index.search("การศึกษา", 1)[0].id == "th2"


def test_german_compounds_find_each_other(tmp_path: Path) -> None:
    with Index.open(tmp_path / "i", create=True, embedder="none") as index:
        index.add(Passage(str(i), text, language="de") for i, text in enumerate(
            ["Der Krankenversicherungsschutz endet mit dem Tod.", "Die Hundesteuer wird jährlich erhoben.",
             "Das Fahrzeug ist anzumelden."]))  # fmt: skip
        assert index.search("Krankenversicherung", 1)[0].id == "0"
        assert index.search("Steuer für einen Hund und Hundesteuerbescheid", 1)[0].id == "1"


def test_soft_hyphens_and_marks_do_not_cut_words() -> None:
    assert analysis.terms("Kranken\u00adver\u200bsicherung", "de") == analysis.terms("Krankenversicherung", "de")
    assert len([t for t in analysis.terms("अनुच्छेद", "hi") if not t.startswith("=")]) == 1


@pytest.mark.parametrize(
    ("together", "apart", "query"),
    [
        ("The power of the minister ends. Inspectors appeal.", "The inspector has power. The minister may appeal.",
         "powers of ministers"),
        ("Le droit de la défense est garanti aux enfants.", "Le droit des enfants est garanti par la défense.",
         "droits de la défense"),
        ("Каждый ребёнок имеет право на защиту суда.", "Защита суда каждому даёт право иметь ребёнка.",
         "право на защиту"),
        ("Biznes ma prawo własności do ziemi.", "Prawo ma biznes do ziemi i własności.", "prawo własności"),
    ],
)  # fmt: skip
def test_words_that_follow_one_another_count_more_than_words_apart(
    tmp_path: Path, together: str, apart: str, query: str
) -> None:
    with Index.open(tmp_path / "i", create=True, embedder="none") as index:
        index.add([Passage("apart", apart), Passage("together", together)])
        index.refresh()
        assert [hit.id for hit in index.search(query, 2)] == ["together", "apart"]


def test_a_query_of_too_many_terms_keeps_its_words(tmp_path: Path) -> None:
    with Index.open(tmp_path / "i", create=True, embedder="none") as index:
        index.add([Passage("words", "The inspector may appeal."), Passage("other", "Nobody shall enter the garden.")])
        query = " ".join(f"filler{i}" for i in range(190)) + " appeal to the inspector"
        assert [hit.id for hit in index.search(query, 2)] == ["words"]


GERMAN = [
    *(f"Die Schuld der Partei {i} wird durch Zeugen bewiesen." for i in range(4)),
    *(f"Die Urkunden der Partei {i} werden dem Gericht vorgelegt." for i in range(4)),
]


def test_compounds_are_split_into_words_of_the_index() -> None:
    known = {"schuld": 9, "urkunden": 7, "verteilung": 5, "gerichts": 8, "verordnung": 90, "ordnung": 50, "haus": 1}
    frequency = lambda word: known.get(word, 0)  # noqa: E731
    assert compound.parts("schuldurkunden", frequency) == ["schuld", "urkunden"]
    assert compound.parts("verteilungsgerichts", frequency) == ["verteilung", "gerichts"]
    assert compound.parts("verordnung", frequency) == []  # the whole is more frequent
    assert compound.parts("hausordnung", frequency) == []  # one passage tells no word from a misprint
    assert compound.parts("verteilungsurkundenordnung", frequency) == ["verteilung", "urkunden", "ordnung"]


def test_a_compound_of_a_query_finds_its_parts_apart(tmp_path: Path) -> None:
    with Index.open(tmp_path / "i", create=True, embedder="none") as index:
        index.add(Passage(f"p{i}", text) for i, text in enumerate(GERMAN))
        index.add(
            [
                Passage("right", "Über die Schuld ist eine Urkunde auszustellen."),
                Passage("other", "Das Schulhaus ist zu schließen."),
            ]
        )
        assert index.search("Schuldurkunden", 1, mode="lexical")[0].id == "right"
