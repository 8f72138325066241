"""python benchmarks/damage.py [--trials 100]: damages to every kind of file in a state folder, and what comes of them.

Each trial copies a state folder, damages one file (a flipped bit, a cut, zeros, garbage, nothing, no file), opens what
it belongs to in a process of its own, changes and reads it. What comes of it is one of

    right      every answer is as it was written
    reported   something is missing or refused, and a message says so
    unsaid     an answer is wrong and nothing says so
    crashed    the process died, and does so again when it is started anew

Only the last two are faults; the exit status is 1 if there is one. Traces and feedback that are gone or empty are not
told from those of a new server, so these two damages are not done to them.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import shutil
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from retrieval.passage import Filter, Passage
from retrieval.search.index import Index
from serve.store.sqlite_feedback import SqliteVerdicts
from serve.store.sqlite_traces import SqliteTraces

OUTCOMES = ("right", "reported", "unsaid", "crashed")
REGIONS = ("north", "south")
RULES = [Passage(f"r{n}", f"Rule {n} is about word{n} and topic{n % 5}.", region=REGIONS[n % 2]) for n in range(200)]
LATE = Passage("late", "A xylophone in an orchard.")
EVEN, ODD = RULES[16], RULES[17]


def build(folder: Path) -> None:
    """An index, traces and feedback, as a server leaves them."""
    with Index.open(folder / "law", create=True, embedder="none") as index:
        index.add(RULES)
        index.search("rule", 1)
    traces, verdicts = SqliteTraces(folder, 3600), SqliteVerdicts(folder)
    for n in range(200):
        traces.put(f"t{n}", "acme", {"id": f"t{n}", "text": f"text {n} " * 20})
        verdicts.put("acme", "key", [f"t{n}"], {"id": f"v{n}", "kind": "rating", "text": f"text {n} " * 20})
    traces.close()
    for file in (folder / "law/record.db", folder / "traces.sqlite3", folder / "feedback.sqlite3"):
        with closing(sqlite3.connect(file)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def read_index(folder: Path) -> bool:
    """Change and search the index; whether all answers are right."""
    with Index.open(folder / "law", embedder="none") as index:
        index.add([LATE])
        wrong = index.damage()
        if wrong:
            logging.error("damaged: %s", wrong[0])
        asked = [("word17", Filter(), ODD), ("word16", Filter(region="north"), EVEN), ("xylophone", Filter(), LATE)]
        same = all(
            [(hit.id, hit.text) for hit in index.search(query, 1, where=where)] == [(rule.id, rule.text)]
            for query, where, rule in asked
        )
        return same and index.count() == len(RULES) + 1


def read_traces(folder: Path) -> bool:
    """Store and read traces."""

    async def read() -> bool:
        traces = SqliteTraces(folder, 3600)
        traces.put("late", "acme", {"id": "late"})
        late, early = await traces.find("late", "acme"), await traces.find("t17", "acme")
        rows, _ = await traces.recent("acme", limit=50)
        traces.close()
        return late == {"id": "late"} and early == {"id": "t17", "text": "text 17 " * 20} and len(rows) == 50

    return asyncio.run(read())


def read_feedback(folder: Path) -> bool:
    """Store and read feedback."""
    verdicts = SqliteVerdicts(folder)
    verdicts.put("acme", "key", ["late"], {"id": "late", "kind": "rating"})
    rows = {row["id"]: row for row in verdicts.all("acme", "rating", 0)}
    for line in verdicts.damage():
        logging.error("damaged: %s", line)
    return len(rows) == 201 and rows["v17"]["text"] == "text 17 " * 20


def damages(rng: random.Random, *, gone: bool = True) -> Callable[[Path], object]:
    """One of the ways in which a file goes wrong; `gone` says that nothing may be left of it."""

    def flip(file: Path) -> None:
        data = bytearray(file.read_bytes() or b"\0")
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(data)

    def tear(file: Path) -> None:
        data = bytearray(file.read_bytes())
        at = rng.randrange(len(data) + 1)
        data[at : at + 4096] = rng.randbytes(len(data[at : at + 4096]))
        file.write_bytes(data)

    lost: list[Callable[[Path], object]] = [Path.unlink, lambda file: file.write_bytes(b"")]
    return rng.choice([
        flip, flip, tear,
        lambda file: os.truncate(file, rng.randrange(1, file.stat().st_size + 1)),
        lambda file: file.write_bytes(bytes(file.stat().st_size)),
        lambda file: file.write_bytes(rng.randbytes(file.stat().st_size)),
        *(lost if gone else ()),
    ])  # fmt: skip


def outcome(read: Callable[[Path], bool], folder: Path) -> str:
    """Read in a process of its own, and once more where that dies."""
    for _ in range(2):
        if not (child := os.fork()):
            os._exit(_tried(read, folder))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if 0 <= code < len(OUTCOMES):
            return OUTCOMES[code]
    return "crashed"


def _tried(read: Callable[[Path], bool], folder: Path) -> int:
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.basicConfig(handlers=[handler], force=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # tantivy's own words on a panic
    try:
        right = read(folder)
    except Exception as error:  # noqa: BLE001  whatever it is, it is said
        said.append(str(error))
        right = False
    return OUTCOMES.index("right" if right else "reported" if said else "unsaid")


def main() -> int:
    """Print a row for each kind of file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100, metavar="N", help="of each kind of file (default 100)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, faults = random.Random(args.seed), 0
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole"
        whole.mkdir()
        build(whole)
        print(f"{'file':<16}" + "".join(f"{name:>10}" for name in OUTCOMES))
        for kind in kinds(whole):
            read = (
                read_traces if kind.startswith("traces") else read_feedback if kind.startswith("feed") else read_index
            )
            seen = Counter(trial(whole, Path(scratch) / "trial", kind, read, rng) for _ in range(args.trials))
            faults += seen["unsaid"] + seen["crashed"]
            print(f"{kind:<16}" + "".join(f"{seen[name]:>10}" for name in OUTCOMES), flush=True)
    return min(faults, 1)


def kinds(folder: Path) -> list[str]:
    """Names of files; of tantivy's, their endings."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return sorted({path.suffix if path.stem.isalnum() and len(path.stem) == 32 else path.name for path in files})


def trial(whole: Path, copy: Path, kind: str, read: Callable[[Path], bool], rng: random.Random) -> str:
    """Damage one file of a copy, and read it."""
    shutil.copytree(whole, copy)
    try:
        file = next(path for path in sorted(copy.rglob("*")) if path.is_file() and kind in (path.name, path.suffix))
        damages(rng, gone=file.parent != copy)(file)
        return outcome(read, copy)
    finally:
        shutil.rmtree(copy)


if __name__ == "__main__":
    sys.exit(main())
