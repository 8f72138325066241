"""A toy model for the trainers' tests, and pairs that it can learn."""

from pathlib import Path

import pytest

from tests.trainers.toy import build_toy, pair_rows, write


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write(tmp_path / "pairs.jsonl", pair_rows())
