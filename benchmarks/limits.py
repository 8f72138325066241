"""python benchmarks/limits.py [--requests 10000]: are limits exact, what do they cost, and does a flood stay its key's?

    exact      ten keys ask two workers, then two servers with one Redis, as fast as they can; allowed is compared
               with what a token bucket of that limit allows in that time
    cost       CPU time of the worker a request: without limits, with all limits of key and tenant, with Redis;
               in interleaved rounds, by wrk; and the commands that Redis was sent a request
    neighbour  latency of one key's chats alone, and while another sends large bodies without pause; the keys' engines
               and clients are processes of their own, and both states are measured in turns. The flood's client and
               engine stand for other machines: they get what processor time is left (nice 19), unless --crowded

Needs aiohttp and wrk; the parts with Redis need redis-server. What it does not cover: several machines, and a Redis
that is far away.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPConnection
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import aiohttp
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.targets import engine_command, free_port

NAMES = [f"key-{n}" for n in range(10)]
PATH = "/v1/chat/completions"
BODY = {"model": "bench", "messages": [{"role": "user", "content": "How are you?"}]}
ALL = "requests_per_minute = 100000000\ntokens_per_minute = 100000000\nconcurrent = 1000\nbody_mb = 1000.0\n"
REDIS = '[limits]\nredis_env = "LIMITS_REDIS"\nredis_s = 5.0\n'
LIMITS = {"off": "", "on": f"[limits.key]\n{ALL}[limits.tenant]\n{ALL}"}
LIMITS["redis"] = REDIS + LIMITS["on"]


@contextlib.contextmanager
def process(argv: Sequence[str], wait: str, env: dict[str, str] | None = None) -> Iterator[tuple[psutil.Process, str]]:
    """A child, once it has printed a line that matches `wait`; its output goes nowhere after that."""
    child = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, **(env or {})}
    )
    try:
        assert child.stdout is not None
        line = next(line for line in child.stdout if re.search(wait, line))
        yield psutil.Process(child.pid), line.split()[-1]
    finally:
        child.terminate()
        child.communicate(timeout=60)


@contextlib.contextmanager
def engine(*, elsewhere: bool = False) -> Iterator[str]:
    port = free_port()
    child = subprocess.Popen(engine_command(port))
    if elsewhere:
        psutil.Process(child.pid).nice(19)
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        child.terminate()
        child.wait(10)


@contextlib.contextmanager
def redis() -> Iterator[str]:
    port = free_port()
    argv = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with process(argv, "Ready to accept connections"):
        yield f"redis://127.0.0.1:{port}/0"


@contextlib.contextmanager
def server(upstream: str, limits: str, env: dict[str, str], workers: int = 1) -> Iterator[tuple[psutil.Process, str]]:
    keys = "".join(
        f'[[key]]\nid = "{n}"\nsha256 = "{hashlib.sha256(n.encode()).hexdigest()}"\nrights = ["raw"]\n' for n in NAMES
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trimtab.toml"
        path.write_text(f'state_dir = "{folder}/state"\n[engine.main]\nurl = "{upstream}"\n{limits}\n{keys}')
        argv = [sys.executable, "-m", "serve.cli.command", "serve", "--config", str(path), "--port", "0"]
        with process([*argv, "--workers", str(workers)], "serving on", env) as (parent, url):
            time.sleep(1)
            yield parent, url


async def flood(urls: Sequence[str], requests: int) -> tuple[Counter[tuple[str, int]], float]:
    counts: Counter[tuple[str, int]] = Counter()
    waiting, since = iter(range(requests)), time.monotonic()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as http:

        async def ask() -> None:
            for at in waiting:
                name = NAMES[at % 10]
                headers = {"authorization": f"Bearer {name}"}
                async with http.post(urls[at // 10 % len(urls)] + PATH, json=BODY, headers=headers) as answer:
                    await answer.read()
                    counts[name, answer.status] += 1

        await asyncio.gather(*(ask() for _ in range(20)))
    return counts, time.monotonic() - since


def exact(upstream: str, requests: int, url: str) -> None:
    limit = requests // 25
    rate = f"[limits.key]\nrequests_per_minute = {limit}\n"
    with contextlib.ExitStack() as stack:
        _, one = stack.enter_context(server(upstream, rate, {}, workers=2))
        _told("two workers", *asyncio.run(flood([one], requests)), limit)
    if not url:
        return
    with contextlib.ExitStack() as stack:
        both = [stack.enter_context(server(upstream, REDIS + rate, {"LIMITS_REDIS": url}))[1] for _ in range(2)]
        _told("two servers and Redis", *asyncio.run(flood(both, requests)), limit)


def _told(what: str, counts: Counter[tuple[str, int]], took_s: float, limit: int) -> None:
    expected = limit * (1 + took_s / 60)
    off = [counts[name, 200] / expected - 1 for name in NAMES]
    others = sum(n for (_, status), n in counts.items() if status not in (200, 429))
    allowed = sum(counts[name, 200] for name in NAMES)
    print(
        f"{what}: {sum(counts.values())} requests in {took_s:.1f} s, {allowed} allowed, {10 * expected:.0f} expected;"
        f" by key {min(off):+.2%} to {max(off):+.2%}; {others} other answers",
        flush=True,
    )


def cost(upstream: str, url: str, rounds: int) -> None:
    figures: dict[str, list[float]] = {}
    names = [name for name in LIMITS if name != "redis" or url]
    with contextlib.ExitStack() as stack:
        places = {
            name: stack.enter_context(server(upstream, LIMITS[name], {"LIMITS_REDIS": url} if url else {}))
            for name in names
        }
        for _ in range(rounds):
            for name, (parent, address) in places.items():
                before, commands = cpu(parent), _commands(url)
                done = wrk(address + PATH, BODY, {"authorization": f"Bearer {NAMES[0]}"})
                figures.setdefault(name, []).append((cpu(parent) - before) / done * 1e6)
                if name == "redis":
                    figures.setdefault("commands", []).append((_commands(url) - commands) / done)
    base = figures["off"]
    for name in names:
        more = statistics.median(a - b for a, b in zip(figures[name], base, strict=True))
        print(f"limits {name}: {statistics.median(figures[name]):.1f} µs of CPU a request ({more:+.1f})", flush=True)
    if "commands" in figures:
        print(f"Redis: {statistics.median(figures['commands']):.2f} commands a request", flush=True)


def cpu(parent: psutil.Process) -> float:
    """CPU seconds of a server's workers and engines so far."""
    return sum(sum(child.cpu_times()[:2]) for child in parent.children(recursive=True))


def _commands(url: str) -> int:
    if not url:
        return 0
    port = re.search(r":(\d+)/", url)[1]  # type: ignore[index]
    told = subprocess.run(["redis-cli", "-p", port, "info", "commandstats"], capture_output=True, text=True, check=True)
    calls = re.findall(r"cmdstat_eval(?:sha)?:calls=(\d+)", told.stdout)
    return sum(map(int, calls))


def wrk(url: str, body: object, headers: Mapping[str, str], seconds: int = 3, connections: int = 16) -> int:
    """How many times `wrk` posted the body; all answers were 2xx."""
    fields = {"content-type": "application/json", **headers}
    script = f'wrk.method = "POST"\nwrk.body = {json.dumps(json.dumps(body))}\n'
    script += "".join(f'wrk.headers["{name}"] = "{value}"\n' for name, value in fields.items())
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", file.name, url]
        told = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=seconds + 60).stdout
    assert "Non-2xx" not in told, told
    return int(re.search(r"(\d+) requests in", told)[1])  # type: ignore[index]


def flood_bodies(url: str, megabytes: int, sent: Synchronized[int], elsewhere: bool) -> None:
    """In a process of its own: eight threads that send a large body of one key again and again."""
    os.nice(19 if elsewhere else 0)
    body = json.dumps({"model": "bench", "messages": [{"role": "user", "content": "x" * megabytes * 2**20}]}).encode()
    headers = {"authorization": "Bearer key-1", "content-type": "application/json", "x-trimtab-policy": "theirs"}

    def send() -> None:
        client = HTTPConnection(url.removeprefix("http://"), timeout=300)
        while True:
            client.request("POST", PATH, body, headers)
            answer = client.getresponse()
            answer.read()
            with sent.get_lock():
                sent.value += answer.status == 200

    for _ in range(8):
        threading.Thread(target=send).start()


async def ours(url: str, chats: int, clock: int) -> list[tuple[float, float]]:
    """Of each chat the milliseconds, and those that the worker computed meanwhile, whatever else the machine did."""
    times = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as http:
        for _ in range(chats):
            since, computed = time.monotonic(), time.clock_gettime(clock)
            async with http.post(url + PATH, json=BODY, headers={"authorization": "Bearer key-0"}) as answer:
                await answer.read()
                assert answer.status == 200, answer.status
            times.append(((time.monotonic() - since) * 1000, (time.clock_gettime(clock) - computed) * 1000))
            await asyncio.sleep(0.02)
    return times


def neighbour(upstream: str, theirs: str, megabytes: int, chats: int, rounds: int, elsewhere: bool) -> None:
    """Both keys have an engine of their own, and the flood a process: what is measured is the server."""
    policy = f'[engine.theirs]\nurl = "{theirs}"\n[policy.theirs]\nengine = "theirs"\nstages = []\nrender = "chat"\n'
    spawn = multiprocessing.get_context("spawn")
    sent = spawn.Value("i", 0)
    alone, beside = list[tuple[float, float]](), list[tuple[float, float]]()
    with server(upstream, policy, {}) as (parent, url):
        worker = next(child for child in parent.children() if "serve.process.worker" in child.cmdline())
        clock = ~worker.pid << 3 | 2  # clock_getcpuclockid(3), which Python has not
        asyncio.run(ours(url, 20, clock))
        for _ in range(rounds):
            alone += asyncio.run(ours(url, chats // rounds, clock))
            flood = spawn.Process(target=flood_bodies, args=(url, megabytes, sent, elsewhere))
            flood.start()
            before = sent.value
            while sent.value < before + 2 and flood.is_alive():
                time.sleep(0.1)
            beside += asyncio.run(ours(url, chats // rounds, clock))
            flood.kill()
            flood.join()
    for name, pairs in (("alone", alone), ("beside the flood", beside)):
        for kind, times in zip(
            ("took", "in which the worker computed"), map(sorted, zip(*pairs, strict=True)), strict=True
        ):
            p50, p99 = times[len(times) // 2], times[int(len(times) * 0.99)]
            print(f"chats {name} {kind}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, worst {times[-1]:.1f} ms", flush=True)
    print(f"the flood, 8 at a time of {megabytes} MB: {sent.value} served")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="exact,cost,neighbour", help="of those above, with commas between")
    parser.add_argument("--requests", type=int, default=10000, help="of the part exact (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of the parts cost and neighbour (default: %(default)s)")
    parser.add_argument("--megabytes", type=int, default=26, help="of the flood's bodies (default: %(default)s)")
    parser.add_argument("--crowded", action="store_true", help="the flood's client and engine compete with the server")
    parser.add_argument("--chats", type=int, default=500, help="of the part neighbour (default: %(default)s)")
    options = parser.parse_args()
    parts = options.parts.split(",")
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(engine())
        url = stack.enter_context(redis()) if shutil.which("redis-server") else ""
        if "exact" in parts:
            exact(upstream, options.requests, url)
        if "cost" in parts:
            cost(upstream, url, options.rounds)
        if "neighbour" in parts:
            theirs = stack.enter_context(engine(elsewhere=not options.crowded))
            neighbour(upstream, theirs, options.megabytes, options.chats, options.rounds, not options.crowded)


if __name__ == "__main__":
    main()
