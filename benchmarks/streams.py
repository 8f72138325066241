"""python benchmarks/streams.py: what does the proxy add to a stream, and does its memory stay flat?

Starts a fast fake engine, nginx (where installed) and `trimtab serve` before it, and in each round lets the same 200
streams of 100 numbered chunks run directly, through nginx and through Trimtab, so that what else the machine does
falls on all of them. Prints first-chunk times, total times, the CPU time of each proxy's processes, ratios to nginx,
and whether a chunk was lost or reordered. `--soak-minutes 10` goes on with rounds through Trimtab and samples the
memory of its processes every ten seconds.

What it does not cover: TLS, slow clients, large prompts, more than one machine. The load, the engine and the proxy
share the cores.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parent
NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path {folder}/body; client_body_buffer_size 1m; keepalive_requests 1000000;
  upstream engine {{ server 127.0.0.1:{upstream}; keepalive 512; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://engine; proxy_buffering off; proxy_http_version 1.1; proxy_set_header Connection "";
    }}
  }}
}}
"""


@dataclass
class Target:
    """Where the load goes, the process that takes it there (None: none), and what was measured."""

    name: str
    url: str
    process: psutil.Process | None = None
    headers: list[str] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    rounds: list[dict[str, Any]] = field(default_factory=list)

    def tree(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)] if self.process else []

    def cpu(self) -> float:
        """CPU seconds of all the processes so far."""
        return float(sum(sum(p.cpu_times()[:2]) for p in self.tree()))

    def rss_mb(self) -> float:
        return sum(p.memory_info().rss for p in self.tree()) / 2**20


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(command: list[str], ready: str, log: Path) -> Iterator[psutil.Process]:
    """A process that has answered at `ready`, for as long as the block lasts."""
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            for _ in range(600):
                if process.poll() is not None:
                    sys.exit(f"{command[0]} ended with {process.returncode}:\n{log.read_text()[-2000:]}")
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(ready, timeout=5).close()
                    break
                time.sleep(0.1)
            else:
                sys.exit(f"{ready} did not answer in a minute:\n{log.read_text()[-2000:]}")
            yield psutil.Process(process.pid)
        finally:
            process.terminate()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()


def one_round(target: Target, arguments: argparse.Namespace) -> dict[str, Any]:
    """The load against one target, in a process of its own."""
    before = target.cpu()
    command = [sys.executable, str(HERE / "load.py"), target.url, "--streams", str(arguments.streams)]
    command += ["--chunks", str(arguments.chunks), "--ramp-ms", str(arguments.ramp_ms)]
    command += [part for header in target.headers for part in ("--header", header)]
    result: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    target.cpu_s.append(target.cpu() - before)
    target.rounds.append(result)
    return result


def faults(target: Target) -> str:
    """ "none", or what went wrong in all rounds."""
    lost, reordered = (sum(r[key] for r in target.rounds) for key in ("lost", "reordered"))
    broken = [reason for r in target.rounds for reason in r["broken"]]
    if not (lost or reordered or broken):
        return "none"
    return f"{lost} lost, {reordered} reordered, {len(broken)} broken {broken[:1]}"


def table(targets: list[Target], arguments: argparse.Namespace) -> None:
    """Medians over rounds; the first-chunk percentiles are over all streams of all rounds."""
    chunks = arguments.streams * arguments.chunks
    rows = []
    for target in targets:
        firsts = sorted(1000 * first for r in target.rounds for first in r["first_s"]) or [0.0]
        percentiles = [firsts[min(len(firsts) - 1, int(q * len(firsts)))] for q in (0.5, 0.99)]
        rows.append((target, percentiles, statistics.median(r["total_s"] for r in target.rounds)))
    yard = next((row for row in rows if row[0].name == "nginx"), rows[0])
    print(
        "| | first chunk p50 / p99, ms | ratio | all streams, s | ratio | CPU of the proxy, s | µs a chunk | faults |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for target, (p50, p99), total in rows:
        ratio = f"{p50 / yard[1][0]:.1f} / {p99 / yard[1][1]:.1f}"
        cpu = statistics.median(target.cpu_s)
        cost = f"{cpu:.2f} | {1e6 * cpu / chunks:.0f}" if target.process else "– | –"
        first = f"{p50:.1f} / {p99:.1f}"
        print(
            f"| {target.name} | {first} | {ratio} | {total:.2f} | {total / yard[2]:.2f} | {cost} | {faults(target)} |"
        )
    load = statistics.median(r["cpu_s"] for target in targets for r in target.rounds)
    print(f"\nRatios are to {yard[0].name}. The load client itself used {load:.2f} s of CPU a round.")


def slope(samples: list[tuple[float, float]]) -> float:
    """MiB a minute, by least squares over (seconds, MiB)."""
    if len(samples) < 2:
        return 0.0
    return 60 * statistics.linear_regression(*zip(*samples, strict=True)).slope


def soak(targets: list[Target], arguments: argparse.Namespace) -> None:
    """Rounds without a pause for so many minutes, the policies in turn, the memory sampled beside them."""
    samples: list[tuple[float, float]] = []
    done = threading.Event()
    began = time.monotonic()

    def sample() -> None:
        while True:
            samples.append((time.monotonic() - began, targets[0].rss_mb()))  # one process serves them all
            if done.wait(10):
                return

    watcher = threading.Thread(target=sample)
    watcher.start()
    rounds = 0
    try:
        while time.monotonic() - began < 60 * arguments.soak_minutes:
            one_round(targets[rounds % len(targets)], arguments)
            rounds += 1
    finally:
        done.set()
        watcher.join()
    sizes = [size for _, size in samples]
    half = [s for s in samples if s[0] >= samples[-1][0] / 2]
    names, count = "; ".join(target.name for target in targets), rounds * arguments.streams
    print(f"\nSoak ({names}): {samples[-1][0] / 60:.1f} min, {count} streams of {arguments.chunks} chunks.")
    print(f"Memory of all its processes (RSS): start {sizes[0]:.1f}, min {min(sizes):.1f}, max {max(sizes):.1f}, "
          f"end {sizes[-1]:.1f} MiB; slope {slope(samples):+.2f} MiB/min, second half {slope(half):+.2f}.")  # fmt: skip
    print("Every minute: " + " ".join(f"{size:.1f}" for size in sizes[::6]))
    print("Faults: " + "; ".join(faults(target) for target in targets) + ".")


def machine() -> str:
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.machine())  # fmt: skip
    packages = ", ".join(f"{name} {version(name)}" for name in ("aiohttp", "uvicorn", "uvloop"))
    load = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    return f"{os.cpu_count()} cores {cpu}; Python {platform.python_version()}, {packages}; load average {load}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--chunks", type=int, default=100)
    parser.add_argument("--interval-ms", type=float, default=10)
    parser.add_argument("--ramp-ms", type=float, default=0, help="spread the starts over so long; 0: all at once")
    parser.add_argument("--rounds", type=int, default=5, help="after one that warms up and does not count")
    parser.add_argument("--soak-minutes", type=float, default=0)
    parser.add_argument("--policy", action="append", help="Trimtab's policies to measure (default: raw); repeatable")
    trimtab = f"{Path(sys.executable).parent / 'trimtab'} serve --upstream {{upstream}} --port {{port}}"
    trimtab += " --state-dir {folder} --render base"  # the base render, so that `urial` is a translated stream
    parser.add_argument("--command", default=trimtab, help="how the proxy starts; {upstream}, {port}, {folder}")
    parser.add_argument("--ready", default="/readyz", help="the proxy's path that answers 200 when it is ready")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    print(machine())
    print(f"{arguments.streams} streams at once, {arguments.chunks} chunks {arguments.interval_ms:g} ms apart, "
          f"{arguments.rounds} interleaved rounds\n", flush=True)  # fmt: skip
    ports = {name: free_port() for name in ("engine", "nginx", "trimtab")}
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)
        engine = [sys.executable, str(HERE / "upstream.py"), "--port", str(ports["engine"])]
        engine += ["--chunks", str(arguments.chunks), "--interval-ms", str(arguments.interval_ms)]
        stack.enter_context(running(engine, urls["engine"] + "/v1/models", folder / "engine.log"))
        targets = [Target("direct", urls["engine"])]
        if nginx := shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin"):
            (folder / "nginx.conf").write_text(
                NGINX.format(folder=folder, upstream=ports["engine"], port=ports["nginx"])
            )
            command = [nginx, "-c", str(folder / "nginx.conf")]
            process = stack.enter_context(running(command, urls["nginx"] + "/v1/models", folder / "nginx.log"))
            targets.append(Target("nginx", urls["nginx"], process))
        else:
            print("nginx is not installed (Debian: apt-get install nginx-light); ratios are to direct.\n")
        command = arguments.command.format(upstream=urls["engine"], port=ports["trimtab"], folder=folder).split()
        process = stack.enter_context(running(command, urls["trimtab"] + arguments.ready, folder / "trimtab.log"))
        for policy in arguments.policy or ["raw"]:
            header = f"X-Trimtab-Policy: {policy}"
            targets.append(Target(f"trimtab, {policy}", urls["trimtab"], process, [header]))
        for number in range(arguments.rounds + 1):
            for target in targets:
                one_round(target, arguments)
                if number == 0:
                    target.cpu_s.clear()
                    target.rounds.clear()
        table(targets, arguments)
        if arguments.soak_minutes:
            soak([target for target in targets if target.headers], arguments)


if __name__ == "__main__":
    main()
