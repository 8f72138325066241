"""What all tests share: the fake engine, the order in which files run side by side, and how long each file took."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.upstream import FakeUpstream

# Files that take longest, longest first (the summary prints the times). pytest-xdist hands out whole files in this
# order, so that no worker is left alone with a long one at the end. A file that is missing here only runs later.
LONGEST = (
    "trainers/test_pair.py",
    "trainers/test_rounds.py",
    "retrieval/test_index.py",
    "trainers/test_launch.py",
    "trainers/test_kto.py",
    "trainers/test_sft.py",
    "page/test_page.py",
    "trainers/test_reward.py",
    "page/test_views.py",
    "serve/test_embedded.py",
    "trainers/test_poison.py",
    "serve/test_supervisor.py",
    "trainers/test_cpt.py",
    "trainers/test_run.py",
    "trainers/test_losses.py",
    "trainers/test_train_bpo.py",
    "trainers/test_export.py",
    "serve/test_bpo_embedded.py",
    "serve/test_fields_by_kind.py",
)

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: one thread each, or the workers fight for the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Longest files first; the order inside a file stays."""
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(_file(item.nodeid), len(rank)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The ten files that took longest, beside pytest's own list of the ten longest tests."""
    seconds: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[_file(report.nodeid)] += report.duration  # type: ignore[assignment]
    if len(seconds) > 1:
        terminalreporter.section("slowest 10 files")
        for name, total in seconds.most_common(10):
            terminalreporter.line(f"{total:7.1f} s  {name}")


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0].removeprefix("tests/")


@pytest.fixture(scope="session")
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as fake:
        yield fake
