"""python benchmarks/kills.py [--rounds 10]: what do clients see when a worker, the engine or the parent is killed?

Two workers and a launched engine serve streams and whole answers of three policies (raw, and URIAL in both renders)
without pause; every eighth client sends bodies of more than a megabyte, which have a process of their own. In each
round three workers, that process, then the engine twice, then the parent get SIGKILL, each a moment after all is well
again. Every answer is one of

    whole      all of the text and the protocol's end, as the engine sent it
    error      an error in OpenAI's shape, as a status or as a stream's last event
    cut        a connection that was refused or broke inside the answer
    WRONG      anything else: a shorter text with an orderly end, another status without an error
    HUNG       nothing for half a minute

Only the last two are faults. After the parent's death none of its descendants may live for more than five seconds, and
a new server on the same state folder must serve. Exit status 1 if there is a fault.

What it does not cover: engines that answer slowly, the death of a whole machine (`tests/retrieval` has that).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import aiohttp
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.targets import HERE, free_port

PATH = "/v1/chat/completions"
CHUNKS = 50
LARGE = "x" * 1_100_000
TEXT = "".join(f"{n}," for n in range(CHUNKS))
POLICIES = ("raw", "chat", "base")
CONFIG = """
state_dir = "{folder}/state"
[server]
workers = 2
trace_content = true
[engine.main]
command = {engine}
model = "bench"
[policy.chat]
stages = ["urial"]
render = "chat"
[policy.base]
stages = ["urial"]
render = "base"
"""


def outcome(status: int, body: bytes, *, stream: bool) -> str:
    """What an answer is that came to its end."""
    if status != 200:
        return "error" if _is_error(body) else "WRONG"
    if not stream:
        with contextlib.suppress(ValueError, LookupError, TypeError):
            choice = json.loads(body)["choices"][0]
            return "whole" if (choice["message"]["content"], choice["finish_reason"]) == (TEXT, "stop") else "WRONG"
        return "error" if _is_error(body) else "WRONG"
    events = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ")]
    if events and _is_error(events[-1]):
        return "error"
    if not events or events.pop() != b"[DONE]":
        return "WRONG"
    choices = [choice for event in events for choice in json.loads(event).get("choices", ())]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    finished = [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]
    return "whole" if (text, finished) == (TEXT, ["stop"]) else "WRONG"


def _is_error(body: bytes) -> bool:
    with contextlib.suppress(ValueError, LookupError, TypeError):
        return bool(json.loads(body)["error"]["message"])
    return False


async def ask(http: aiohttp.ClientSession, url: str, policy: str, *, stream: bool, large: bool = False) -> str:
    """One request, and what came of it."""
    body = {"model": "bench", "stream": stream, "messages": [{"role": "user", "content": "Count, please."}]}
    body |= {"user": LARGE} if large else {}
    try:
        async with http.post(url + PATH, json=body, headers={"x-trimtab-policy": policy}) as answer:
            return outcome(answer.status, await answer.read(), stream=stream)
    except TimeoutError:
        return "HUNG"
    except (aiohttp.ClientError, OSError):
        return "cut"


class Load:
    """Clients that ask without pause, and count what they see under the name of what was killed last."""

    def __init__(self, url: str) -> None:
        self._url, self.during, self.stopped = url, "start", False
        self.seen: dict[str, Counter[str]] = {}

    async def run(self, clients: int) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)) as http:
            await asyncio.gather(*(self._client(http, number) for number in range(clients)))

    async def _client(self, http: aiohttp.ClientSession, number: int) -> None:
        while not self.stopped:
            policy, stream = POLICIES[number % 3], number % 2 == 0
            got = await ask(http, self._url, policy, stream=stream, large=number % 8 == 7)
            self.seen.setdefault(self.during, Counter())[got] += 1
            if got in ("WRONG", "HUNG"):
                print(f"  {got}: policy {policy}, stream {stream}", flush=True)
            if got != "whole":
                await asyncio.sleep(0.05)


def start(folder: Path, port: int) -> psutil.Process:
    """A server, in a session of its own."""
    argv = [sys.executable, "-m", "serve.cli.command", "serve", "--config", str(folder / "trimtab.toml")]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": (folder / "log").open("ab")}
    child = subprocess.Popen([*argv, "--port", str(port)], start_new_session=True, env=os.environ, **quiet)  # type: ignore[call-overload]
    return psutil.Process(child.pid)


async def well(url: str, within_s: float = 90.0) -> float:
    """Seconds until the server answers six times in a row, over connections of their own, under every policy."""
    since, row, got = time.monotonic(), 0, ""
    while row < 6:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)) as http:
            got = await ask(http, url, POLICIES[row % 3], stream=row % 2 == 0)
            row = row + 1 if got == "whole" else 0
        if time.monotonic() - since > within_s:
            raise SystemExit(f"the server is not well {within_s:.0f} s after the kill: the last answer was {got}")
        if not row:
            await asyncio.sleep(0.02)
    return time.monotonic() - since


def workers(parent: psutil.Process) -> list[psutil.Process]:
    """The server's workers, that for large bodies last."""
    found = [child for child in parent.children() if "serve.process.worker" in child.cmdline()]
    return sorted(found, key=lambda child: child.nice())


def engine(parent: psutil.Process) -> psutil.Process:
    """The launched engine, below its guard."""
    return next(child for child in parent.children(recursive=True) if str(HERE / "upstream.py") in child.cmdline()[1:2])


async def gone(family: list[psutil.Process], within_s: float = 5.0) -> tuple[float, int]:
    """Seconds until all of these are dead, and how many are not."""
    since = time.monotonic()
    while (alive := [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]) and (
        time.monotonic() - since < within_s
    ):
        await asyncio.sleep(0.02)
    return time.monotonic() - since, len(alive)


async def life(parent: psutil.Process, url: str, rng: random.Random, times: dict[str, list[float]], load: Load) -> int:
    """A server's life; how many of its descendants outlived it."""
    times.setdefault("new parent", []).append(await well(url))
    kinds: list[tuple[str, Callable[[], psutil.Process]]] = [
        *[("worker", lambda: rng.choice(workers(parent)[:2]))] * 3,
        ("process for large bodies", lambda: workers(parent)[-1]),
        *[("engine", lambda: engine(parent))] * 2,
    ]
    for name, chosen in kinds:
        await asyncio.sleep(rng.uniform(0.3, 1.0))
        load.during = name
        chosen().send_signal(signal.SIGKILL)
        times.setdefault(name, []).append(await well(url))
    await asyncio.sleep(rng.uniform(0.3, 1.0))
    load.during = "parent"
    family = parent.children(recursive=True)
    parent.send_signal(signal.SIGKILL)
    parent.wait(10)
    took, left = await gone(family)
    times.setdefault("orphans gone", []).append(took)
    return left


async def kills(rounds: int, clients: int, seed: int) -> int:
    """All rounds under one load; how many faults there were."""
    rng, port, times, orphans = random.Random(seed), free_port(), dict[str, list[float]](), 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        command = [sys.executable, str(HERE / "upstream.py"), "--port", "{port}", "--chunks", str(CHUNKS)]
        command += ["--interval-ms", "10", "--reply-ms", "300"]
        (folder / "trimtab.toml").write_text(CONFIG.format(folder=folder, engine=json.dumps(command)))
        load = Load(f"http://127.0.0.1:{port}")
        running = asyncio.create_task(load.run(clients))
        for _ in range(rounds):
            parent = start(folder, port)
            try:
                orphans += await life(parent, f"http://127.0.0.1:{port}", rng, times, load)
            finally:
                with contextlib.suppress(psutil.NoSuchProcess):
                    parent.kill()
        load.stopped = True
        await running
    faults = sum(seen["WRONG"] + seen["HUNG"] for seen in load.seen.values())
    for name, seen in load.seen.items():
        print(f"kills: after {name}: {dict(sorted(seen.items()))}")
    for name, all_took in times.items():
        took = sorted(all_took)
        what = "" if name == "orphans gone" else "well after "
        print(f"kills: {what}{name}: {len(took)} times, median {took[len(took) // 2]:.2f} s, max {took[-1]:.2f} s")
    print(f"kills: {faults} wrong or hung answers, {orphans} orphans", flush=True)
    return faults + orphans


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="lives of a parent (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=24, help="that ask at once (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    sys.exit(1 if asyncio.run(kills(options.rounds, options.clients, options.seed)) else 0)


if __name__ == "__main__":
    main()
