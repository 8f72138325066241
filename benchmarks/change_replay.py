"""How long does it take to replay kept requests through a draft's prompts, and what does it say?

python -m benchmarks.change_replay [--requests 10000] [--rules 2000] [--embedder none]

Makes a state folder with an index and kept requests of it, drafts a change (20 rules added, 20
changed, 20 withdrawn), and runs `trimtab change replay c1 --traces` on it.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from retrieval.passage import Passage
from retrieval.search.index import Index
from serve.approval import drafts
from serve.chat.indexes import Indexes
from serve.chat.keys import ANYBODY
from serve.config import Flags
from serve.configure.reader import read, resolve
from serve.process.loading import desk_of
from serve.store.sqlite_traces import SqliteTraces

CONFIG = """
state_dir = "{state}"
[engine.main]
url = "http://127.0.0.1:9"
[index.law]
embedder = "{embedder}"
[policy.rules]
stages = ["urial", "opo"]
render = "chat"
[policy.rules.opo]
index = ["law"]
"""
THINGS = [
    "dog", "cat", "bicycle", "garden", "fence", "bin", "party", "car",
    "tree", "noise", "shop", "tenant", "pool", "boat",
]  # fmt: skip
PLACES = [
    "park", "street", "yard", "stairwell", "playground", "market",
    "harbour", "station", "school", "forest", "beach",
]  # fmt: skip
ACTS = [
    "leave", "keep", "wash", "repair", "paint", "lend", "feed", "park",
    "sell", "burn", "plant", "move", "hide", "ride",
]  # fmt: skip


def rule(chance: random.Random, n: int) -> Passage:
    thing, place, act = chance.choice(THINGS), chance.choice(PLACES), chance.choice(ACTS)
    text = f"Nobody may {act} a {thing} in the {place} without the consent of office {n % 97}."
    return Passage(f"r{n}", text, title=f"Section {n}", source="Code of the town")


def question(chance: random.Random) -> str:
    act, thing, place = chance.choice(ACTS), chance.choice(THINGS), chance.choice(PLACES)
    return f"May I {act} my {thing} in the {place} on day {chance.randint(1, 365)}?"


def put(name: str, passage: Passage) -> dict[str, Any]:
    return {"kind": "rule", "index": "law", "name": name, "content": {"text": passage.text}}


def kept(folder: Path, chance: random.Random, count: int) -> None:
    """Requests as a server keeps them, with their content."""
    with closing(SqliteTraces(folder, 86400.0)) as traces:
        for n in range(count):
            body = {
                "id": f"{n:032x}", "policy": "rules", "key": "", "status": 200, "error": None, "stages": [],
                "before": [{"role": "user", "content": question(chance)}],
            }  # fmt: skip
            traces.put(str(body["id"]), "", body)
            while len(traces._queue) > 5000:
                time.sleep(0.05)
        while traces._queue:  # close() waits for the batch that is being written
            time.sleep(0.05)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--rules", type=int, default=2000)
    parser.add_argument("--embedder", default="none")
    args = parser.parse_args()
    chance = random.Random(0)
    with tempfile.TemporaryDirectory(prefix="change-replay-") as name:
        folder = Path(name)
        config = folder / "trimtab.toml"
        config.write_text(CONFIG.format(state=folder / "state", embedder=args.embedder))
        with Index.open(folder / "state/indexes/law", create=True, embedder=args.embedder) as index:
            index.add([rule(chance, n) for n in range(args.rules)])
        kept(folder / "state", chance, args.requests)
        source, managed = read(Flags(config=str(config)))
        resolved = resolve(source, managed)
        rows = [put(f"new-{n}", rule(chance, n)) for n in range(20)]
        rows += [put(f"r{n}", rule(chance, n)) for n in range(20)]
        rows += [{"kind": "rule", "op": "withdraw", "index": "law", "name": f"r{n}"} for n in range(20, 40)]
        with closing(Indexes(resolved.indexes)) as indexes:
            drafts.draft(desk_of(source, resolved, indexes), ANYBODY, {"reason": "benchmark", "items": rows})
        started = time.monotonic()
        argv = ["change", "replay", "c1", "--traces", "--config", str(config), "--out", str(folder / "rows.jsonl")]
        ran = subprocess.run([sys.executable, "-m", "serve.cli.command", *argv], check=False)
        took = time.monotonic() - started
        print(f"{args.requests} kept requests, {args.rules} rules, embedder {args.embedder}: {took:.1f} s in all")
        return ran.returncode


if __name__ == "__main__":
    sys.exit(main())
