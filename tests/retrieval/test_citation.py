"""A query that cites an article finds it first, however the number is written."""

from __future__ import annotations

import pytest

from retrieval.passage import Passage
from retrieval.search.index import Index
from retrieval.text.citation import citations
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
