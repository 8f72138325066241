"""python benchmarks/proxy.py: what does the proxy cost, beside nginx and its peers?

Starts a fast fake engine and, before it, nginx, `trimtab serve` with one policy after another, and the peers that are
installed; then lets the same load run through each of them in turn, round after round, so that what else the machine
does falls on all of them. Plain replies: wrk over open connections, at several concurrencies. Streams: 64 at once of
100 chunks, over 0.1 s and over 1 s. Measured: requests a second, latency beside the engine's own in the same round,
the CPU time of the proxy's processes a request, their memory, the share of errors, and for `opo` how much of what its
embedder could do alone is left.

    raw, urial chat, urial base     no stage; examples as turns; a base model's prompt, answers translated back
    opo new, opo cached             urial and opo: queries never seen, and 64 that were (needs --index)
    bpo warm                        urial and bpo, the rewrite in the cache

An index of 140,000 principles is what `python benchmarks/retrieval.py latency --data DIR --work WORK` leaves in
WORK/scaled-140000; --questions takes the corpus' `queries.dev.en.jsonl`. The peers live in environments of their own
in ~/.cache/trimtab/peers (or $TRIMTAB_PEERS, or where --litellm and so on say):

    python -m venv litellm && litellm/bin/pip install 'litellm[proxy]'
    python -m venv optillm && optillm/bin/pip install optillm math-verify
    python -m venv nemo && nemo/bin/pip install 'nemoguardrails[server]' langchain-openai
    python -m venv router && router/bin/pip install vllm-router sglang-router
    mkdir portkey && cp …/benchmarks/peers/package.json portkey && npm install --prefix portkey

(The last holds back @hono/node-server: with a newer one every stream through Portkey 1.15.2 is a 500.)

`--before FILE` sets an earlier run's figures beside the new ones, `--show FILE…` only prints and draws what earlier
runs measured. With every peer it takes a quarter of an hour; --targets, --parts and --workers choose parts of it, and
--show puts them together.

What it does not cover: TLS, slow clients, large prompts, several machines. Load, engine and proxy share the cores: with
few of them a second worker takes its time from the others, and the engine and wrk from the first. nginx at concurrency
1 mostly pays for being woken.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this file is called as the package that it measures

from benchmarks import targets
from benchmarks.figures import draw, show
from benchmarks.targets import HERE, Place, Recipe, Target
from benchmarks.upstream import QUESTION

WRK = """
wrk.method, wrk.headers["Content-Type"] = "POST", "application/json"
for header in string.gmatch(os.getenv("HEADERS"), "[^\\n]+") do
  local name, value = string.match(header, "^(.-): (.*)$")
  wrk.headers[name] = value
end
local bodies, seed, n = {}, os.getenv("SEED"), 0
for line in io.lines(os.getenv("BODIES")) do bodies[#bodies + 1] = line end
if #bodies == 1 then
  wrk.body = bodies[1]
else
  request = function()
    n = n + 1
    local body = bodies[(n - 1) % #bodies + 1]
    if seed ~= "" then body = body:gsub("@", seed .. n, 1) end
    return wrk.format(nil, nil, nil, body)
  end
end
done = function(summary, latency, requests)
  local e, late, p = summary.errors, summary.errors.timeout, function(q) return latency:percentile(q) / 1000 end
  io.write(string.format('\\n{"requests": %d, "seconds": %f, ', summary.requests, summary.duration / 1e6))
  io.write(string.format('"p50_ms": %f, "p90_ms": %f, "p99_ms": %f, ', p(50), p(90), p(99)))
  io.write(string.format('"refused": %d, "broken": %d, "late": %d}\\n', e.status, e.connect + e.read + e.write, late))
end
"""
SYSTEM = "You are a helpful assistant for a company that sells tools to gardeners, foresters and farmers."
LONGEST_S = 10
STREAMS = {"0.1 s": "every-1", "1 s": "every-10"}  # how long 100 chunks take -> the model that asks for it


@dataclass
class Bench:
    """One run: what it was told, the engine it goes to, and what it found."""

    options: argparse.Namespace
    folder: Path
    engine: str  # host:port
    asked: dict[str, list[str]]  # kind of load -> questions
    found: dict[str, Any] = field(default_factory=lambda: {k: [] for k in ("plain", "streams", "ceiling", "memory")})

    def load(self, target: Target, concurrency: int, seconds: int) -> dict[str, Any]:
        """Plain chats for so long, in a process of its own."""
        kind = target.recipe.asked
        surroundings = {
            "HEADERS": "\n".join(target.recipe.headers),
            "SEED": f"{random.getrandbits(40)}-" if kind == "unseen" else "",
            "BODIES": str(self.folder / kind),
        }
        command = ["wrk", "-t1", f"-c{concurrency}", f"-d{seconds}s", "--timeout", "30s", "--latency"]
        command += ["-s", str(self.folder / "load.lua"), target.url + "/v1/chat/completions"]
        ran = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | surroundings)
        result: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
        return result

    def plain(self, target: Target, concurrency: int, pace: float) -> dict[str, Any]:
        """One measurement; a slow target gets longer, so that its clients have some two answers each."""
        seconds = max(self.options.seconds, min(LONGEST_S, math.ceil(2 * concurrency / max(1.0, pace))))
        served, applied, cpu = self.served(), stages(target), target.cpu()
        result = self.load(target, concurrency, seconds)
        cpu = target.settled() - cpu
        served = self.served() - served  # what clients left behind was worked on too
        result["rps"] = result["requests"] / result["seconds"]
        if target.process:
            result["cpu_us"] = 1e6 * cpu / max(1, served, result["requests"])
        if applied is not None:
            ran = [now - before for now, before in zip(stages(target) or (0, 0), applied, strict=True)]
            result["applied"] = ran[0] / max(1, ran[1])
        return result

    def streams(self, target: Target, model: str) -> dict[str, Any]:
        command = [sys.executable, str(HERE / "load.py"), target.url, "--streams", str(self.options.streams)]
        command += ["--chunks", "100", "--model", model]
        command += [part for header in target.recipe.headers for part in ("--header", header)]
        cpu = target.cpu()
        ran = subprocess.run(command, check=True, capture_output=True, text=True)
        result: dict[str, Any] = json.loads(ran.stdout)
        if target.process:
            result["cpu_us"] = 1e6 * (target.settled() - cpu) / (100 * self.options.streams)
        return result

    def served(self) -> int:
        with urllib.request.urlopen(f"http://{self.engine}/counts", timeout=30) as answer:
            return int(json.load(answer)["asked"])


def stages(target: Target) -> tuple[float, float] | None:
    """How often the policy's last stage was applied and how often it ran; None: it has none."""
    stage = target.name[:3]
    if stage not in ("opo", "bpo"):
        return None
    with urllib.request.urlopen(target.url + "/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    rows = [line for line in lines if line.startswith("trimtab_stage_outcomes_total") and f'stage="{stage}"' in line]
    return (
        sum(float(row.split()[-1]) for row in rows if 'status="applied"' in row),
        sum(float(row.split()[-1]) for row in rows),
    )


def chat(text: str) -> str:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
    return json.dumps({"model": "bench", "messages": messages, "temperature": 0.7, "max_tokens": 128, "top_p": 0.95})


def answers(target: Target) -> str:
    """ "" where a chat comes back whole, else what is wrong."""
    head = {"content-type": "application/json", **dict(h.split(": ", 1) for h in target.recipe.headers)}
    request = urllib.request.Request(target.url + "/v1/chat/completions", chat(QUESTION).encode(), head)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = json.load(answer)["choices"][0]["message"]["content"]
    except (OSError, ValueError, LookupError) as error:
        body = error.read()[:300] if isinstance(error, urllib.error.HTTPError) else b""
        return f"{error} {body.decode(errors='replace')}"
    whole = "".join(f"{i}," for i in range(100))
    return "" if text == whole else f"an answer of {text[:60]!r}"


@contextlib.contextmanager
def started(bench: Bench, recipes: list[Recipe], workers: int) -> Iterator[list[Target]]:
    """All of them, running and answering; those that don't are reported and left out."""
    up: list[Target] = []
    with contextlib.ExitStack() as stack:
        for recipe in recipes:
            if workers > 1 and recipe.alone:
                print(f"{recipe.name}: only with one worker, {recipe.alone}")
                continue
            if recipe.shares:
                up += [Target(recipe, t.url, t.process) for t in up if t.name == recipe.shares]
                continue
            if recipe.command is None:
                up.append(Target(recipe, f"http://{bench.engine}"))
                continue
            folder = bench.folder / f"{recipe.name}-{workers}".replace(" ", "-")
            folder.mkdir()
            folder.chmod(0o755)
            place = Place(folder, bench.engine, targets.free_port(), workers)
            url = f"http://127.0.0.1:{place.port}"
            try:
                process = stack.enter_context(
                    targets.running(recipe.command(place), url + recipe.ready, folder / "log", recipe.environment)
                )
            except RuntimeError as error:
                print(f"{recipe.name}: left out, {error}", flush=True)
                continue
            target = Target(recipe, url, process)
            target.settled(5)
            bench.found["memory"].append({"workers": workers, "target": recipe.name, "start_mb": target.rss_mb()})
            if trouble := answers(target):
                print(f"{recipe.name}: left out, {trouble}", flush=True)
                continue
            up.append(target)
        yield up


def measure(bench: Bench, up: list[Target], workers: int, pool: Executor) -> None:
    """All rounds with so many workers; one that does not count goes before them."""
    options = bench.options
    # The stages opo and bpo end before a stream begins.
    streaming = [t for t in up if t.name[:3] not in ("opo", "bpo")] if "streams" in options.parts else []
    pace = {}
    for target in up:
        pace[target.name] = bench.load(target, 16, 1)["requests"]
        if target in streaming:
            bench.streams(target, "every-1")
        target.settled()
    for number in range(options.rounds):
        where = {"workers": workers, "round": number}
        for concurrency in options.concurrency if "plain" in options.parts else []:
            for target in up:
                row = bench.plain(target, concurrency, pace[target.name])
                row = {**where, "target": target.name, "concurrency": concurrency, **row}
                bench.found["plain"].append(row)
                print(f"{workers} round {number} c={concurrency} {target.name}: {row['rps']:.0f}/s", file=sys.stderr)
        for length, model in STREAMS.items() if streaming else []:
            for target in streaming:
                row = {**where, "target": target.name, "length": length, **bench.streams(target, model)}
                bench.found["streams"].append(row)
                print(f"{workers} round {number} streams {length} {target.name}", file=sys.stderr)
        if any(target.name == "opo new" for target in up) and "plain" in options.parts:
            texts = [f"{text} now {random.getrandbits(40)}" for text in bench.asked["unseen"]]
            rates = pool.submit(ceiling, texts, options.seconds).result()
            bench.found["ceiling"].append({**where, **rates})
    for memory in bench.found["memory"]:
        if memory["workers"] == workers:
            memory["end_mb"] = next((t.rss_mb() for t in up if t.name == memory["target"]), None)


_embedder: list[Any] = []


def ceiling(texts: list[str], seconds: float) -> dict[str, float]:
    """Queries a second of the index's embedder with nothing beside it, in batches of 16 and 32."""
    from retrieval.embedding.embedder import load

    if not _embedder:
        _embedder.append(load())
        _embedder[0].queries(texts[:32])
    rates = {}
    for batch in (16, 32):
        done, at, began = 0, 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            _embedder[0].queries((texts + texts)[at : at + batch])
            done, at = done + batch, (at + batch) % len(texts)
        rates[f"batch_{batch}"] = done / (time.perf_counter() - began)
    return rates


def chosen(options: argparse.Namespace, engine: str) -> tuple[list[Recipe], dict[str, str]]:
    """What can be measured here, in the order of the tables, and why the rest can't."""
    recipes, missing = targets.ours(options.trimtab, options.index)
    found: list[Recipe] = []
    makers: dict[str, Callable[[], Recipe]] = {
        "nginx": targets.nginx,
        "LiteLLM": lambda: targets.litellm(options.litellm),
        "optillm": lambda: targets.optillm(options.optillm),
        "Portkey": lambda: targets.portkey(options.portkey, engine),
        "vllm-router": lambda: targets.rust_router(options.router, "vllm-router"),
        "sglang-router": lambda: targets.rust_router(options.router, "sglang-router", "launch"),
        "NeMo Guardrails": lambda: targets.nemo(options.nemo),
    }
    for name, make in makers.items():
        try:
            found.append(make())
        except FileNotFoundError as error:
            missing[name] = str(error)
    found = [
        Recipe("direct"),
        *[r for r in found if r.name == "nginx"],
        *recipes,
        *[r for r in found if r.name != "nginx"],
    ]
    if options.targets:
        wanted = {name.lower() for name in options.targets} | {"direct"}
        wanted |= {recipe.shares.lower() for recipe in found if recipe.name.lower() in wanted}
        found = [recipe for recipe in found if recipe.name.lower() in wanted]
        missing = {name: why for name, why in missing.items() if name.lower() in wanted}
    return found, missing


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Everything that was asked for, measured."""
    if shutil.which("wrk") is None and "plain" in options.parts:
        sys.exit("wrk is not installed (Debian: apt-get install wrk)")
    questions = [QUESTION + " " + "Please keep it short." * i for i in range(64)]
    if options.questions:
        questions = [json.loads(line)["text"] for line in options.questions.read_text("utf-8").splitlines()]
    asked = {"equal": [QUESTION], "unseen": [f"{text} now @" for text in questions], "cached": questions[:64]}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)
        (folder / "load.lua").write_text(WRK)
        for kind, texts in asked.items():
            (folder / kind).write_text("\n".join(map(chat, texts)) + "\n")
        port = targets.free_port()
        bench = Bench(options, folder, f"127.0.0.1:{port}", asked)
        command = targets.engine_command(port, reply_ms=options.reply_ms)
        stack.enter_context(targets.running(command, f"http://{bench.engine}/v1/models", folder / "engine.log"))
        recipes, missing = chosen(options, bench.engine)
        for name, why in missing.items():
            print(f"{name}: left out, {why}", flush=True)
        bench.found["machine"] = targets.machine()
        bench.found["versions"] = {recipe.name: recipe.version for recipe in recipes if recipe.version}
        bench.found["skipped"] = missing
        kept = ("seconds", "rounds", "concurrency", "streams", "reply_ms")
        bench.found["options"] = {name: getattr(options, name) for name in kept}
        pool = stack.enter_context(ProcessPoolExecutor(1, get_context("spawn")))
        for workers in options.workers:
            with started(bench, recipes, workers) as up:
                measure(bench, up, workers, pool)
    return bench.found


def merged(files: list[Path]) -> dict[str, Any]:
    """Several runs as one: lists after each other, the rest from the first."""
    runs = [json.loads(file.read_text("utf-8")) for file in files]
    whole: dict[str, Any] = {}
    for number, each in enumerate(runs):
        for key, value in each.items():
            if isinstance(value, list):
                whole[key] = whole.get(key, []) + [{**row, "run": f"{row.get('run', '')}/{number}"} for row in value]
            else:
                whole[key] = {**value, **whole.get(key, {})}
    return whole


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=2, help="of load each time (plain replies)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[1, 2], help="processes of each proxy, one after another"
    )
    parser.add_argument("--streams", type=int, default=64, help="at once")
    parser.add_argument("--reply-ms", type=float, default=0, help="what the engine takes for a plain reply")
    parser.add_argument("--parts", nargs="+", choices=["plain", "streams"], default=["plain", "streams"])
    parser.add_argument(
        "--targets", nargs="+", help='only these, by their names in the tables, e.g. nginx raw "opo new"'
    )
    parser.add_argument(
        "--trimtab", default=str(Path(sys.executable).with_name("trimtab")), help="the command to measure"
    )
    parser.add_argument("--index", type=Path, help="the folder of an index of principles")
    parser.add_argument("--questions", type=Path, help="JSON lines with `text`, for opo")
    for name in ("litellm", "optillm", "nemo", "portkey", "router"):
        parser.add_argument(f"--{name}", type=Path, default=targets.PEERS / name, help="where it is installed")
    parser.add_argument("--json", type=Path, help="where all rounds are written")
    parser.add_argument("--plot", type=Path, help="where a PNG is drawn (needs matplotlib)")
    parser.add_argument("--before", type=Path, nargs="+", help="what --json wrote earlier, to compare with")
    parser.add_argument("--show", type=Path, nargs="+", help="measure nothing; show what --json wrote")
    return parser.parse_args()


def main() -> None:
    options = parse()
    found = merged(options.show) if options.show else run(options)
    if options.json:
        options.json.write_text(json.dumps(found) + "\n", "utf-8")
    before = merged(options.before) if options.before else None
    print(show(found, before))
    if options.plot:
        draw(found, options.plot, before)


if __name__ == "__main__":
    main()
