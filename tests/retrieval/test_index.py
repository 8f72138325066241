"""What an index does, on one machine's store and on Milvus alike."""

import asyncio
import importlib.util
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from retrieval_toys import RULES, Words

from retrieval.backends.local import lexical
from retrieval.passage import Filter, Passage
from retrieval.search.index import Index

LITE = importlib.util.find_spec("milvus_lite") and importlib.util.find_spec("pymilvus")
no_lite = pytest.mark.skipif(not LITE, reason="milvus-lite and pymilvus are not installed")


STORES = ["local", pytest.param("milvus", marks=[no_lite, pytest.mark.filterwarnings("ignore")])]


@pytest.fixture(params=STORES)
def index(request: pytest.FixtureRequest, make: Callable[..., Index], rules: list[Passage]) -> Index:
    made = make("index.db" if request.param == "milvus" else "index")
    made.add(rules)
    return made


@pytest.fixture(params=STORES, scope="module")
def standing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """An index that tests only ask."""
    path = tmp_path_factory.mktemp("standing") / ("index.db" if request.param == "milvus" else "index")
    made = Index.open(path, embedder=Words(), create=True)
    made.add(RULES)
    yield made
    made.close()


@pytest.fixture
def local(make: Callable[..., Index], rules: list[Passage]) -> Index:
    made = make("index")
    made.add(rules)
    return made


def ids(hits: list) -> list[str]:
    return [hit.id for hit in hits]


def test_the_best_passage_comes_first_with_all_that_is_known_of_it(standing: Index) -> None:
    for mode in ("hybrid", "dense", "lexical"):
        best = standing.search("born free and equal in dignity", 3, mode=mode)[0]
        assert (best.id, best.title, best.source, best.language) == ("udhr-1", "UDHR, article 1", "udhr", "en")
        assert best.text.startswith("All human beings")
        assert 0.0 < best.score <= 1.0
        assert (best.dense is None, best.lexical is None) == (mode == "lexical", mode == "dense")
        assert (best.dense_rank or best.lexical_rank) == 1


def test_chinese_is_found_by_its_pairs_of_characters(standing: Index) -> None:
    assert ids(standing.search("没有签书面劳动合同怎么办", 1, mode="lexical")) == ["cn-82"]


def test_a_stem_is_found_by_another_form_of_its_word(standing: Index) -> None:
    assert ids(standing.search("dogs leashed", 1, mode="lexical")) == ["ca-9"]


def test_words_that_are_everywhere_are_asked_for_only_where_there_are_no_others(
    local: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.add(Passage(f"many-{i}", f"the street of number {i}") for i in range(40))
    monkeypatch.setattr(lexical, "TINY", 10)
    few = set(ids(local.search("the cat of the house", 30, mode="lexical")))
    assert len(few) == 30  # in a small index every word is asked for
    monkeypatch.setattr(lexical, "SMALL", 10)
    local.add([Passage("cat", "a cat sleeps")])
    assert ids(local.search("the cat of the house", 30, mode="lexical")) == ["cat"]
    assert len(local.search("of the", 30, mode="lexical")) == 30


@pytest.mark.parametrize("mode", ["hybrid", "dense", "lexical"])
@pytest.mark.parametrize(
    "where",
    [
        Filter(region="江苏"), Filter(region="江苏", strict=True), Filter(language="zh"), Filter(kind="by-law"),
        Filter(tags=("security",)), Filter(on="2021-01-01"), Filter(region="Ontario", on="2005-05-05", kind="by-law"),
        Filter(region="O'Brien \"x\" \\"), Filter(kind="none such"),
    ],
    ids=str,
)  # fmt: skip
def test_a_filter_decides_before_the_search(standing: Index, rules: list[Passage], where: Filter, mode: str) -> None:
    allowed = {rule.id for rule in rules if where.admits(rule)}
    found = ids(standing.search("dog park rights everyone 地图 劳动", 10, where=where, mode=mode))
    assert set(found) <= allowed
    if mode != "lexical":
        assert set(found) == allowed  # k allowed ones come back whenever there are k


def test_what_is_withdrawn_is_gone_at_once_and_may_return(index: Index, rules: list[Passage]) -> None:
    before = index.revision
    revision = index.withdraw(["udhr-1", "unknown"])
    assert revision > before
    assert "udhr-1" not in ids(index.search("born free and equal in dignity", 7))
    assert index.get("udhr-1") is None
    assert index.add([rules[0]]) > revision
    assert ids(index.search("born free and equal in dignity", 1)) == ["udhr-1"]


def test_a_changed_passage_replaces_the_old_one(index: Index, rules: list[Passage]) -> None:
    index.add([replace(rules[0], text="Every ship must fly a flag.")])
    assert index.count() == len(rules)
    assert ids(index.search("ship flag", 1)) == ["udhr-1"]
    assert all("born free" not in hit.text for hit in index.search("born free and equal", 10))


def test_adding_what_is_there_changes_nothing(index: Index, rules: list[Passage]) -> None:
    before = index.revision
    assert index.add(rules) == before
    assert index.withdraw(["unknown"]) == before
    assert index.add([]) == before


def test_a_long_document_is_chunked_and_stays_one_document(index: Index) -> None:
    points = [f"Point {i}: every tenant number {i} must pay the rent in time." for i in range(40)]
    law = Passage("rent", "\n".join(points), title="Rent Act", region="Ontario")
    index.add([law])
    hit = index.search("tenant number 33 must pay", 1)[0]
    assert hit.id.startswith("rent#")
    assert hit.document == "rent"
    assert "number 33 " in hit.text
    chunks = [p for p in index.list(limit=1000) if p.document == "rent"]
    assert "".join("".join(p.text for p in sorted(chunks, key=lambda p: int(p.id.split("#")[1]))).split()) == "".join(
        law.text.split()
    )
    found = index.get("rent")
    assert found is not None
    assert (found.id, found.text.split(), found.region) == ("rent", law.text.split(), "Ontario")
    before = index.revision
    assert index.add([law]) == before
    index.add([replace(law, text="The rent is free.")])
    assert [p.id for p in index.list(limit=1000) if p.document == "rent"] == ["rent"]
    index.withdraw(["rent"])
    assert index.get("rent") is None


def test_a_withdrawn_chunk_comes_back_when_its_document_is_added_again(index: Index) -> None:
    law = Passage("rent", "\n".join(f"Point {i}: every tenant number {i} must pay the rent." for i in range(20)))
    index.add([law])
    count = index.count()
    index.withdraw(["rent#1"])
    assert index.count() == count - 1
    index.add([law])
    assert index.count() == count


@pytest.mark.parametrize("gone", [["rent#1"], ["rent#2"], ["rent#1", "rent#2"]])
def test_chunks_of_a_document_that_lost_some_are_still_found(local: Index, gone: list[str]) -> None:
    text = "\n".join(f"Point {i}: every tenant number {i} must pay the rent of flat {i}." for i in range(20))
    local.add([Passage("rent", text), Passage("dogs", "A dog must be kept on a leash.")])
    chunks = {hit.id for hit in local.search("tenant rent", 10, mode="lexical")}
    assert {"rent#1", "rent#2", "rent#3"} <= chunks
    for key in gone:  # one at a time
        local.withdraw([key])
        local.refresh()
    assert {hit.id for hit in local.search("tenant rent", 10, mode="lexical")} == chunks - set(gone)
    last = max(chunks, key=lambda key: int(key.split("#")[1]))
    assert local.search("tenant number 19 flat 19", 1, mode="lexical")[0].id == last
    local.add([Passage("rent", text)])
    assert {hit.id for hit in local.search("tenant rent", 10, mode="lexical")} == chunks


def test_a_long_document_counts_once_among_the_terms(local: Index, rules: list[Passage]) -> None:
    text = "\n".join(f"Point {i}: every tenant number {i} must pay the rent of flat {i}." for i in range(20))
    local.add([Passage("rent", text), Passage("dogs", "A dog must be kept on a leash.")])
    local.refresh()
    assert local.backend._terms.reader.searcher.num_docs == len(rules) + 2


def test_withdrawn_passages_leave_the_terms(local: Index, rules: list[Passage]) -> None:
    local.add(rules)
    local.refresh()
    local.withdraw(["udhr-1", "udhr-3"])
    local.refresh()
    assert local.backend._terms.reader.searcher.num_docs == len(rules) - 2


def test_passages_are_listed_page_by_page(standing: Index, rules: list[Passage]) -> None:
    found, after = [], ""
    while page := standing.list(after, 3):
        assert len(page) <= 3
        found += page
        after = page[-1].id
    assert found == sorted((replace(r, tags=tuple(sorted(r.tags))) for r in rules), key=lambda r: r.id)
    assert list(standing.documents()) == found


def test_a_floor_leaves_out_what_scores_less(standing: Index) -> None:
    every = standing.search("born free and equal in dignity", 7)
    some = standing.search("born free and equal in dignity", 7, floor=every[1].score)
    assert some == every[:2]
    assert standing.search("born free and equal in dignity", 7, floor=1.01) == []


def test_no_source_takes_more_than_its_share(index: Index, rules: list[Passage]) -> None:
    index.add([replace(rules[3], id="copy", source="other")])
    found = index.search("everyone has rights; dog in a park", 4, most=1)
    sources = [hit.source for hit in found]
    assert len(sources) == len(set(sources)) == 4
    texts = [hit.text for hit in found]
    assert len(set(texts)) == len(texts)


def test_an_unknown_mode_or_size_is_refused(standing: Index) -> None:
    with pytest.raises(ValueError, match="unknown mode 'fast': hybrid, dense, lexical"):
        standing.search("x", 1, mode="fast")
    with pytest.raises(ValueError, match="k must be at least 1"):
        standing.search("x", 0)


@pytest.mark.parametrize("query", ["", " ", "?!", "\0", "\ud800", "nosuchword", "x" * 5000, "狗" * 3000, "a " * 3000])
def test_any_query_gets_an_answer(standing: Index, query: str) -> None:
    for mode in ("hybrid", "dense", "lexical"):
        assert isinstance(standing.search(query, 3, mode=mode), list)


async def test_concurrent_queries_are_embedded_together_and_answered_apart(index: Index, rules: list[Passage]) -> None:
    gate, entered = threading.Event(), threading.Event()
    embed = index.embedder.queries

    def held(texts: list[str]) -> object:
        entered.set()
        gate.wait(10)
        return embed(texts)

    index.embedder.queries = held  # type: ignore[method-assign, union-attr]
    first = asyncio.create_task(index.asearch("the first one occupies the model", 1))
    while not entered.is_set():
        await asyncio.sleep(0.01)
    rest = [asyncio.create_task(index.asearch(rule.text, 1)) for rule in rules]
    await asyncio.sleep(0.1)
    gate.set()
    assert [ids(found) for found in await asyncio.gather(*rest)] == [[rule.id] for rule in rules]
    await first
    assert index.embedder.batches == [1, len(rules)]  # type: ignore[union-attr]


async def test_a_cancelled_search_harms_nobody(index: Index) -> None:
    task = asyncio.create_task(index.asearch("born free", 1))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ids(await index.asearch("born free and equal", 1)) == ["udhr-1"]


async def test_the_same_question_is_answered_from_the_cache_until_something_changes(index: Index) -> None:
    first = await index.asearch("born free and equal", 2)
    assert await index.asearch("born free and equal", 2) == first == index.search("born free and equal", 2)
    assert index.embedder.batches == [1]  # type: ignore[union-attr]
    index.withdraw([first[0].id])
    assert first[0].id not in ids(await index.asearch("born free and equal", 2))


def test_a_failing_embedder_fails_the_search_and_not_the_next(index: Index) -> None:
    embed = index.embedder.queries

    def broken(texts: list[str]) -> object:
        raise RuntimeError("out of memory")

    index.embedder.queries = broken  # type: ignore[method-assign, union-attr]
    with pytest.raises(RuntimeError, match="out of memory"):
        index.search("born free", 1)
    index.embedder.queries = embed  # type: ignore[method-assign, union-attr]
    assert index.search("born free", 1)


def test_another_embedder_is_refused(index: Index, make: Callable[..., Index], request: pytest.FixtureRequest) -> None:
    place = "index.db" if "milvus" in request.node.name else "index"
    index.close()
    with pytest.raises(ValueError, match=r"built with the embedder words/64, not with other/64"):
        make(place, embedder=Words("other"))
    with pytest.raises(ValueError, match="has an embedder"):
        make(place, embedder="none")


def test_an_index_without_an_embedder_searches_terms_only(make: Callable[..., Index], rules: list[Passage]) -> None:
    index = make("terms", embedder="none")
    index.add(rules)
    assert ids(index.search("dog leash", 1)) == ["ca-9"]
    with pytest.raises(ValueError, match="no embedder"):
        index.search("dog", 1, mode="dense")
    with pytest.raises(ValueError, match="built without an embedder"):
        make("terms", embedder=Words())


def test_a_missing_index_is_not_made_by_accident(make: Callable[..., Index]) -> None:
    with pytest.raises(FileNotFoundError, match="trimtab index build"):
        make("nowhere", create=False)


def test_a_read_only_index_refuses_changes(local: Index, make: Callable[..., Index], rules: list[Passage]) -> None:
    reader = make("index", readonly=True)
    assert ids(reader.search("born free and equal", 1)) == ["udhr-1"]
    with pytest.raises(PermissionError):
        reader.add(rules)
    with pytest.raises(PermissionError):
        reader.withdraw(["udhr-1"])


def test_a_reranker_has_the_last_word(local: Index) -> None:
    from retrieval.search.reranker import Reranker

    class Longest:
        def predict(self, pairs: list[tuple[str, str]], **_: object) -> list[float]:
            return [len(text) / 1000 for _, text in pairs]

    local._reranker = Reranker("longest", Longest())
    found = local.search("everyone has the right", 3)
    assert [len(hit.title + hit.text) for hit in found] == sorted((len(h.title + h.text) for h in found), reverse=True)
    assert all(hit.rerank is not None for hit in found)


def test_an_id_that_is_another_documents_chunk_is_refused(local: Index) -> None:
    local.add([Passage("law", "word " * 200)])
    with pytest.raises(ValueError, match="the id 'law#1' is that of another document's passage"):
        local.add([Passage("law#1", "something else")])
    assert local.get("law#1").text.startswith("word")  # type: ignore[union-attr]


def test_more_at_once_than_sqlite_takes_in_one_question(local: Index) -> None:
    local.add(Passage(f"n{i}", f"rule number {i}") for i in range(3000))
    assert len(local.search("rule number", 2500, mode="dense")) == 2500
