"""Several processes on one index."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from retrieval.backends.local import dense
from retrieval.search.index import Index

HERE = Path(__file__).parent


class Child:
    def __init__(self, folder: Path) -> None:
        path = os.pathsep.join([str(HERE.parent.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "index_child.py"), str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip

    def start(self, **order: object) -> None:
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        return self.process.stdout.readline().strip()

    def do(self, **order: object) -> str:
        self.start(**order)
        return self.answer()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Callable[[], Child]]:
    made: list[Child] = []

    def start() -> Child:
        made.append(Child(tmp_path / "index"))
        return made[-1]

    yield start
    for each in made:
        each.close()


def test_what_one_process_adds_or_withdraws_the_other_sees_within_a_second(make: Callable[..., Index], child) -> None:
    index, other = make(), child()
    other.do(search="warm up")
    for round_ in range(3):
        other.do(add=[[f"noon-{round_}", f"the law of noon {round_}"]])
        started = time.monotonic()
        assert [hit.id for hit in index.search(f"law of noon {round_}", 1)] == [f"noon-{round_}"]
        assert time.monotonic() - started < 1.0
        other.do(withdraw=[f"noon-{round_}"])
        started = time.monotonic()
        assert index.search(f"law of noon {round_}", 1) == []
        assert time.monotonic() - started < 1.0
        index.withdraw([])


def test_processes_that_add_at_once_lose_nothing(make: Callable[..., Index], child) -> None:
    index, children = make(), [child(), child()]
    for round_ in range(5):
        for number, each in enumerate(children):
            each.start(add=[[f"c{number}-{round_}-{i}", f"rule {number} {round_} {i}"] for i in range(20)])
        for each in children:
            each.answer()
    found = {json.dumps(json.loads(each.do(search="rule 1 4 19"))) for each in children}
    assert len(found) == 1
    assert index.count() == 200
    assert len(index.search("rule", 500, mode="lexical")) == 200
    assert len(index.search("rule", 500, mode="dense")) == 200


def test_a_new_base_of_one_process_serves_the_other(
    make: Callable[..., Index], child, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense, "DELTA_UPTO", 50)
    index, other = make(), child()
    other.do(add=[[f"r{i}", f"rule number {i}"] for i in range(200)])
    assert index.search("rule number 17", 1)[0].id == "r17"
    assert other.do(compact=True) == "True"
    other.do(add=[["late", "a late one"]])
    assert index.search("a late one", 1)[0].id == "late"
    assert index.search("rule number 17", 1)[0].id == "r17"
    assert len(index.backend._state.dense.base_n) == 200
    assert other.do(compact=True) == "True"
    assert index.search("rule number 17", 1)[0].id == "r17"
