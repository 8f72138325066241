"""python benchmarks/rewriting.py: what does the stage bpo add to a request, with a rewriter that takes 400 ms?

Starts a fake engine and `trimtab serve` before it, then sends 64 chats at once: under `raw`; with the stage and a cold
cache, all equal and all different; again with the cache warm; and with a rewriter that hangs, whose budget is 800 ms.
Added latency is the difference of the medians to `raw` in the same run. What it does not cover: a real rewriter.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

CONFIG = """
state_dir = "{folder}/state"
[engine.main]
url = "{url}"
[rewriter.slow]
engine = "main"
model = "slow-headers-0.4"
timeout_s = 30.0
[rewriter.hangs]
engine = "main"
model = "slow-headers-30"
timeout_s = 30.0
[policy.bpo]
stages = ["bpo"]
[policy.bpo.bpo]
rewriter = "slow"
mode = "shadow"
[policy.hanging]
stages = ["bpo"]
budget_ms = 800
[policy.hanging.bpo]
rewriter = "hangs"
mode = "replace"
"""


async def burst(url: str, policy: str, texts: list[str]) -> list[float]:
    """Milliseconds of each of the chats, all sent at once."""

    async def one(client: httpx.AsyncClient, text: str) -> float:
        body = {"model": "echo", "messages": [{"role": "user", "content": text}]}
        started = time.perf_counter()
        answer = await client.post("/v1/chat/completions", json=body, headers={"x-trimtab-policy": policy})
        answer.raise_for_status()
        return (time.perf_counter() - started) * 1000

    limits = httpx.Limits(max_connections=len(texts))
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
        await asyncio.gather(*(client.get("/healthz") for _ in texts))  # connections are made before the clock runs
        return await asyncio.gather(*(one(client, text) for text in texts))


async def measure(url: str, count: int) -> None:
    equal = ["How do I keep bread fresh for a week?"] * count
    different = [f"How do I keep {i} loaves of bread fresh for a week?" for i in range(count)]
    await burst(url, "raw", equal)
    raw = statistics.median(await burst(url, "raw", equal))
    print(f"{count} at once; raw: median {raw:.1f} ms\n")
    print(f"{'':<34} {'added p50':>10} {'added max':>10}")
    for name, policy, texts in (
        ("cold, equal prompts", "bpo", equal),
        ("cold, different prompts", "bpo", different),
        ("warm, equal prompts", "bpo", equal),
        ("warm, different prompts", "bpo", different),
        ("a rewriter that hangs (800 ms)", "hanging", different),
        ("the same again: it rests", "hanging", different),
    ):
        took = await burst(url, policy, texts)
        print(f"{name:<34} {statistics.median(took) - raw:>7.1f} ms {max(took) - raw:>7.1f} ms")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=64)
    args = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from tests.upstream import FakeUpstream

    with FakeUpstream() as upstream, tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "trimtab.toml")
        config.write_text(CONFIG.format(folder=folder, url=upstream.url))
        server = subprocess.Popen(
            [sys.executable, "-m", "serve.command", "serve", "--config", str(config), "--port", "0"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert server.stdout is not None
        try:
            url = server.stdout.readline().split()[-1]
            asyncio.run(measure(url, args.count))
            asked = sum(r.model == "slow-headers-0.4" for r in upstream.requests)
            print(f"\ncalls of the rewriter for {args.count} equal and {args.count} different prompts: {asked}")
        finally:
            server.terminate()
            server.wait(timeout=40)
    return 0


if __name__ == "__main__":
    sys.exit(main())
