"""python benchmarks/endings.py --prompts question.jsonl: do a base model's answers end by themselves?

Sends each prompt to a running Trimtab (`trimtab serve`) under several policies at one decoding, greedy, **without any
stop**, so that what the model itself does shows: the prompt comes from /v1/explain and goes to /v1/completions. An
answer counts by what comes first in it:

    fence    the closing fence of its turn: it ended by itself, as the layout shows it
    eos      the end-of-text token
    marker   another turn's marker before its own fence was closed: it ran on
    limit    none of these within --max-tokens

Writes what was said to --out, a JSON line an answer.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import mean, median
from typing import Any

import httpx


def prompts(path: Path, count: int) -> list[str]:
    """The first turns of a JSONL in the form of MT-Bench and Vicuna (`turns`), or with `prompt` or `text`."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    return [row["turns"][0] if "turns" in row else row.get("prompt") or row["text"] for row in rows[:count]]


def how_it_ended(text: str, fence: str, markers: tuple[str, str], finish_reason: str) -> tuple[str, str]:
    """What ended the answer, and the answer up to there."""
    events = []
    if match := re.search(rf"(?:\A|\n){re.escape(fence)}+[ \t]*(?:\n|\Z)", text):
        events.append((match.start(), "fence"))
    for marker in markers:
        if match := re.search(rf"(?:\A|\n){re.escape(marker)}", text):
            events.append((match.start(), "marker"))
    if events:
        at, kind = min(events)
        return kind, text[:at]
    return ("limit" if finish_reason == "length" else "eos"), text


def ask(client: httpx.Client, prompt: str, policy: str, args: argparse.Namespace, model: str) -> dict[str, Any]:
    chat = {"messages": [{"role": "user", "content": prompt}], "trimtab": {"policy": policy}}
    shown = client.post("/v1/explain", json=chat).raise_for_status().json()
    body = {
        "model": model, "prompt": shown["text"], "max_tokens": args.max_tokens, "temperature": 0,
        "repetition_penalty": args.repetition_penalty,
    }  # fmt: skip
    started = time.monotonic()
    answer = client.post("/v1/completions", json=body).raise_for_status().json()
    choice, usage = answer["choices"][0], answer["usage"]
    kind, said = how_it_ended(choice["text"], "````", ("## Question", "## Answer"), choice["finish_reason"])
    return {
        "policy": policy, "prompt": prompt, "ended": kind, "answer": said, "raw": choice["text"],
        "prompt_tokens": usage["prompt_tokens"], "tokens": usage["completion_tokens"],
        "seconds": round(time.monotonic() - started, 2),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--policies", nargs="+", default=["urial-plain", "urial"])
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--repetition-penalty", type=float, default=1.15, help="the shipped profiles' own")
    parser.add_argument("--out", type=Path, default=Path("endings.jsonl"))
    args = parser.parse_args()
    rows = []
    with httpx.Client(base_url=args.url, timeout=600) as client, args.out.open("w", encoding="utf-8") as out:
        model = client.get("/v1/models").raise_for_status().json()["data"][0]["id"]
        asked = prompts(args.prompts, args.count)
        for i, prompt in enumerate(asked, 1):
            for policy in args.policies:
                rows.append(ask(client, prompt, policy, args, model))
                out.write(json.dumps(rows[-1], ensure_ascii=False) + "\n")
            print(f"\r{i}/{len(asked)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print(f"{model}, {len(asked)} prompts, greedy, at most {args.max_tokens} tokens, no stop sent\n")
    print(
        f"{'policy':<14} {'fence':>6} {'eos':>5} {'marker':>7} {'limit':>6} "
        f"{'chars mean':>11} {'median':>7} {'prompt tokens':>14}"
    )
    for policy in args.policies:
        mine = [row for row in rows if row["policy"] == policy]
        kinds = Counter(row["ended"] for row in mine)
        sizes = [len(row["answer"]) for row in mine]
        print(
            f"{policy:<14} {kinds['fence']:>6} {kinds['eos']:>5} {kinds['marker']:>7} {kinds['limit']:>6} "
            f"{mean(sizes):>11.0f} {median(sizes):>7.0f} {mean(r['prompt_tokens'] for r in mine):>14.0f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
