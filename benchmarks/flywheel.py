"""python -m benchmarks.flywheel --out DIR --gguf FILE: does the flywheel turn, and does it survive kill -9?

Runs `trimtab train flywheel` on docs/examples/flywheel: SmolLM2-135M-Instruct's GGUF file, 36 questions, 48 held out,
and a rule that wants 8 to 25 words that end properly. `--small` takes the embedded model, three questions and a rule
that wants short answers: a minute, and nothing is learned. `--kills N` kills the run N times with SIGKILL at random
moments before it is left to end, and checks that every answer was kept once and that no process was left behind.

What it does not cover: whether the answers are right. The rule cannot tell, and DPO on it does not care.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "docs/examples/flywheel"
# What a CPU trains in minutes: an adapter on the attention alone, a few steps at a high rate.
REAL = [
    "lora_rank=16", "lora_alpha=32", "lora_targets=[q_proj,k_proj,v_proj,o_proj]", "learning_rate=1e-3", "batch=4",
    "micro_batch=4", "steps=8", "heldout_fraction=0.0", "max_length=256", "packing=prompt", "threads=1", "report_to=[]",
]  # fmt: skip
SMALL = ["lora_rank=2", "steps=2", "batch=2", "micro_batch=2", "heldout_fraction=0.0", "threads=1", "report_to=[]"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; the same one resumes")
    parser.add_argument("--gguf", type=Path, help="SmolLM2-135M-Instruct as a GGUF file")
    parser.add_argument("--small", action="store_true", help="the embedded model, three questions")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="kill the run so often first")
    options = parser.parse_args()
    if not options.small and not options.gguf:
        parser.error("give --gguf FILE, or --small")
    keys = small(options.out) if options.small else real(options.gguf)
    keys["rounds"] = options.rounds
    began = time.monotonic()
    for number in range(options.kills):
        print(f"kill {number + 1}: {killed(options.out, keys, random.Random(number).uniform(1, 30))}", flush=True)
    status = subprocess.run(command(options.out, keys), cwd=ROOT, check=False).returncode
    print(f"{time.monotonic() - began:.0f} s")
    return status or checked(options.out)


def real(gguf: Path) -> dict[str, object]:
    return {
        "model": gguf.resolve(), "questions": EXAMPLE / "questions.jsonl", "heldout": EXAMPLE / "heldout.jsonl",
        "rule": f"{EXAMPLE / 'rule.py'}:short_and_whole", "samples": 4, "temperature": 0.9, "max_tokens": 80,
        "changes": json.dumps(REAL),
    }  # fmt: skip


def small(out: Path) -> dict[str, object]:
    """The embedded model, with the chat template that the trainers have for it; its recipe's keys."""
    folder = out.resolve() / "material"
    if not folder.is_dir():
        folder.mkdir(parents=True)
        shutil.copytree(ROOT / "serve/models/trimtab-tiny", folder / "model")
        shutil.copy(ROOT / "trainers/templates/dialogue.jinja", folder / "model/chat_template.jinja")
        texts = ("What is a library?", "How do I boil an egg?", "Why is sleep important?")
        (folder / "asked.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts), "utf-8")
        (folder / "rule.py").write_text("def short(messages, answer):\n    return -float(len(answer))\n", "utf-8")
    asked = folder / "asked.jsonl"
    return {
        "model": folder / "model", "questions": asked, "heldout": asked, "rule": f"{folder / 'rule.py'}:short",
        "samples": 8, "max_tokens": 200, "changes": json.dumps(SMALL),
    }  # fmt: skip


def command(out: Path, keys: dict[str, object]) -> list[str]:
    sets = [part for key, value in keys.items() for part in ("--set", f"{key}={value}")]
    start = [sys.executable, "-m", "serve.cli.command", "train", "flywheel", "--config", "flywheel"]
    return [*start, "--out", str(out.resolve()), *sets]


def killed(out: Path, keys: dict[str, object], after_s: float) -> str:
    """Start the run and kill it; what it was at."""
    child = subprocess.Popen(command(out, keys), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        child.wait(after_s)
        return "it had ended before"
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGKILL)
        child.wait()
    newest = max((p for p in out.glob("round-*/*") if p.name != "state"), key=lambda p: p.stat().st_mtime, default=out)
    return f"after {after_s:.1f} s, at {newest.relative_to(out.parent)}"


def checked(out: Path) -> int:
    """Every answer once, and no process of the run left; 1 where it is not so."""
    faults = []
    for path in sorted(out.glob("round-*/answers.jsonl")):
        names = [json.loads(line)["key"] for line in path.read_text("utf-8").splitlines()]
        print(f"{path.relative_to(out)}: {len(names)} answers, {len(set(names))} of them different")
        faults += [f"{path}: an answer stands twice"] if len(names) != len(set(names)) else []
    ours = {p.pid for p in (psutil.Process(), *psutil.Process().parents())}
    named = [p for p in psutil.process_iter(["cmdline"]) if str(out.resolve()) in " ".join(p.info["cmdline"] or ())]
    faults += [f"process {p.pid} is left" for p in named if p.pid not in ours]
    print("\n".join(faults) or "no answer twice, no process left")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
