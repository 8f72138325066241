"""A query that cites an article finds it first, however the number is written."""

from __future__ import annotations

import pytest

from retrieval.passage import Passage
from retrieval.search.index import Index
from retrieval.text.citation import citations, elsewhere, query_terms
from retrieval.text.numeral import value

ACTS = [
    Passage(f"{act}{n}", f"{text} {n}", title=title.format(n=n, han=han), language=language)
    for act, title, text, language in (
        ("xing", "中华人民共和国刑法 第{han}条", "犯罪的，处三年以下有期徒刑。", "zh"),
        ("xiu", "中华人民共和国刑法修正案（九） 第{han}条", "修改刑法的规定。", "zh"),
        ("gdpr", "GDPR, Chapter II Principles, Article {n} Title", "Personal data shall be processed.", "en"),
        ("bgb", "BGB § {n}", "Der Käufer zahlt den Kaufpreis.", "de"),
        ("stgb", "StGB § {n}", "Wer stiehlt, wird bestraft.", "de"),
        ("dogs", "Dangerous Dogs Act, s. {n}", "No person shall keep a dog.", "en"),
        ("loi", "Loi sur les chiens, art. {n}", "Les chiens sont tenus en laisse.", "fr"),
    )
    for n, han in ((4, "四"), (6, "六"), (12, "十二"), (133, "一百三十三"))
]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    made = Index.open(tmp_path_factory.mktemp("acts") / "i", create=True, embedder="none")
    made.add(
        [*ACTS, Passage("xing133.1", "在道路上追逐竞驶的，处拘役。", title="中华人民共和国刑法 第一百三十三条之一")]
    )
    return made


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("刑法第十二条", "xing12"), ("刑法第12条", "xing12"), ("刑法十二条", "xing12"),
        ("刑法12条是怎么规定的？", "xing12"),
        ("《中华人民共和国刑法》第十二条", "xing12"), ("刑法第一百三十三条之一", "xing133.1"),
        ("刑法第133条之一", "xing133.1"),
        ("刑法第一百三十三条第二款", "xing133"), ("Art. 6 GDPR", "gdpr6"), ("article 6 of the GDPR", "gdpr6"),
        ("§ 133 BGB", "bgb133"), ("§133 Abs. 1 StGB", "stgb133"), ("s. 4(2) Dangerous Dogs Act", "dogs4"),
        ("What does section 12 of the Dangerous Dogs Act say?", "dogs12"),
        ("article 12 de la Loi sur les chiens", "loi12"), ("Que dit l’article 12 de la Loi sur les chiens ?", "loi12"),
    ],
)  # fmt: skip
def test_a_cited_article_comes_first(index: Index, query: str, expected: str) -> None:
    assert index.search(query, 1)[0].id == expected


TITLES = (
    "BGB § 12", "BGB § 433", "BGB § 434", "BGB § 435", "BGB § 823", "StGB § 12", "StGB § 823", "DS-GVO, Art. 6",
    "Code du travail, art. L1221-1", "Code du travail, art. R1221-1", "Code du travail, art. L1221-2",
    "Code civil, art. 1240", "Employment Act, s. 2", "Employment Act, s. 4", "Employment Act, s. 4A",
    "Employment Act, s. 14", "Employment Act, s. 21", "Excise Act, 2001, s. 4", "Constitution, Article XII",
    "GDPR, Article 5", "GDPR, Article 6", "GDPR, Article 7", "Código Penal, artículo 138", "民法 第一百八十四條",
    "民法 第十二條", "民法典 第十二条", "刑法 第十二条", "刑法 第一百三十三条", "संविधान, अनुच्छेद 21",
    "ประมวลกฎหมายอาญา มาตรา 288", "Arbetsmiljölag, 2 §", "Arbetsmiljölag, 4 §", "Türk Ceza Kanunu, madde 81",
    "Αστικός Κώδικας, άρθρο 914",
)  # fmt: skip


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> Index:
    made = Index.open(tmp_path_factory.mktemp("codes") / "i", create=True, embedder="none")
    made.add([Passage(f"p{i}", f"Text {i * 1000}.", title=title) for i, title in enumerate(TITLES)])
    return made


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("§§ 433 ff. BGB", ["BGB § 433"]), ("§ 434 f. BGB", ["BGB § 434"]), ("§ 823 I BGB", ["BGB § 823"]),
        ("§§ 433-435 BGB", ["BGB § 433", "BGB § 434", "BGB § 435"]), ("§§ 434 bis 435 BGB", ["BGB § 434", "BGB § 435"]),
        ("§§ 434, 435 BGB", ["BGB § 434", "BGB § 435"]), ("§ 12 StGB und § 823 BGB", ["StGB § 12", "BGB § 823"]),
        ("Wie verhält sich § 12 BGB zu § 823 StGB?", ["BGB § 12", "StGB § 823"]),
        ("Art 6 (1) f DS-GVO", ["DS-GVO, Art. 6"]), ("Articles 5 to 7 GDPR", [f"GDPR, Article {n}" for n in (5, 6, 7)]),
        ("Arts. 5 and 7 GDPR", ["GDPR, Article 5", "GDPR, Article 7"]),
        ("Section four, subsection 2 of the Employment Act", ["Employment Act, s. 4"]),
        ("section twenty-one of the Employment Act", ["Employment Act, s. 21"]),
        ("Employment Act s4", ["Employment Act, s. 4"]), ("sec 4A Employment Act", ["Employment Act, s. 4A"]),
        ("sections 2, 4 and 14 of the Employment Act", [f"Employment Act, s. {n}" for n in (2, 4, 14)]),
        ("Article 12 of the Constitution", ["Constitution, Article XII"]),
        ("art. L. 1221-1 C. trav.", ["Code du travail, art. L1221-1"]),
        ("article R. 1221-1 du Code du travail", ["Code du travail, art. R1221-1"]),
        ("articles L1221-1 et L1221-2 du Code du travail", [f"Code du travail, art. L1221-{n}" for n in (1, 2)]),
        ("art. 1240 C. civ.", ["Code civil, art. 1240"]), ("Art. 138.2 Código Penal", ["Código Penal, artículo 138"]),
        ("民法第184條第1項前段", ["民法 第一百八十四條"]), ("民法第十二條", ["民法 第十二條"]),
        ("《民法典》第十二条和《刑法》第一百三十三条", ["民法典 第十二条", "刑法 第一百三十三条"]),
        ("संविधान का अनुच्छेद 21", ["संविधान, अनुच्छेद 21"]),
        ("ประมวลกฎหมายอาญา ม.288", ["ประมวลกฎหมายอาญา มาตรา 288"]),
        ("2 § arbetsmiljölagen", ["Arbetsmiljölag, 2 §"]),
        ("Türk Ceza Kanunu 81. madde", ["Türk Ceza Kanunu, madde 81"]),
        ("άρθρο 914 Αστικός Κώδικας", ["Αστικός Κώδικας, άρθρο 914"]),
    ],
)  # fmt: skip
def test_articles_are_found_as_people_cite_them(codes: Index, query: str, expected: list[str]) -> None:
    found = [hit.title for hit in codes.search(query, len(expected))]
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize(
    "query",
    [
        "§ 999 BGB", "Was steht in § 999 BGB?", "§ 434a BGB", "section 77 of the Employment Act",
        "What does section 77 of the Employment Act say?", "Employment Act s. 4B", "Art. 99 GDPR", "刑法第九百九十九条",
        "Code du travail, art. L9999-9",
    ],
)  # fmt: skip
def test_no_other_article_comes_in_the_place_of_one_that_is_not_there(codes: Index, query: str) -> None:
    assert codes.search(query, 4) == []


def test_a_question_about_something_is_answered_though_its_article_is_not_there(codes: Index) -> None:
    assert codes.search("What does § 999 BGB say about text 4000?", 1)[0].title == "BGB § 823"


LETTERS = "abcdefghijklm"


@pytest.fixture(scope="module")
def lettered(tmp_path_factory: pytest.TempPathFactory) -> Index:
    made = Index.open(tmp_path_factory.mktemp("letters") / "i", create=True, embedder="none")
    made.add([Passage(f"312{x}", f"Text {x * 4}.", title=f"BGB § 312{x}") for x in LETTERS])
    return made


@pytest.mark.parametrize("letter", LETTERS)
def test_a_letter_behind_a_number_is_no_roman_one(lettered: Index, letter: str) -> None:
    assert [c.number for c in citations(f"§ 312{letter} BGB")] == [f"312.{ord(letter) - 96}"]
    assert lettered.search(f"§ 312{letter} BGB", 1)[0].id == f"312{letter}"
    others = [x for x in LETTERS if x != letter]
    for one in others[:3]:
        found = lettered.search(f"§§ 312{one}, 312{letter} BGB", 2)
        assert {hit.id for hit in found} == {f"312{one}", f"312{letter}"}


@pytest.mark.parametrize("query", ["§§ 312b bis 312e BGB", "§§ 312b-312e BGB", "BGB第312条之二至第312条之五"])
def test_a_range_goes_over_the_letters_between(query: str) -> None:
    assert {c.number for c in citations(query)} == {"312.2", "312.3", "312.4", "312.5"}


GUIDES = [
    Passage("g7", "It binds.", title="GDPR, Article 7"), Passage("g8", "It holds.", title="GDPR, Article 8"),
    Passage("guide", "Consent under Art. 6 GDPR is free.", title="Guidelines on consent and the GDPR"),
    Passage("note", "Art. 6 GDPR asks for a basis.", title="Opinion, Article 3"),
    Passage("menu", "Soup is served.", title="Canteen"), Passage("leave", "Thirty days.", title="Handbook › 4 Leave"),
    Passage("pay", "Monthly.", title="Handbook › Section 5"), Passage("shop", "Open.", title="Handbooks › Section 9"),
]  # fmt: skip


@pytest.fixture(scope="module")
def guides(tmp_path_factory: pytest.TempPathFactory) -> Index:
    made = Index.open(tmp_path_factory.mktemp("guides") / "i", create=True, embedder="none")
    made.add(GUIDES)
    return made


@pytest.mark.parametrize("k", [1, 2, 8])
def test_what_cites_an_article_that_is_not_there_is_found(guides: Index, k: int) -> None:
    found = {hit.id for hit in guides.search("Art. 6 GDPR", k)}
    assert found
    assert found <= {"guide", "note"}
    assert k < 8 or found == {"guide", "note"}


def test_a_section_counted_without_a_word_is_there(guides: Index) -> None:
    assert "leave" in {hit.id for hit in guides.search("Section 4 of the Handbook", 8)}


def test_an_act_of_a_longer_name_is_another(guides: Index) -> None:
    assert not elsewhere("Section 9 of the Handbook", ["Handbooks › Section 6"])
    assert elsewhere("Section 9 of the Handbook", ["Handbook › Section 5"])
    assert not elsewhere("Section 4 of the Handbook", ["Handbook › Section 5", "Handbook › 4 Leave"])


@pytest.mark.parametrize("ending", ["的", "规定的", "什么", ",", " "])
def test_the_words_of_a_question_are_taken_off_in_turn(ending: str) -> None:
    asked = [f"刑法第12条{ending * 20_000}{last}" for last in ("", "x")]
    assert all([c.number for c in citations(text)] == ["12"] for text in asked)
    assert "@=刑法:12" in query_terms(asked[0], str.split)
    assert elsewhere(asked[0], ["刑法 第九条"])
    assert not elsewhere(asked[1], ["刑法 第九条"])


def test_a_query_without_a_citation_has_no_such_terms() -> None:
    assert not list(citations("What happens to personal data of 12 dogs?"))


def test_an_elided_article_belongs_to_the_citation() -> None:
    assert [c.name.split() for c in citations("Que dit l'article 4 de la Loi sur les chiens ?")] == [
        ["Que", "dit", "de", "la", "Loi", "sur", "les", "chiens", "?"]
    ]


@pytest.mark.parametrize(
    ("text", "number"),
    [("一百三十三", 133), ("一三三", 133), ("１２", 12), ("XIV", 14), ("premier", 1), ("二十", 20), ("civil", None)],
)
def test_numbers_are_known_by_value(text: str, number: int | None) -> None:
    assert value(text) == number
