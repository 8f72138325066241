"""python benchmarks/full_disk.py [--rounds 5]: a server under load whose disk fills up, and what is left when it heals.

The state folder stands on a small tmpfs. Chats with a pinned rule and changes to the index go on without pause while
the disk is filled to its last byte, a worker is killed with -9 on the full disk, and the room is given back. It holds
that

    chats      are all whole, with the pinned rule in them, but for those that the killed worker was answering
    changes    are 200, 507 or (by the killed worker) cut; one that was 200 is in the index at the end, whole
    healing    with room again, a change is 200 and a chat finds the rule, without a restart

Exit status 1 if something else is seen. Needs trimtab[retrieval] and the right to mount a file system.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import aiohttp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.kills import PATH, outcome, start, workers
from benchmarks.targets import engine_command, free_port

CONFIG = """
state_dir = "{folder}/disk/state"
[server]
workers = 2
trace_content = true
[engine.main]
url = "http://127.0.0.1:{engine}"
[index.law]
embedder = "none"
[policy.rules]
stages = ["opo"]
render = "chat"
budget_ms = 30000
opo = {{ index = ["law"], pinned = ["law/creed"] }}
"""
SETTLED = 2.0  # seconds that each state of the disk lasts


@contextlib.contextmanager
def disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own. Raises CalledProcessError where the right to mount one is missing."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    subprocess.run(mount, check=True, stderr=subprocess.PIPE)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all the room that is left."""
    file = os.open(folder / "ballast", os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while True:
            os.write(file, bytes(4096))
    os.close(file)
    return folder / "ballast"


class Load:
    """Chats and changes without pause; what came of them, by the state that the disk was in."""

    def __init__(self, url: str) -> None:
        self._url, self.state, self.stopped = url, "room", False
        self.seen: dict[str, Counter[str]] = {}
        self.added: dict[str, str] = {}  # what was answered with 200
        self._number = 0

    async def run(self, clients: int) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)) as http:
            await asyncio.gather(*(self._chats(http) for _ in range(clients)), *(self._changes(http) for _ in range(2)))

    def _note(self, kind: str, got: str) -> None:
        self.seen.setdefault(self.state, Counter())[f"{kind} {got}"] += 1

    async def _chats(self, http: aiohttp.ClientSession) -> None:
        while not self.stopped:
            self._note("chat", await chat(http, self._url, "A word about bees?"))

    async def _changes(self, http: aiohttp.ClientSession) -> None:
        while not self.stopped:
            self._number += 1
            rules = {f"r{self._number}-{n}": " ".join([f"Sundial {self._number} of {n}."] * 40) for n in range(20)}
            got = await change(http, self._url, rules)
            if got == "200":
                self.added |= rules
            self._note("change", got)
            await asyncio.sleep(0.05)


async def chat(http: aiohttp.ClientSession, url: str, text: str) -> str:
    """ "whole" where the answer is, and the pinned rule was applied."""
    body = {"model": "bench", "messages": [{"role": "user", "content": text}]}
    try:
        async with http.post(url + PATH, json=body, headers={"x-trimtab-policy": "rules"}) as answer:
            got = outcome(answer.status, await answer.read(), stream=False)
            applied = answer.headers.get("x-trimtab-applied", "")
            return got if got != "whole" or "opo=applied" in applied else f"WITHOUT ITS RULE ({applied})"
    except TimeoutError:
        return "HUNG"
    except (aiohttp.ClientError, OSError):
        return "cut"


async def change(http: aiohttp.ClientSession, url: str, rules: dict[str, str]) -> str:
    """The status of an addition."""
    body = {"index": "law", "principles": [{"id": ident, "text": text} for ident, text in rules.items()]}
    try:
        async with http.post(url + "/v1/principles", json=body) as answer:
            await answer.read()
            return str(answer.status)
    except TimeoutError:
        return "HUNG"
    except (aiohttp.ClientError, OSError):
        return "cut"


async def lost(http: aiohttp.ClientSession, url: str, added: dict[str, str]) -> int:
    """How many of the rules that were added are not in the index as they were added."""
    found: dict[str, str] = {}
    after = ""
    while True:
        async with http.get(f"{url}/v1/principles", params={"index": "law", "after": after, "limit": "1000"}) as answer:
            rows = (await answer.json())["data"]
        if not rows:
            return sum(found.get(ident) != text for ident, text in added.items())
        found |= {row["id"]: row["text"] for row in rows}
        after = rows[-1]["id"]


async def healed(http: aiohttp.ClientSession, url: str) -> float:
    """Seconds until a change is taken."""
    since = time.monotonic()
    while await change(http, url, {"gnomon": "A gnomon casts a shadow."}) != "200":
        if time.monotonic() - since > 60:
            return float("inf")
        await asyncio.sleep(0.1)
    return time.monotonic() - since


async def life(folder: Path, engine: int, rng: random.Random, seen: dict[str, Counter[str]]) -> tuple[float, int]:
    """One disk that fills up and heals: seconds until it has, and how many rules were lost."""
    port = free_port()
    (folder / "trimtab.toml").write_text(CONFIG.format(folder=folder, engine=engine))
    parent, url = start(folder, port), f"http://127.0.0.1:{port}"
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)) as http:
            since = time.monotonic()
            while await change(http, url, {"creed": "Always be kind.", "bees": "Follow a swarm of bees."}) != "200":
                if time.monotonic() - since > 60:
                    raise SystemExit("the server does not start")
                await asyncio.sleep(0.1)
            load = Load(url)
            running = asyncio.create_task(load.run(8))
            await asyncio.sleep(SETTLED)
            load.state, ballast = "full", await asyncio.to_thread(fill, folder / "disk")
            await asyncio.sleep(SETTLED)
            load.state = "full, worker killed"
            rng.choice(workers(parent)).send_signal(signal.SIGKILL)
            await asyncio.sleep(2 * SETTLED)
            ballast.unlink()
            load.state = "room again"
            took = await healed(http, url)
            await asyncio.sleep(SETTLED)
            load.stopped = True
            await running
            for state, counts in load.seen.items():
                seen.setdefault(state, Counter()).update(counts)
            return took, await lost(http, url, load.added)
    finally:
        parent.terminate()
        parent.wait(40)


async def full_disk(rounds: int, megabytes: int, seed: int) -> int:
    """All rounds; how many faults there were."""
    rng, seen = random.Random(seed), dict[str, Counter[str]]()
    took: list[float] = []
    gone, port = 0, free_port()
    engine = await asyncio.create_subprocess_exec(*engine_command(port, chunks=50, reply_ms=20))
    try:
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as scratch, disk(Path(scratch) / "disk", megabytes):
                seconds, missing = await life(Path(scratch), port, rng, seen)
                took.append(seconds)
                gone += missing
    finally:
        engine.terminate()
        await engine.wait()
    faults = gone
    for state, counts in seen.items():
        may = {"chat whole", "change 200", "change 507"} | ({"chat cut", "change cut"} if "killed" in state else set())
        faults += sum(count for name, count in counts.items() if name not in may)
        print(f"full disk: {state}: {dict(sorted(counts.items()))}")
    print(
        f"full disk: {rounds} times, changes taken again after {max(took):.2f} s at most; {gone} rules lost;"
        f" {faults} faults",
        flush=True,
    )
    return faults + sum(seconds == float("inf") for seconds in took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="disks (default: %(default)s)")
    parser.add_argument("--megabytes", type=int, default=24, help="of a disk (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    sys.exit(1 if asyncio.run(full_disk(options.rounds, options.megabytes, options.seed)) else 0)


if __name__ == "__main__":
    main()
