"""python benchmarks/pool_faults.py: what do clients notice when one of three engines fails without dying?

Starts three engines in this process and `trimtab serve` before them as one engine with `urls`. `--clients` send
`--requests`; half a second later one engine begins to answer 500 at once. It recovers and is trusted again; then the
same with 429, with no answer at all (its health check included), and with none of these. An engine that is well takes
`--reply-ms`. Prints for each, without and with prefix affinity, without and with `idempotent`, how many got 200, what
the others got, and how many requests the failing engine was sent once it failed. With `--fallback` all three engines
fail and a policy's fallback serves.

What it does not cover: engines on other machines; streams that break after their first byte, which nobody repeats.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

MODES = ("500", "429", "hangs", "well")
_UNDER_WAY_S = 0.5  # after which the engine begins to fail
CONFIG = """
state_dir = "{state}"
[server]
port = {port}
timeout_s = {timeout}
[engine.main]
urls = {urls}
idempotent = {idempotent}
[engine.spare]
url = "{spare}"
[policy.plain]
stages = []
render = "chat"
fallback = {fallback}
[policy.urial]
fallback = {fallback}
"""


@dataclass
class Engine:
    """An engine that does what its mode says."""

    reply_s: float
    mode: str = "well"
    posts: list[float] = field(default_factory=list)  # when requests came, in time.monotonic() seconds
    url: str = ""

    async def start(self) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if (at := head.find(b"content-length: ")) >= 0:
                    await reader.readexactly(int(head[at + 16 : head.index(b"\r\n", at)]))
                post = head.startswith(b"POST")
                if post:
                    self.posts.append(time.monotonic())
                if self.mode == "hangs":
                    await reader.read()  # until the client gives up
                    break
                failing = post and self.mode in ("500", "429")
                if post and not failing:
                    await asyncio.sleep(self.reply_s)
                body = json.dumps(
                    {"choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}}]}
                ).encode()
                status = self.mode if failing else "200"
                kind = "content-type: application/json\r\n"
                writer.write(f"HTTP/1.1 {status} X\r\n{kind}content-length: {len(body)}\r\n\r\n".encode() + body)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has left, or the benchmark is over
        finally:
            writer.close()


@dataclass(frozen=True)
class Outcome:
    """One request."""

    began: float
    what: str


async def one(http: aiohttp.ClientSession, url: str, policy: str) -> Outcome:
    """Send one chat; the outcome is 200, or the error's code."""
    began = time.monotonic()
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello."}]}
    async with http.post(f"{url}/v1/chat/completions", json=body, headers={"x-trimtab-policy": policy}) as answer:
        said = await answer.json()
        return Outcome(began, "200" if answer.status == 200 else f"{answer.status} {said['error']['code']}")


async def phase(url: str, policy: str, requests: int, clients: int) -> list[Outcome]:
    """That many requests, by so many clients, each beginning the next as soon as one ends."""
    left, outcomes = iter(range(requests)), []
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=120)) as http:

        async def client() -> None:
            for _ in left:
                outcomes.append(await one(http, url, policy))

        await asyncio.gather(*(client() for _ in range(clients)))
    return outcomes


async def states(url: str, wanted: str, count: int = 3) -> None:
    """Until /readyz says that so many engines are in a state."""
    async with aiohttp.ClientSession() as http:
        while True:
            async with http.get(url + "/readyz") as answer:
                urls = (await answer.json())["engines"]["main"]["urls"]
            if sum(it["state"] == wanted for it in urls) >= count:
                return
            await asyncio.sleep(0.05)


async def faults(url: str, engines: list[Engine], policy: str, arguments: argparse.Namespace) -> None:
    """All phases; the engine that fails is the one that a policy's prefix lives on."""
    await states(url, "up")
    await phase(url, policy, arguments.requests // 4, arguments.clients)
    bad = max(engines, key=lambda engine: len(engine.posts))
    for mode in MODES:
        bad.mode, sent = "well", len(bad.posts)
        await states(url, "up")
        while len(bad.posts) < sent + 20:  # until it is trusted again
            await phase(url, policy, arguments.requests // 4, arguments.clients)
        running = asyncio.create_task(phase(url, policy, arguments.requests, arguments.clients))
        await asyncio.sleep(_UNDER_WAY_S)
        bad.mode, switched, sent = mode, time.monotonic(), len(bad.posts)
        show(mode, await running, [at - switched for at in bad.posts[sent:]], switched)


def show(mode: str, outcomes: list[Outcome], reached: list[float], switched: float) -> None:
    """Print a phase's row. Times are seconds since the engine began to fail."""
    counts = Counter(outcome.what for outcome in outcomes)
    well, told = counts.pop("200", 0), ", ".join(f"{count} x {what}" for what, count in counts.items()) or "-"
    failed = [outcome.began - switched for outcome in outcomes if outcome.what != "200"]
    latest = f"; the last of them began {max(failed):+.1f} s" if failed else ""
    last = f", the last {max(reached):+.1f} s" if reached else ""
    print(f"| {mode} | {well} of {len(outcomes)} | {told}{latest} | {len(reached)}{last} |", flush=True)


async def fallback(url: str, engines: list[Engine], policy: str, arguments: argparse.Namespace) -> None:
    """All engines of the pool fail; the policy's fallback serves."""
    await states(url, "up")
    for mode in ("500", "429"):
        for engine in engines:
            engine.mode = mode
        switched = time.monotonic()
        show(f"all {mode}", await phase(url, policy, arguments.requests, arguments.clients), [], switched)


async def trial(policy: str, *, idempotent: bool, arguments: argparse.Namespace) -> None:
    """One server, through all phases."""
    engines = [Engine(arguments.reply_ms / 1000) for _ in range(4)]
    for engine in engines:
        await engine.start()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "trimtab.toml")
        config.write_text(
            CONFIG.format(
                state=Path(folder, "state"),
                port=port,
                timeout=arguments.timeout_s,
                spare=engines[3].url,
                urls=json.dumps([engine.url for engine in engines[:3]]),
                idempotent=str(idempotent).lower(),
                fallback='["spare"]' if arguments.fallback else "[]",
            )
        )
        command = [sys.executable, "-m", "serve.cli.command", "serve", "--config", str(config)]
        with Path(folder, "log").open("w") as log:  # what it says of the failing engine is not the figure
            server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            while socket.socket().connect_ex(("127.0.0.1", port)):
                if server.poll() is not None:
                    sys.exit(Path(folder, "log").read_text())
                await asyncio.sleep(0.05)
            print(f"\n{policy}, {'idempotent' if idempotent else 'not idempotent'}:\n")
            print("| the engine | 200 | the others got | sent to it since |\n|---|---|---|---|")
            run = fallback if arguments.fallback else faults
            await run(f"http://127.0.0.1:{port}", engines[:3], policy, arguments)
        finally:
            server.terminate()
            server.wait(60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200, help="in each phase")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--reply-ms", type=float, default=200)
    parser.add_argument(
        "--timeout-s", type=float, default=10, help="server.timeout_s: an engine that is silent for so long"
    )
    parser.add_argument("--fallback", action="store_true", help="all engines fail, and a policy's fallback serves")
    arguments = parser.parse_args()
    for policy in ("plain", "urial"):
        for idempotent in (False,) if arguments.fallback else (False, True):
            asyncio.run(trial(policy, idempotent=idempotent, arguments=arguments))


if __name__ == "__main__":
    main()
