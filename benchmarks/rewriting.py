"""python benchmarks/rewriting.py: what does the stage bpo add to a request, with a rewriter that takes 400 ms?

Starts a fake engine and `trimtab serve` before it, then sends 64 chats at once over open connections, by a client that
does no more than write bytes and wait for the answer's end: with the stage and a cold cache, all equal and all
different; again with the cache warm; and with a rewriter that hangs, whose budget is 800 ms. Each burst is paired with
one of the same texts under the same policy without the stage, right before it; added latency is the difference of the
medians. `stage` is the stage's own time, from the traces. What it does not cover: a real rewriter.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

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
[policy.without]
stages = ["urial"]
render = "chat"
profile = "plain"
[policy.bpo]
stages = ["urial", "bpo"]
render = "chat"
profile = "plain"
[policy.bpo.bpo]
rewriter = "slow"
mode = "replace"
[policy.hanging]
stages = ["urial", "bpo"]
render = "chat"
profile = "plain"
budget_ms = 800
[policy.hanging.bpo]
rewriter = "hangs"
mode = "replace"
"""


Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def burst(lines: list[Line], policy: str, texts: list[str]) -> tuple[list[float], list[str]]:
    """Milliseconds of each of the chats, all sent at once, one per connection; and their traces' ids."""

    async def one(line: Line, text: str) -> tuple[float, str]:
        reader, writer = line
        body = json.dumps({"model": "echo", "messages": [{"role": "user", "content": text}]}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nx-trimtab-policy: {policy}\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        started = time.perf_counter()
        writer.write(head.encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert answer.startswith("http/1.1 200"), answer
        fields = dict(row.split(": ", 1) for row in answer.split("\r\n")[1:] if row)
        if "content-length" in fields:
            await reader.readexactly(int(fields["content-length"]))
        else:
            while size := int(await reader.readline(), 16):
                await reader.readexactly(size + 2)
            await reader.readline()
        return (time.perf_counter() - started) * 1000, fields["x-trimtab-trace"]

    done = await asyncio.gather(*map(one, lines, texts))
    return [ms for ms, _ in done], [trace for _, trace in done]


def stage_ms(url: str, traces: list[str]) -> list[float]:
    """The stage's own milliseconds, from the traces."""
    out = []
    for trace in traces:
        for _ in range(100):  # a trace is written after its answer
            try:
                with urllib.request.urlopen(f"{url}/v1/traces/{trace}", timeout=10) as answer:
                    out += [row["ms"] for row in json.load(answer)["stages"] if row["stage"] == "bpo"]
                break
            except urllib.error.HTTPError:
                time.sleep(0.05)
    return out


async def measure(url: str, count: int) -> None:
    host, port = url.removeprefix("http://").split(":")
    lines = [await asyncio.open_connection(host, int(port)) for _ in range(count)]
    equal = ["How do I keep bread fresh for a week?"] * count
    different = [f"How do I keep {i} loaves of bread fresh for a week?" for i in range(count)]
    for _ in range(3):
        await burst(lines, "without", different)
    heads = ("without", "added p50", "added max", "stage p50", "stage max")
    print(f"{f'{count} at once':<32}" + "".join(f" {head:>10}" for head in heads))
    for name, policy, texts in (
        ("cold, equal prompts", "bpo", equal),
        ("cold, different prompts", "bpo", different),
        ("warm, equal prompts", "bpo", equal),
        ("warm, different prompts", "bpo", different),
        ("warm, one at a time", "bpo", equal),
        ("a rewriter that hangs (800 ms)", "hanging", different),
        ("the same again: it rests", "hanging", different),
    ):
        runs: dict[str, tuple[list[float], list[str]]] = {}
        for which in ("without", policy):
            if "one at a time" in name:
                singles = [await burst(lines[:1], which, [text]) for text in texts]
                runs[which] = [ms[0] for ms, _ in singles], [ids[0] for _, ids in singles]
            else:
                runs[which] = await burst(lines, which, texts)
        (plain, _), (took, traces) = runs["without"], runs[policy]
        own = await asyncio.to_thread(stage_ms, url, traces)
        base = statistics.median(plain)
        print(
            f"{name:<32} {base:>7.1f} ms {statistics.median(took) - base:>7.1f} ms {max(took) - max(plain):>7.1f} ms"
            f" {statistics.median(own):>7.2f} ms {max(own):>7.2f} ms"
        )
    for _, writer in lines:
        writer.close()


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
            [sys.executable, "-m", "serve.cli.command", "serve", "--config", str(config), "--port", "0"],
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
