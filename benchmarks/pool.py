"""python benchmarks/pool.py: what does a client notice when one of three engines is killed?

Starts three cheap engine processes and `trimtab serve` before them as one engine with `urls`, and keeps clients busy
with streams, each beginning the next as soon as one ends. A third of the way one engine gets kill -9; at two thirds it
is started again. Prints what became of every request, the time to the first chunk around the kill, and how long it
took until /readyz said that the engine was gone and back. `--policy urial` adds prefix affinity: all chats then have
one constant prefix, which has one home.

What it does not cover: engines on other machines, whose death is a silence rather than a refusal; real engines, which
hold a request for a while before its first byte (one that dies with its engine then is answered with 502).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

HERE = Path(__file__).parent
CONFIG = """
state_dir = "{state}"
[server]
port = {port}
workers = {workers}
policy = "{policy}"
[engine.main]
urls = {urls}
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request. Times are seconds since the load began."""

    began: float
    first: float  # when the first chunk came; 0.0: none did
    ended: float
    what: str  # "ok", "before start" (an error instead of a stream), "mid-stream" (a stream that ends with an error)
    detail: str = ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Engine:
    """A process of benchmarks/upstream.py, on one port for all its lives."""

    def __init__(self, chunks: int, interval_ms: float) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        script = [sys.executable, str(HERE / "upstream.py"), "--port", str(self.port)]
        self.command = [*script, "--chunks", str(chunks), "--interval-ms", str(interval_ms)]
        self.process = subprocess.Popen(self.command)

    def again(self) -> None:
        self.process = subprocess.Popen(self.command)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.wait()


async def one(http: aiohttp.ClientSession, url: str, began: float) -> Outcome:
    """One stream, from its request to its end."""
    messages = [{"role": "user", "content": "Count, please."}]
    body = {"model": "bench", "stream": True, "max_tokens": 1000, "messages": messages}
    now, first, tail = time.monotonic() - began, 0.0, b""
    try:
        async with http.post(url + "/v1/chat/completions", json=body) as answer:
            if answer.status != 200:
                text = await answer.text()
                return Outcome(now, 0.0, time.monotonic() - began, "before start", f"{answer.status} {text}")
            async for chunk in answer.content.iter_any():
                first = first or time.monotonic() - began
                tail = (tail + chunk)[-1000:]
    except (aiohttp.ClientError, TimeoutError) as error:
        what = "mid-stream" if first else "before start"
        return Outcome(now, first, time.monotonic() - began, what, repr(error))
    well = tail.rstrip().endswith(b"data: [DONE]")
    last = tail.rstrip().rpartition(b"data: ")[2].decode()
    return Outcome(now, first, time.monotonic() - began, "ok" if well else "mid-stream", "" if well else last)


async def state(http: aiohttp.ClientSession, url: str, number: int, wanted: str) -> float:
    """Seconds until /readyz says it of an engine."""
    since = time.monotonic()
    while True:
        async with http.get(url + "/readyz") as answer:
            if (await answer.json())["engines"]["main"]["urls"][number]["state"] == wanted:
                return time.monotonic() - since
        await asyncio.sleep(0.01)


async def load(url: str, engines: Sequence[Engine], arguments: argparse.Namespace) -> dict[str, Any]:
    """All the requests, and when the engine was killed and started again."""
    outcomes: list[Outcome] = []
    seconds, told = arguments.seconds, {}
    # A connection for each request: a reused one would add a client's own races to what is measured.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as http:
        for number in range(len(engines)):
            await state(http, url, number, "up")
        began = time.monotonic()

        async def client() -> None:
            while time.monotonic() - began < seconds:
                outcomes.append(await one(http, url, began))

        clients = [asyncio.create_task(client()) for _ in range(arguments.clients)]
        await asyncio.sleep(seconds / 3)
        told["killed"] = time.monotonic() - began
        engines[0].end(signal.SIGKILL)
        told["ejected_s"] = await state(http, url, 0, "ejected")
        await asyncio.sleep(max(0.0, began + 2 * seconds / 3 - time.monotonic()))
        told["again"] = time.monotonic() - began
        engines[0].again()
        told["returned_s"] = await state(http, url, 0, "up")
        await asyncio.gather(*clients)
        async with http.get(url + "/metrics") as answer:
            lines = (await answer.text()).splitlines()
    told["metrics"] = [line for line in lines if line.startswith(("trimtab_engine_retries", "trimtab_engine_eject"))]
    return {**told, "outcomes": outcomes}


def show(told: dict[str, Any], clients: int) -> None:
    outcomes: list[Outcome] = told["outcomes"]
    counts = Counter(outcome.what for outcome in outcomes)
    print(
        f"{clients} clients: {len(outcomes)} sent, {counts['ok']} ok, {counts['before start']} failed before their "
        f"start, {counts['mid-stream']} failed mid-stream"
    )
    for (what, detail), count in Counter((o.what, o.detail) for o in outcomes if o.what != "ok").most_common(5):
        print(f"  {count} x {what}: {detail}")
    print(f"ejected {1000 * told['ejected_s']:.0f} ms after the kill, back {told['returned_s']:.1f} s after its start")
    print(*told["metrics"], sep="\n")
    print("| requests that began | number | first chunk p50, ms | p99, ms | worst, ms |\n|---|---|---|---|---|")
    killed, again = told["killed"], told["again"] + told["returned_s"]
    spans = [("before the kill", 0, killed), ("in the second after it", killed, killed + 1)]
    spans += [("later, on two engines", killed + 1, again), ("after the return", again, 1e9)]
    for name, start, end in spans:
        times = sorted(1000 * (o.first - o.began) for o in outcomes if start <= o.began < end and o.first)
        if times:
            p50, p99 = (times[min(len(times) - 1, int(q * len(times)))] for q in (0.5, 0.99))
            print(f"| {name} | {len(times)} | {p50:.1f} | {p99:.1f} | {times[-1]:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--chunks", type=int, default=20)
    parser.add_argument("--interval-ms", type=float, default=20)
    parser.add_argument("--policy", default="raw")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    engines = [Engine(arguments.chunks, arguments.interval_ms) for _ in range(3)]
    port = free_port()
    try:
        with tempfile.TemporaryDirectory() as folder:
            config, url = Path(folder, "trimtab.toml"), f"http://127.0.0.1:{port}"
            urls = json.dumps([engine.url for engine in engines])
            given = {"state": Path(folder, "state"), "port": port, "urls": urls}
            config.write_text(CONFIG.format(**given, workers=arguments.workers, policy=arguments.policy))
            trimtab = str(Path(sys.executable).with_name("trimtab"))
            # What it says of the dead engine is not the figure.
            with Path(folder, "log").open("w") as log:
                server = subprocess.Popen([trimtab, "serve", "--config", str(config)], stdout=log, stderr=log)
            try:
                deadline = time.monotonic() + 60
                while socket.socket().connect_ex(("127.0.0.1", port)):
                    if server.poll() is not None or time.monotonic() > deadline:
                        sys.exit(Path(folder, "log").read_text())
                    time.sleep(0.05)
                told = asyncio.run(asyncio.wait_for(load(url, engines, arguments), arguments.seconds + 90))
            finally:
                server.terminate()
                server.wait(60)
        show(told, arguments.clients)
    finally:
        for engine in engines:
            engine.end()


if __name__ == "__main__":
    main()
