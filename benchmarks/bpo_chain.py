"""python benchmarks/bpo_chain.py --data DIR --work DIR: BPO from preference pairs to a served rewrite, on a CPU.

DIR/gsm8k/train.jsonl.zst (MIT) gives the pairs: the last question of each worked problem, its own working as the good
response, the working of another problem as the bad one. A scripted critic behind a real HTTP engine (which fails and
talks nonsense now and then) adds to each question what its **content** asks for: money, time, or counting; questions
that already say "Show every step." are good, and stay as they are. The embedded base model (3.2 M parameters) learns
that as a rewriter; the run is exported, `trimtab serve` launches the export as an engine, and held-out questions go
through a policy whose bpo stage uses it. The same command goes on where it was stopped.

What it does not cover: whether rewrites make answers better (the paper's question; it takes a real critic, a real
model and judges), and long prompts, which so small a model cannot copy.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parent.parent
GOOD = " Show every step."
MONEY = (r"\b(cost|much|money|dollars|pay|paid|spend|spent|earn|price|profit)\b", " Give the amount in dollars.")
TIME = (r"\b(hours?|minutes?|days?|weeks?|months?|years?|old|long|seconds)\b", " Name the unit of time.")
COUNT = (r"", " Count each group on its own.")
RECIPE = """
model: {model}
train: {train}
heldout: {heldout}
critic_url: {critic}
critic_model: judge
critic_concurrency: 16
max_length: 160
steps: {steps}
batch: 32
micro_batch: 32
learning_rate: 1.0e-3
warmup: 0.05
max_new_tokens: 64
report_prompts: 400
save_every: 50
eval_every: 200
logging_every: 25
threads: 1
license: apache-2.0
"""
CONFIG = """
state_dir = "{work}/state"
[server]
trace_content = true
[engine.main]
url = "{engine}"
model = "echo"
[engine.rewriter]
model = "{model}"
launcher = "transformers"
[rewriter.mine]
engine = "rewriter"
template = "bpo"
decoding = "greedy"
max_tokens = 64
timeout_s = 60.0
[policy.better]
engine = "main"
stages = ["bpo"]
budget_ms = 60000
[policy.better.bpo]
rewriter = "mine"
"""


def rule(prompt: str) -> str:
    """The rewrite that the critic gives."""
    if prompt.endswith(GOOD):
        return prompt
    return prompt + next(suffix for pattern, suffix in (MONEY, TIME, COUNT) if re.search(pattern, prompt.lower()))


def ending(text: str) -> str:
    return next((end for end in (GOOD, MONEY[1], TIME[1], COUNT[1]) if text.endswith(end)), "")


def draw(text: str) -> int:
    """A number from 0 to 999 that belongs to the text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 1000


def say(asked: str) -> str:
    """The critic. For 2 prompts in 100 it answers instead of rewriting, for 1 it forgets the marks."""
    from tests.trainers.scripted_critic import marked, parts

    prompt = parts(asked)[0]
    if draw(prompt) < 20:
        return marked("The answer is 42.")
    return "I would leave it." if draw(prompt) < 30 else marked(rule(prompt))


def write_pairs(data: Path, work: Path, heldout: int) -> None:
    """train.jsonl and heldout.jsonl: no question is in both."""
    import zstandard

    with (data / "gsm8k" / "train.jsonl.zst").open("rb") as file:
        stream = zstandard.ZstdDecompressor().stream_reader(file)
        rows = [json.loads(line) for line in io.TextIOWrapper(stream, "utf-8")]
    found: dict[str, str] = {}
    for row in rows:
        question = re.split(r"(?<=[.?!])\s+", row["question"].strip())[-1]
        if question.endswith("?") and len(question) <= 60:
            found.setdefault(question, re.sub(r"<<[^>]*>>", "", row["answer"]))
    names = sorted(found, key=lambda question: hashlib.sha256(question.encode()).digest())
    others = [found[name] for name in names[1:] + names[:1]]
    pairs = [
        {"prompt": name + GOOD if draw(name) >= 800 else name, "chosen": found[name], "rejected": other}
        for name, other in zip(names, others, strict=True)
    ]
    for part, of_part in (("heldout", pairs[:heldout]), ("train", pairs[heldout:])):
        text = "".join(json.dumps(pair) + "\n" for pair in of_part)
        (work / f"{part}.jsonl").write_text(text, encoding="utf-8")


def trimtab(*args: str) -> None:
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "serve.cli.command", *args], cwd=ROOT, check=True, env=environment())
    print(f"\n(trimtab {' '.join(args[:2])}: {time.monotonic() - started:.0f} s)\n", flush=True)


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@contextmanager
def served(config: Path, log: Path) -> Iterator[str]:
    """`trimtab serve` with that configuration, as soon as its engines are ready; its URL."""
    with log.open("w") as err:
        server = subprocess.Popen(
            [sys.executable, "-m", "serve.cli.command", "serve", "--config", str(config), "--port", "0"],
            stdout=subprocess.PIPE, stderr=err, text=True, cwd=ROOT, env=environment(),
        )  # fmt: skip
    assert server.stdout is not None
    try:
        url = server.stdout.readline().split()[-1]
        deadline = time.monotonic() + 300
        while httpx.get(url + "/readyz", timeout=30).status_code != 200:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=60)


def ask(url: str, rows: list[dict[str, Any]]) -> None:
    """Send held-out prompts through the policy; what reached the engine comes back, as it echoes."""
    same, outcomes, shown = 0, Counter[str](), dict[str, Any]()
    for row in rows:
        body = {"model": "echo", "messages": [{"role": "user", "content": row["prompt"]}]}
        answer = httpx.post(
            url + "/v1/chat/completions", json=body, headers={"x-trimtab-policy": "better"}, timeout=120
        )
        answer.raise_for_status()
        same += answer.json()["choices"][0]["message"]["content"] == row["served"]
        outcomes[answer.headers["x-trimtab-applied"]] += 1
        if answer.headers["x-trimtab-applied"].startswith("bpo=applied") and not shown:
            shown = httpx.get(f"{url}/v1/traces/{answer.headers['x-trimtab-trace']}", timeout=30).json()
    print(f"served: {same} of {len(rows)} prompts reached the engine as the report says; {dict(outcomes)}")
    if shown:
        detail = shown["stages"][0]["detail"]
        print(f"a trace:\n  before  {detail['before']}\n  after   {detail['after']}\n  verdict {detail['accepted']}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with gsm8k/train.jsonl.zst")
    parser.add_argument("--work", type=Path, required=True, help="folder for the run; kept")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--ask", type=int, default=40, help="held-out prompts sent through the server")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from tests.trainers.scripted_critic import ScriptedCritic

    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    write_pairs(args.data, work, 400)
    with ScriptedCritic(say) as critic:
        critic.failures = [503, (429, "retry-after: 0.5"), 500]
        recipe = work / "recipe.yaml"
        paths = {part: work / f"{part}.jsonl" for part in ("train", "heldout")}
        model = ROOT / "serve" / "models" / "trimtab-tiny"
        recipe.write_text(RECIPE.format(model=model, critic=critic.url, steps=args.steps, **paths))
        trimtab("train", "bpo", "--config", str(recipe), "--out", str(work / "run"))
        critic.failures = []
        if not (work / "rewriter").exists():
            trimtab("export", "--run", str(work / "run"), "--out", str(work / "rewriter"))
        run = json.loads((work / "run" / "run.json").read_text())
        print(json.dumps(run["data"]["counts"], indent=2))
        print(json.dumps({key: value for key, value in run["heldout"].items() if key != "loss"}, indent=2))
        config = work / "trimtab.toml"
        config.write_text(CONFIG.format(work=work, engine=critic.url, model=work / "rewriter"))
        rows = [json.loads(line) for line in (work / "run" / "report.jsonl").read_text().splitlines()]
        chosen = sum(ending(row["said"]) == ending(row["rewrite"]) for row in rows)
        copied = sum(row["said"].startswith(row["prompt"]) for row in rows)
        print(f"of {len(rows)} held-out prompts: right ending chosen {chosen}, whole prompt copied {copied}")
        with served(config, work / "serve.log") as url:
            ask(url, rows[: args.ask])
    return 0


if __name__ == "__main__":
    sys.exit(main())
