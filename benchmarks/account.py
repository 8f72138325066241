"""python benchmarks/account.py [cost verify kills workers]: what does the account cost, and does it survive?

    cost      CPU time of the worker a request with and without `record = "requests"`, 16 connections, in interleaved
              rounds by wrk: relayed, and under URIAL; the 95% interval is of the paired differences
    verify    time to verify a million entries, 500,000 requests in segments of 64 MB
    kills     kill -9 of two processes that write changes and requests, 200 times at random moments: is every entry that
              was acknowledged there, and is the chain whole?
    workers   eight workers under load, killed in the middle with their parent; then verified

Needs wrk. What it does not cover: power loss (a killed process leaves the kernel's cache whole), and slow disks.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.limits import cpu, engine, process, wrk
from serve.chat.recorder import closed, opened
from serve.store.account.chain import parse
from serve.store.account.journal import FileAccount
from serve.store.account.verification import lines, verify
from serve.store.account.writer import Writer, encoded

PATH = "/v1/chat/completions"
CONFIG = """
state_dir = "{folder}/state"
[engine.main]
url = "{upstream}"
[policy.chat]
stages = ["urial"]
render = "chat"
[account]
record = "{record}"
"""
BODY = {"model": "bench", "user": "ann", "messages": [{"role": "user", "content": "How are you? " * 40}]}


@contextlib.contextmanager
def server(upstream: str, record: str, workers: int = 1) -> Iterator[tuple[psutil.Process, str, Path]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trimtab.toml"
        path.write_text(CONFIG.format(folder=folder, upstream=upstream, record=record))
        argv = [sys.executable, "-m", "serve.cli.command", "serve", "--config", str(path), "--port", "0"]
        with process([*argv, "--workers", str(workers)], "serving on") as (parent, url):
            time.sleep(1)
            yield parent, url, Path(folder) / "state" / "account"


def cost(rounds: int, seconds: int, pause: float) -> None:
    with engine() as upstream, server(upstream, "changes") as off, server(upstream, "requests") as on:
        for policy in ("raw", "chat"):
            pairs: list[tuple[float, float]] = []
            for at in range(rounds + 1):
                order = (off, on) if at % 2 else (on, off)
                took = {}
                for it in order:
                    time.sleep(pause)
                    took[id(it)] = _cost(it[0], it[1], policy, seconds)
                if at:  # the first warms up
                    pairs.append((took[id(off)], took[id(on)]))
            more = [b - a for a, b in pairs]
            half = 1.96 * statistics.stdev(more) / math.sqrt(len(more))
            print(
                f"{policy}: {statistics.median(a for a, _ in pairs):.1f} µs of CPU a request without, "
                f"{statistics.median(b for _, b in pairs):.1f} with the account; "
                f"paired difference {statistics.mean(more):+.1f} µs (±{half:.1f}), {len(more)} pairs of {seconds} s",
                flush=True,
            )
        print(f"machine: {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {verify(on[2]).words()[0]}")


def _cost(parent: psutil.Process, url: str, policy: str, seconds: int) -> float:
    before = cpu(parent)
    done = wrk(url + PATH, BODY, {"x-trimtab-policy": policy}, seconds)
    return (cpu(parent) - before) / done * 1e6


def entries(count: int, start: int = 0) -> list[bytes]:
    """Those of `count` requests."""
    rows: list[bytes] = []
    for n in range(start, start + count):
        ident, digest = f"{n:032x}", f"{n * 2654435761 % 2**256:064x}"
        common = "city", "desk-1", PATH, "careful", digest[:12], "c-17", "main", "bench", digest[:16], "messages"
        more = f',"indexes":{{"law":12}},"rules":[["law","law-{n % 97}","{digest[:16]}"]]'.encode()
        rows.append(opened(ident, common, more, digest))
        rows.append(closed(ident, 200, ("city", "urial=applied(3)", "complete"), digest))
    return rows


def million(folder: Path, count: int) -> None:
    writer, since = Writer(folder / "account", folder / "account.key"), time.monotonic()
    for start in range(0, count // 2, 1000):
        writer.write(entries(1000, start))
    wrote = time.monotonic() - since
    size = sum(path.stat().st_size for path in writer.folder.iterdir())
    since, before = time.monotonic(), time.process_time()
    verdict = verify(writer.folder)
    took, busy = time.monotonic() - since, time.process_time() - before
    print(f"{verdict.last:,} entries, {size / 2**20:.0f} MB, written in {wrote:.1f} s")
    print(f"verified in {took:.1f} s ({busy:.1f} s of CPU): {verdict.words()[1]}")
    assert verdict.whole


def _write_until_killed(folder: Path, name: str, say: int) -> None:
    """A process that writes changes and requests, and says through a pipe which changes and requests are on disk."""
    account = FileAccount(Writer(folder / "account", folder / "account.key", segment_bytes=200_000), 0.001)

    async def requests() -> None:
        for n in range(10**9):
            for ident in (f"{name}-r{n}-{k}" for k in range(20)):
                account.queue(encoded("open", {"id": ident}))
                account.queue(encoded("close", {"id": ident}))
            await account.written()
            os.write(say, f"{name}-r{n}-19\n".encode())
            change = f"{name}-c{n}"
            await asyncio.to_thread(account.append, "change", {"change": change, "step": "approved"})
            os.write(say, f"{change}\n".encode())

    asyncio.run(requests())


def kills(rounds: int) -> int:
    draw, lost, broken, torn, acknowledged = random.Random(7), 0, 0, 0, 0
    with tempfile.TemporaryDirectory() as scratch:
        for at in range(rounds):
            folder = Path(scratch) / str(at // 20)  # a log is killed twenty times
            children, reads = [], []
            for side in "ab":
                read, write = os.pipe()
                if not (pid := os.fork()):
                    os.close(read)
                    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                    try:
                        _write_until_killed(folder, f"{side}{at}", write)
                    finally:
                        os._exit(1)
                os.close(write)
                children.append(pid)
                reads.append(read)
            time.sleep(draw.uniform(0.01, 0.25))
            for pid in children:
                os.kill(pid, signal.SIGKILL)
            said = b"".join(_all(read) for read in reads).decode().split("\n")
            for pid in children:
                os.waitpid(pid, 0)
            lost_now, whole, torn_now = _after(folder, [it for it in said if it])
            lost, broken, torn = lost + lost_now, broken + (not whole), torn + torn_now
            acknowledged += len([it for it in said if it])
    print(
        f"{rounds} kills of two writers: {acknowledged:,} acknowledged entries, {lost} lost; "
        f"{broken} logs not whole; {torn} torn ends set aside"
    )
    return lost + broken


def _all(read: int) -> bytes:
    out = b""
    while chunk := os.read(read, 2**16):
        out += chunk
    os.close(read)
    return out


def _after(folder: Path, said: Sequence[str]) -> tuple[int, bool, int]:
    """How many acknowledged entries are missing, whether the log is whole, and how many torn ends were mended."""
    if not (folder / "account").is_dir():
        return len(said), True, 0
    Writer(folder / "account", folder / "account.key").write([encoded("start", {"worker": 0})])  # who comes next
    verdict = verify(folder / "account")
    text = b"".join(parse(line)[1] for line in lines(folder / "account")).decode()
    missing = [it for it in said if f'"{it}"' not in text]
    for finding in verdict.findings:
        print(finding)
    return len(missing), verdict.whole, sum("torn" in note for note in verdict.notes)


def workers(seconds: int) -> None:
    with engine() as upstream, server(upstream, "requests", 8) as (parent, url, folder):
        load = subprocess.Popen([sys.executable, __file__, "load", url, str(seconds)])
        time.sleep(seconds * 0.7)
        for child in parent.children(recursive=True):
            child.kill()
        parent.kill()
        load.wait(seconds + 60)
        since = time.monotonic()
        verdict = verify(folder)
        print(f"eight workers, killed under load; verified in {time.monotonic() - since:.1f} s")
        print("\n".join(f"  {line[:200]}" for line in verdict.words()))
        assert verdict.whole


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="default: all")
    parser.add_argument("--rounds", type=int, default=12, help="pairs of `cost`")
    parser.add_argument("--seconds", type=int, default=3, help="of a round of `cost`")
    parser.add_argument(
        "--pause", type=float, default=0, help="seconds before each round, where others use the machine"
    )
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=200)
    given = parser.parse_args()
    if given.parts[:1] == ["load"]:  # by ourselves
        with contextlib.suppress(AssertionError, subprocess.SubprocessError):
            wrk(given.parts[1] + PATH, BODY, {"x-trimtab-policy": "chat"}, int(given.parts[2]), 64)
        return 0
    parts, status = given.parts or ["cost", "verify", "kills", "workers"], 0
    if "cost" in parts:
        cost(given.rounds, given.seconds, given.pause)
    if "verify" in parts:
        folder = Path(tempfile.mkdtemp())
        million(folder, given.entries)
        shutil.rmtree(folder)
    if "kills" in parts:
        status = min(1, kills(given.kills))
    if "workers" in parts:
        workers(10)
    return status


if __name__ == "__main__":
    sys.exit(main())
