"""A toy model for the trainers' tests, and pairs that it can learn."""

import gc
from pathlib import Path

import pytest

from tests.trainers.toy import build_toy, pair_rows, write


@pytest.fixture(scope="session")
def frozen_libraries() -> None:
    """Keep the libraries' objects out of the collections that every training asks for: a third of a toy's run."""
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import trl.trainer.dpo_trainer  # noqa: F401

    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory, frozen_libraries: None) -> str:
    return build_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write(tmp_path / "pairs.jsonl", pair_rows())
