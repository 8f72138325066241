"""FAISS and tantivy files are caches: whatever happens to them, the record decides."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from retrieval_toys import Words

from retrieval.backends.local import dense
from retrieval.passage import Filter, Passage
from retrieval.search.index import Index

QUERIES = ["born free and equal", "dog in a park", "劳动合同", "rule number 17"]


def many(count: int) -> list[Passage]:
    regions = ["", "north", "south", "east"]
    return [Passage(f"r{i:04}", f"rule number {i} about topic {i % 37}", region=regions[i % 4]) for i in range(count)]


def results(index: Index) -> list[list[tuple[str, float]]]:
    searches = [(query, mode) for query in QUERIES for mode in ("hybrid", "dense", "lexical")]
    found = [index.search(query, 10, mode=mode, exact=True) for query, mode in searches]
    return [[(hit.id, round(hit.score, 3)) for hit in hits] for hits in found]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def _nothing(folder: Path) -> None:
    pass


def _delete_all(folder: Path) -> None:
    for path in folder.iterdir():
        if not path.name.startswith("record.db"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _flip_vectors(folder: Path) -> None:
    flip(next(folder.glob("dense-*.faiss")))


def _flip_numbers(folder: Path) -> None:
    flip(next(folder.glob("dense-*.npy")))


def _cut_vectors(folder: Path) -> None:
    path = next(folder.glob("dense-*.faiss"))
    path.write_bytes(path.read_bytes()[:100])


def _flip_terms(folder: Path) -> None:
    for path in folder.glob("lexical-*/*.term"):
        flip(path)


def _lose_terms(folder: Path) -> None:
    next(folder.glob("lexical-*/*.idx")).unlink()


def _nonsense_notes(folder: Path) -> None:
    (folder / "dense.json").write_text('{"identity": 3}')
    (folder / "lexical.json").write_bytes(b"\xff[")


@pytest.mark.parametrize(
    "harm",
    [_nothing, _delete_all, _flip_vectors, _flip_numbers, _cut_vectors, _flip_terms, _lose_terms, _nonsense_notes],
)
def test_a_harmed_cache_is_built_again(make: Callable[..., Index], tmp_path: Path, rules: list[Passage], harm) -> None:
    index = make()
    index.add(rules + many(100))
    before = results(index)
    assert index.backend.compact(always=True)
    assert results(index) == before
    index.close()
    harm(tmp_path / "index")
    assert results(make()) == before


def test_a_stale_snapshot_takes_in_what_came_and_went_since(make: Callable[..., Index], rules: list[Passage]) -> None:
    index = make()
    index.add(rules + many(100))
    index.backend.compact(always=True)
    index.withdraw(["udhr-1", "r0017"])
    index.add([replace(rules[3], text="A cat may sleep."), Passage("new", "born free and equal, again")])
    index.close()
    fresh = make("fresh")
    fresh.add([*rules[1:3], replace(rules[3], text="A cat may sleep."), *rules[4:]])
    fresh.add([r for r in many(100) if r.id != "r0017"] + [Passage("new", "born free and equal, again")])
    again = make()
    for query in QUERIES:
        found, expected = (i.search(query, 10, mode="dense", exact=True) for i in (again, fresh))
        assert {hit.id for hit in found} == {hit.id for hit in expected}
    assert again.backend.compact(always=True)
    assert {hit.id for hit in again.search("born free and equal", 3)} >= {"new"}


def test_another_indexs_caches_are_not_believed(
    make: Callable[..., Index], tmp_path: Path, rules: list[Passage]
) -> None:
    one, other = make("one"), make("other")
    one.add(rules)
    other.add(many(50))
    other.backend.compact(always=True)
    other.refresh()
    one.close()
    other.close()
    _delete_all(tmp_path / "one")
    for path in (tmp_path / "other").iterdir():
        if not path.name.startswith("record.db"):
            (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / "one" / path.name)
    assert make("one").search("born free and equal", 1)[0].id == "udhr-1"


def test_nothing_in_an_index_is_pickled(make: Callable[..., Index], tmp_path: Path, rules: list[Passage]) -> None:
    index = make()
    index.add(rules)
    index.backend.compact(always=True)
    index.search("dog", 1)
    kinds = {path.suffix for path in (tmp_path / "index").iterdir()}
    assert kinds <= {".db", ".db-wal", ".db-shm", ".json", ".lock", ".faiss", ".npy", ""}
    np.load(next((tmp_path / "index").glob("*.npy")), allow_pickle=False)


def test_an_approximate_base_gives_k_allowed_results(
    make: Callable[..., Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense, "ANN_FROM", 500)
    monkeypatch.setattr(dense, "EXACT_UPTO", 100)
    monkeypatch.setattr(dense, "SCANNED", 0)
    index = make()
    index.add(many(2000))
    index.backend.compact(always=True)
    assert hasattr(index.backend._state.dense.base, "hnsw")
    index.withdraw(["r0003", "r0007"])
    index.add([Passage("late", "rule number 17 about topic 17", region="north")])
    for where in (Filter(), Filter(region="north"), Filter(region="north", strict=True)):
        near = [hit.id for hit in index.search("rule number 17 about topic 17", 50, where=where, mode="dense")]
        true = [
            hit.id for hit in index.search("rule number 17 about topic 17", 50, where=where, mode="dense", exact=True)
        ]
        assert len(near) == 50
        assert len(set(near) & set(true)) >= 45
        assert "late" in near
        assert not {"r0003", "r0007"} & set(near)


def test_a_base_grows_and_is_built_anew_when_much_of_it_is_dead(make: Callable[..., Index]) -> None:
    index, reader = make(), make()
    index.add(many(100))
    index.backend.compact(always=True)
    index.add([Passage("x", "something else entirely")])
    index.backend.compact(always=True)
    assert len(index.backend._state.dense.base_n) == 101
    index.withdraw([f"r{i:04}" for i in range(60)])
    index.backend.compact(always=True)
    assert len(index.backend._state.dense.base_n) == 41
    assert reader.search("something else entirely", 1)[0].id == "x"
    assert reader.count() == 41


def test_a_delta_that_grows_makes_a_new_base_due(make: Callable[..., Index], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "DELTA_UPTO", 50)
    index = make()
    index.add(many(40))
    assert not index.backend.compact()
    index.add(many(80))
    index.refresh()
    assert index.backend.compact()
    assert not index.backend.compact()


def test_a_base_that_another_process_wrote_is_taken_and_not_written_again(
    make: Callable[..., Index], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(dense, "DELTA_UPTO", 50)
    index, other = make(), make()
    index.add(many(80))
    for either in (index, other):
        either.refresh()
    assert index.compact(threads=1)
    written = (tmp_path / "index" / "dense.json").read_text()
    assert len(other.backend._state.dense.base_n) == 0
    assert not other.compact(threads=1)
    assert len(other.backend._state.dense.base_n) == 80
    assert (tmp_path / "index" / "dense.json").read_text() == written


def test_a_half_float_keeps_the_order_of_full_floats(make: Callable[..., Index], words: Words) -> None:
    index = make()
    index.add(many(300))
    query = words.queries(["rule number 17"])[0]
    cosines = words.documents([p.search_text for p in many(300)]) @ query
    found = index.search("rule number 17", 5, mode="dense")
    assert next(hit.id for hit in found) == many(300)[int(np.argmax(cosines))].id
    assert found[0].dense == pytest.approx(float(cosines.max()), abs=1e-3)


def test_a_writer_killed_before_its_note_leaves_nothing_twice(make: Callable[..., Index], tmp_path: Path) -> None:
    index, other = make(), make()
    index.add(many(50))
    index.refresh()
    other.refresh()
    note = (tmp_path / "index" / "lexical.json").read_bytes()
    index.add([Passage("late", "a late rule about noon")])
    index.refresh()
    (tmp_path / "index" / "lexical.json").write_bytes(note)  # as if killed after tantivy's commit
    other.add([Passage("later", "a later rule about noon")])
    assert sorted(hit.id for hit in other.search("noon", 10, mode="lexical")) == ["late", "later"]
    assert other.backend._terms.reader.searcher.num_docs == 52


_FILES = (".managed.json", "meta.json", "*.fast", "*.term", "*.idx", "*.fieldnorm", "*.store", "*.pos")
_LONG = Passage("long", "The tenant pays the rent in the first week of every month. " * 60)


def _garbage(path: Path) -> None:
    """As long as it was: what is mapped and then cut kills the process, whoever does it."""
    path.write_bytes(np.random.default_rng(7).bytes(path.stat().st_size))


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("harm", [_garbage, flip, Path.unlink])
@pytest.mark.parametrize("name", [*_FILES, "chunks/meta.json", "chunks/*.term", "chunks/*.idx", "../lexical.json"])
def test_any_damage_to_the_lexical_cache_is_mended(
    make: Callable[..., Index], tmp_path: Path, name: str, harm: Callable[[Path], None], opened: bool
) -> None:
    index = make()
    index.add([*many(60), _LONG])
    assert index.search("number 17", 1, mode="lexical")[0].id == "r0017"
    if not opened:
        index.close()
    for place in (tmp_path / "index").glob("lexical-*"):
        for path in [tmp_path / "index" / "lexical.json"] if name.startswith("..") else place.glob(name):
            harm(path)
    index = index if opened else make()
    index.add([Passage("new", "xylophone orchard")])
    assert index.search("xylophone orchard", 1, mode="lexical")[0].id == "new"
    assert index.search("number 17", 1, mode="lexical")[0].id == "r0017"
    assert index.search("tenant rent", 1, mode="lexical")[0].document == "long"


@pytest.mark.parametrize(
    "wrong",
    [{"revision": float("inf")}, {"languages": [1, "x"]}, {"last": None}, {"files": []}, {"place": "../index"},
     {"place": 5}, {"languages": [["x"]]}],
)  # fmt: skip
def test_a_note_of_the_wrong_kind_is_not_believed(
    make: Callable[..., Index], tmp_path: Path, wrong: dict[str, object]
) -> None:
    index = make()
    index.add(many(60))
    index.refresh()
    index.close()
    note = tmp_path / "index" / "lexical.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | wrong))
    again = make()
    again.add([Passage("new", "xylophone orchard")])
    assert again.search("xylophone orchard", 1, mode="lexical")[0].id == "new"
