"""What all tests share: the fake engine, one for the whole run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.upstream import FakeUpstream


@pytest.fixture(scope="session")
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as fake:
        yield fake
