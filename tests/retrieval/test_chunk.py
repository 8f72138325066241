import re
import string

from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.passage import Passage
from retrieval.text.structure import chunk, chunk_passage


def count(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]", text))


def squeezed(text: str) -> str:
    return "".join(text.split())


TEXTS = st.text(alphabet=string.ascii_letters + " \n.,;()1第条。，# ", min_size=1, max_size=600)


@settings(max_examples=200, deadline=None)
@given(TEXTS.filter(str.strip), st.integers(1, 40))
def test_chunks_hold_everything_and_never_exceed_the_limit(text: str, limit: int) -> None:
    chunks = chunk(text, count, limit)
    assert squeezed("".join(chunks)) == squeezed(text)
    assert all(count(piece) <= limit for piece in chunks)


@settings(max_examples=100, deadline=None)
@given(TEXTS.filter(str.strip), st.text(string.ascii_letters + " ", max_size=80), st.integers(8, 40))
def test_a_chunked_passage_fits_with_its_title_and_loses_no_word(text: str, title: str, limit: int) -> None:
    chunks = chunk_passage(Passage("id", text, title=title), count, limit)
    assert all(count(c.search_text) <= limit for c in chunks)
    assert squeezed(text) in squeezed("".join(c.text for c in chunks))
    assert squeezed(title) in squeezed(chunks[0].title + "".join(c.text for c in chunks))


def test_a_short_passage_is_left_as_it_is() -> None:
    passage = Passage("a", "short", title="T")
    assert chunk_passage(passage, count, 10) == [passage]


def test_chunks_are_named_after_their_document_and_keep_its_labels() -> None:
    law = Passage("law", "one two three four. five six seven eight.", title="T", region="江苏", tags=("x",))
    chunks = chunk_passage(law, count, 7)
    assert [c.id for c in chunks] == ["law#1", "law#2"]
    assert {(c.parent, c.document, c.title, c.region, c.tags) for c in chunks} == {("law", "law", "T", "江苏", ("x",))}


def test_cuts_fall_on_the_coarsest_joint_that_will_do() -> None:
    law = "Article 1\nA dog. A cat, a cow.\n\nArticle 2\nA park. A court."
    assert chunk(law, count, 12) == ["Article 1\nA dog. A cat, a cow.", "Article 2\nA park. A court."]
    assert chunk("第一条 公民享有权利。第二款。\n第二条 国家尊重人权。", len, 18) == [
        "第一条 公民享有权利。第二款。",
        "第二条 国家尊重人权。",
    ]
    assert chunk("One two three. Four five six. Seven eight nine.", count, 8) == [
        "One two three. Four five six.",
        "Seven eight nine.",
    ]


def test_a_megabyte_without_a_space_is_cut_all_the_same() -> None:
    chunks = chunk("x" * 1_000_000, lambda text: -(-len(text) // 16), 254)
    assert "".join(chunks) == "x" * 1_000_000
    assert max(map(len, chunks)) <= 254 * 16
