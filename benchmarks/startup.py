"""python benchmarks/startup.py: how long does the plain proxy take to start, and what does it weigh?

Starts `trimtab serve` before a running engine (`upstream.py`) several times, waits until /readyz answers, then reads
the memory of its processes and checks that none of them has loaded torch, transformers, faiss or tokenizers.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil

HEAVY = ("torch", "transformers", "faiss", "tantivy", "tokenizers", "sentence_transformers", "onnxruntime")


def free_port() -> int:
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return int(it.getsockname()[1])


@contextlib.contextmanager
def engine() -> Iterator[str]:
    """The URL of an engine, without which a server is never ready."""
    port = free_port()
    argv = [sys.executable, str(Path(__file__).with_name("upstream.py")), "--port", str(port)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def start_once(workers: int, upstream: str) -> tuple[float, dict[str, float], set[str]]:
    """Seconds to ready, RSS in MB by process, and the heavy packages whose files are mapped."""
    port = free_port()
    with tempfile.TemporaryDirectory() as state:
        argv = [
            str(Path(sys.executable).with_name("trimtab")), "serve", "--upstream", upstream,
            "--port", str(port), "--workers", str(workers), "--state-dir", state,
        ]  # fmt: skip
        started = time.monotonic()
        server = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1).read()
                    break
                except OSError:
                    if time.monotonic() - started > 30:
                        raise
                    time.sleep(0.005)
            ready = time.monotonic() - started
            family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
            weights = {
                f"{'parent' if i == 0 else f'worker {i - 1}'}": p.memory_info().rss / 1e6 for i, p in enumerate(family)
            }
            maps = {m.path for p in family for m in p.memory_maps()}
            heavy = {name for name in HEAVY if any(re.search(rf"/site-packages/{name}/", path) for path in maps)}
            return ready, weights, heavy
        finally:
            server.terminate()
            server.wait(timeout=20)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    with engine() as upstream:
        start_once(args.workers, upstream)  # not counted: the engine may have been starting
        runs = [start_once(args.workers, upstream) for _ in range(args.runs)]
    times = [ready for ready, _, _ in runs]
    print(
        f"start to ready: median {statistics.median(times):.2f} s, "
        f"{min(times):.2f} to {max(times):.2f} s, {args.runs} runs"
    )
    for name in runs[0][1]:
        print(f"RSS {name}: {statistics.median(w[name] for _, w, _ in runs):.1f} MB")
    print(f"RSS together: {statistics.median(sum(w.values()) for _, w, _ in runs):.1f} MB")
    heavy = set().union(*(h for _, _, h in runs))
    print(f"heavy packages loaded: {', '.join(sorted(heavy)) or 'none'}")
    return 1 if heavy else 0


if __name__ == "__main__":
    sys.exit(main())
