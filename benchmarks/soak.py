"""python benchmarks/soak.py --minutes 10: does a long day of mixed traffic leave anything behind?

Starts the fake engine of upstream.py and `trimtab serve` before it, and keeps clients busy with what a day brings, all
of it mixed: plain chats and streams under `raw` and under aligned policies, clients that leave before the headers,
before the first chunk and in mid-stream, an engine that says 500 or 429 or breaks off, bodies of 1 and 8 MB and one
too large, bad JSON, paths and policies that don't exist. Every answer is compared with what it should have been: whole
ones byte by byte of their text. Beside it, every few seconds: memory, open files and threads of every process,
connections to the engine, requests that it has not answered, tasks of the event loops.

Ends with the memory's slope in the second half, what was not as expected, and whether the files and connections that
the load took were given back. The exit status is 1 where something was lost or not given back. `--requests N` ends it
after so many. What it does not cover: time itself (a day's certificates, clock changes), other machines.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import sys
import tempfile
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import psutil
import uvloop

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this file is called as the package that it measures

from benchmarks import targets
from benchmarks.load import unchunked
from benchmarks.upstream import QUESTION

T = TypeVar("T")
WHOLE = "".join(f"{i}," for i in range(100))
CONFIG = """
state_dir = "{folder}/state"
[server]
port = {port}
workers = {workers}
max_body_mb = 10.0
trace_ttl_s = 120.0
[engine.main]
url = "http://{engine}"
"""


@dataclass(frozen=True)
class Ask:
    """A kind of request, and what should become of it."""

    name: str
    weight: float
    model: str = "bench"
    policy: str = "raw"
    stream: bool = False
    status: int = 200
    end: str = "whole"  # whole | broken: a stream that ends with an error and no [DONE] | any
    leave: str = ""  # before headers | before the first chunk | in mid-stream
    padding: int = 0  # bytes of the body
    path: str = "/v1/chat/completions"
    body: bytes = b""  # instead of a chat

    def request(self) -> bytes:
        body = self.body
        if not body:
            content = QUESTION + " word" * (self.padding // 5)
            chat = {"model": self.model, "stream": self.stream, "max_tokens": 400}
            body = json.dumps(chat | {"messages": [{"role": "user", "content": content}]}).encode()
        head = f"POST {self.path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        return f"{head}x-trimtab-policy: {self.policy}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


OURS = (400, 404, 413)  # what the proxy says by itself
# Shares of the requests; these are asked of each policy.
EACH = [
    Ask("plain", 40),
    Ask("stream", 20, "every-2", stream=True),
    Ask("left before headers", 3, "after-2000", leave="before headers"),
    Ask("left before headers, stream", 3, "after-2000", stream=True, leave="before headers"),
    Ask("left before the first chunk", 3, "first-2000", stream=True, leave="before the first chunk"),
    Ask("left in mid-stream", 3, "every-20", stream=True, leave="in mid-stream"),
    Ask("the engine breaks off a stream", 3, "dies-10", stream=True, end="broken"),
    Ask("the engine breaks off a reply", 2, "dies-10", status=502, end="any"),
    Ask("the engine says 500", 2, "status-500", status=500, end="any"),
    Ask("the engine says 429", 2, "status-429", status=429, end="any"),
    Ask("1 MB", 1, padding=2**20),
]
ONCE = [
    Ask("8 MB", 0.2, padding=8 * 2**20),
    Ask("11 MB of at most 10", 0.2, status=413, end="any", padding=11 * 2**20),
    Ask("bad JSON", 2, status=400, end="any", body=b'{"model": "bench", "messages": [{"role": '),
    Ask("no such path", 2, status=404, end="any", path="/v1/no/such/path"),
    Ask("no such policy", 2, status=404, end="any", policy="no-such-policy"),
]


@dataclass
class Client:
    """One connection, opened anew when the last one is gone."""

    host: str
    port: int
    reader: asyncio.StreamReader | None = None
    writer: asyncio.StreamWriter | None = None

    async def one(self, ask: Ask, request: bytes) -> str:
        """Send it and see what comes: "" for what should, else what was wrong."""
        if self.reader is None or self.reader.at_eof():
            self.close()
            self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
        reader, writer = self.reader, self.writer
        assert writer is not None
        writer.write(request)  # not drained: a server may answer, and close, before it has all of it
        try:
            if ask.leave == "before headers":
                await asyncio.sleep(0.05)
                self.close()
                return ""
            head = await patiently(reader.readuntil(b"\r\n\r\n"), 60)
            status, headers = int(head.split(b" ", 2)[1]), head.lower()
            if status != ask.status:
                rest = await patiently(reader.read(300), 10)
                self.close()
                return f"status {status}: {rest[:200].decode(errors='replace')}"
            if ask.leave:
                if ask.leave == "in mid-stream":
                    await patiently(reader.readuntil(b"2,"), 60)
                self.close()
                return ""
            body = await patiently(whole(reader, headers), 60)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError, TimeoutError) as error:
            self.close()
            return f"{type(error).__name__}: {error}"
        if b"connection: close" in headers:
            self.close()
        return judged(ask, body)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.transport.abort() if self.writer.transport.get_write_buffer_size() else self.writer.close()
        self.reader = self.writer = None


async def patiently(coming: Coroutine[Any, Any, T], seconds: int) -> T:
    """Its result within so many seconds in which this process ran: a machine that is suspended loses nothing.

    Raises TimeoutError.
    """
    task = asyncio.ensure_future(coming)
    try:
        for _ in range(seconds):
            if (await asyncio.wait((task,), timeout=1))[0]:
                return task.result()
        raise TimeoutError(f"nothing in {seconds} s")
    finally:
        task.cancel()


async def whole(reader: asyncio.StreamReader, headers: bytes) -> bytes:
    """The body. Raises EOFError or ValueError where it is cut off."""
    if b"transfer-encoding: chunked" not in headers:
        at = headers.find(b"content-length: ")
        return await reader.readexactly(int(headers[at + 16 : headers.index(b"\r\n", at)])) if at >= 0 else b""
    raw = bytearray()
    while not raw.endswith(b"0\r\n\r\n"):
        if not (data := await reader.read(65536)):
            raise EOFError("cut off within a chunked body")
        raw += data
    return unchunked(bytes(raw))


def judged(ask: Ask, body: bytes) -> str:
    if ask.end == "any":
        return ""
    if not ask.stream:
        text = json.loads(body)["choices"][0]["message"]["content"]
        return "" if text == WHOLE else f"an answer of {len(text)} characters"
    events = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ")]
    done, error = bool(events) and events[-1].strip() == b"[DONE]", b'"error"' in (events or [b""])[-1]
    if ask.end == "broken":
        return "" if error and not done else "a broken stream that does not end with an error"
    parts = (json.loads(event) for event in events[:-1])
    text = "".join(choice["delta"].get("content") or "" for part in parts for choice in part.get("choices", ()))
    return "" if done and text == WHOLE else f"a stream of {len(text)} characters, done: {done}"


@dataclass
class Watch:
    """What was seen of the processes, and when."""

    family: list[psutil.Process]
    url: str
    engine: str
    began: float = field(default_factory=time.monotonic)
    rows: list[dict[str, float]] = field(default_factory=list)

    def look(self) -> dict[str, float]:
        row = {"s": time.monotonic() - self.began}
        for i, process in enumerate(self.family):
            name = "parent" if i == 0 else f"worker {i}"
            row[f"{name} RSS, MiB"] = process.memory_info().rss / 2**20
            row[f"{name} files"] = process.num_fds()
            row[f"{name} threads"] = process.num_threads()
        with urllib.request.urlopen(f"http://{self.engine}/counts", timeout=900) as answer:
            row["connections to the engine"] = json.load(answer)["open"] - 1  # this one
        with urllib.request.urlopen(self.url + "/metrics", timeout=900) as answer:
            lines = answer.read().decode().splitlines()
        for name in ("trimtab_pending", "trimtab_tasks"):
            if values := [float(line.split()[-1]) for line in lines if line.startswith((name + "{", name + " "))]:
                row[name] = sum(values)
        return row

    async def until(self, stop: asyncio.Event, every_s: float) -> None:
        while not stop.is_set():
            self.rows.append(await asyncio.to_thread(self.look))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), every_s)

    async def rested(self, least: dict[str, float] | None, most_s: float) -> dict[str, float]:
        """Files and connections once they no longer fall, or are back at what they were."""
        until, last, since = time.monotonic() + most_s, await asyncio.to_thread(self.look), time.monotonic()
        while time.monotonic() < until:
            await asyncio.sleep(0.5)
            row = await asyncio.to_thread(self.look)
            if least is not None and not beyond(row, least):
                return row
            if held(row) != held(last):
                last, since = row, time.monotonic()
            elif least is None and time.monotonic() - since > 65:  # longer than an idle connection is kept
                return row
        return await asyncio.to_thread(self.look)


def held(row: dict[str, float]) -> dict[str, float]:
    """What a load takes and must give back."""
    return {key: value for key, value in row.items() if key.endswith("files") or key.startswith(("conn", "trimtab"))}


def beyond(row: dict[str, float], least: dict[str, float]) -> list[str]:
    """What is still held. Two files a process are a thread's own connections to a database; two tasks are who asks."""
    spare = {key: 2 if key.endswith(("files", "tasks")) else 0 for key in least}
    return [
        f"{key} {value:.0f}, was {least[key]:.0f}"
        for key, value in held(row).items()
        if value > least[key] + spare[key]
    ]


# Requests sent by kind, what was wrong with some, the processes at rest before and after, and the seconds between.
Seen = tuple[Counter[str], dict[str, Counter[str]], dict[str, float], dict[str, float], float]


async def soak(options: argparse.Namespace, watch: Watch, mixture: list[Ask], port: int) -> Seen:
    requests = {ask: ask.request() for ask in mixture}
    sent: Counter[str] = Counter()
    wrong: dict[str, Counter[str]] = defaultdict(Counter)
    chance, stop = random.Random(options.seed), asyncio.Event()

    async def one(client: Client, ask: Ask) -> None:
        sent[ask.name] += 1
        if said := await client.one(ask, requests[ask]):
            wrong[ask.name][f"{ask.policy}: {said}"] += 1

    first = Client("127.0.0.1", port)
    for _ in range(2):
        for ask in mixture:  # what is opened once is open before the rest is measured
            await one(first, ask)
    first.close()
    watch.family[1:] = watch.family[0].children(recursive=True)  # that for large bodies starts with the first of these
    least = await watch.rested(None, 180)
    began = time.monotonic()
    weights = [ask.weight for ask in mixture]

    async def busy() -> None:
        client = Client("127.0.0.1", port)
        while time.monotonic() - began < 60 * options.minutes and not (0 < options.requests <= sent.total()):
            await one(client, chance.choices(mixture, weights)[0])
        client.close()

    looking = asyncio.create_task(watch.until(stop, options.every))
    await asyncio.gather(*(busy() for _ in range(options.clients)))
    took = time.monotonic() - began
    stop.set()
    await looking
    return sent, wrong, least, await watch.rested(least, 180), took


def slope(rows: list[dict[str, float]], key: str) -> float:
    """A second's change, by least squares."""
    return (
        statistics.linear_regression([row["s"] for row in rows], [row[key] for row in rows]).slope
        if len(rows) > 2
        else 0.0
    )


def report(seen: Seen, watch: Watch) -> bool:
    """Print it; True where nothing was lost."""
    sent, wrong, least, last, took = seen
    print(f"{sent.total():,} requests in {took / 60:.1f} min ({sent.total() / took:.0f}/s)\n")
    print("| request | sent | not as expected |\n|---|---|---|")
    for name, count in sent.items():
        said = "; ".join(f"{n:,} × {what}" for what, n in wrong[name].most_common(3))
        print(f"| {name} | {count:,} | {said or 0} |")
    half = [row for row in watch.rows if row["s"] >= (watch.rows[0]["s"] + watch.rows[-1]["s"]) / 2]
    print("\n| | at rest, before | start | highest | end | an hour's slope, second half | at rest, after |")
    print("|---|---|---|---|---|---|---|")
    for key in watch.rows[0]:
        if key != "s":
            values, rise = [row[key] for row in watch.rows], 3600 * slope(half, key)
            figures = (least[key], values[0], max(values), values[-1])
            print(f"| {key} | {' | '.join(f'{v:.1f}' for v in figures)} | {rise:+.1f} | {last[key]:.1f} |")
    kept = beyond(last, least)
    print("\nNot given back: " + ("; ".join(kept) or "nothing") + ".")
    print(f"Not as expected: {sum(c.total() for c in wrong.values())} of {sent.total():,}.")
    return not kept and not any(wrong.values())


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--requests", type=int, default=0, help="end after so many; 0: by time alone")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--every", type=float, default=5, help="seconds between two looks at the processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--index", type=Path, help="the folder of an index of principles: with `opo` too")
    parser.add_argument(
        "--trimtab", default=str(Path(sys.executable).with_name("trimtab")), help="the command to measure"
    )
    parser.add_argument("--json", type=Path, help="where all that was seen is written")
    return parser.parse_args()


def main() -> int:
    options = parse()
    policies = ["raw", "chat", "base", "bpo", *(["opo"] if options.index else [])]
    print("; ".join(f"{key}: {value}" for key, value in targets.machine().items()), flush=True)
    ports = [targets.free_port() for _ in range(2)]
    engine = f"127.0.0.1:{ports[0]}"
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        command = targets.engine_command(ports[0])
        stack.enter_context(targets.running(command, f"http://{engine}/v1/models", folder / "engine.log"))
        place = targets.Place(folder, engine, ports[1], options.workers)
        text = CONFIG + "".join(targets.POLICIES[policy] for policy in policies)
        config = place.write("trimtab.toml", text, index=options.index)
        url, log = f"http://127.0.0.1:{ports[1]}", folder / "trimtab.log"
        command = [*options.trimtab.split(), "serve", "--config", str(config)]
        process = stack.enter_context(targets.running(command, url + "/readyz", log))
        watch = Watch([process, *process.children(recursive=True)], url, engine)
        mixture = [replace(ask, weight=ask.weight / len(policies), policy=name) for name in policies for ask in EACH]
        seen = uvloop.run(soak(options, watch, mixture + ONCE, ports[1]))
        well = report(seen, watch)
        with urllib.request.urlopen(f"http://{engine}/counts", timeout=900) as answer:
            counts = json.load(answer)
        leaving = sum(count for name, count in seen[0].items() if name.startswith("left"))
        never = sum(seen[0][ask.name] for ask in {a.name: a for a in mixture + ONCE}.values() if ask.status not in OURS)
        never -= counts["asked"]
        ended = leaving - counts["left"] - never
        print(f"Of {leaving:,} clients that left, {never:,} did before the engine was asked, and the engine saw "
              f"{counts['left']:,} go; {ended:,} were answered to the end though they had left.")  # fmt: skip
        if trouble := [
            line for line in log.read_text().splitlines() if line.startswith(("Traceback", "ERROR", "CRITICAL"))
        ]:
            print(f"Its log has {len(trouble)} errors, the first: {trouble[0][:200]}")
        if options.json:
            options.json.write_text(json.dumps({"rows": watch.rows, "sent": seen[0], "wrong": seen[1]}) + "\n", "utf-8")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
