"""kill -9 in the middle of adding: what was acknowledged is there, and the index opens as if nothing had happened.

TRIMTAB_CRASH_ROUNDS and TRIMTAB_CRASH_RULES make it longer: `TRIMTAB_CRASH_ROUNDS=20 TRIMTAB_CRASH_RULES=10000
pytest tests/retrieval/test_crash.py -k none`.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from crash_child import rule
from retrieval_toys import Words

from retrieval.passage import Filter
from retrieval.search.index import Index

ROUNDS = int(os.environ.get("TRIMTAB_CRASH_ROUNDS", "3"))
RULES = int(os.environ.get("TRIMTAB_CRASH_RULES", "1500"))
HERE = Path(__file__).parent
QUERIES = ["dog must park court", "number 17", "tenant may contract employer licence", "ship ship bank"]


@pytest.mark.parametrize("embedder", ["none", "words"])
@pytest.mark.parametrize("seed", range(ROUNDS))
def test_every_acknowledged_rule_survives_a_kill(tmp_path: Path, embedder: str, seed: int) -> None:
    acknowledged, finished = _kill_at_random(tmp_path / "killed", embedder, seed)
    model = Words() if embedder == "words" else None
    with Index.open(tmp_path / "killed", embedder=model) as index:
        present = index.count()
        assert acknowledged <= present <= RULES
        assert finished == (acknowledged == RULES)
        assert [p.id for p in index.list(limit=RULES)] == [rule(i).id for i in range(present)]
        with Index.open(tmp_path / "fresh", create=True, embedder=model or "none") as fresh:
            for start in range(0, present, 500):
                fresh.add(rule(i) for i in range(start, min(present, start + 500)))
            assert _results(index) == _results(fresh)
        index.add([rule(RULES + 1)])
        assert index.get(rule(RULES + 1).id) is not None


def _kill_at_random(folder: Path, embedder: str, seed: int) -> tuple[int, bool]:
    """How many were acknowledged before the child was killed, somewhere in its work, and whether it had finished."""
    chance = random.Random(f"{embedder}{seed}")
    command = [sys.executable, str(HERE / "crash_child.py"), str(folder), str(RULES), str(seed), embedder]
    path = os.pathsep.join([str(HERE.parent.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert child.stdout is not None
    target, acknowledged = chance.randrange(RULES), 0
    for line in child.stdout:
        acknowledged = int(line)
        if acknowledged >= target:
            time.sleep(chance.random() * 0.02)
            child.send_signal(signal.SIGKILL)
            break
    rest = [int(line) for line in child.stdout.read().split()]
    child.stdout.close()
    return (rest or [acknowledged])[-1], child.wait() == 0


def _results(index: Index) -> list[list[tuple[str, float]]]:
    found = []
    for query in QUERIES:
        for where in (Filter(), Filter(region="north", strict=True)):
            for mode in ("hybrid", "lexical"):
                hits = index.search(query, 20, where=where, mode=mode, exact=True)
                found.append([(hit.id, pytest.approx(hit.score, abs=1e-4)) for hit in hits])
    return found
