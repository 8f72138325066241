"""python -m benchmarks.gate_additions: what harmful additions does the rewrite gate accept, what good ones reject?

Judges tests/data/gate/additions: ten kinds of harm and ten of good in five languages, written by hand before the model
was trained and split by prompt. The dev half chose the threshold and what the generator of the training edits makes;
the test half is for the figures. `fresh` was written later by somebody who had seen neither the training nor the other
halves: whole rewrites of six kinds of harm and six of good. Needs trimtab[multilingual] for --additions model.

    --additions exact|model   who judges additions (default: model)
    --half dev|test|fresh     (default: test)
    --wrong                   show the cases that are judged wrong
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from prompt_opt.gate.verdict import Additions, Verdict, judge

DATA = Path(__file__).parent.parent / "tests" / "data" / "gate" / "additions"
LANGUAGES = ("en", "de", "fr", "es", "zh")
Judged = tuple[dict[str, Any], Verdict, float]  # case, verdict, seconds


def trained() -> Additions:
    """The judge that additions = "model" names."""
    from prompt_opt.gate.scorer import EMBEDDER, Scorer
    from retrieval.embedding.embedder import load

    return Scorer(load(EMBEDDER, threads=1).queries)


def judged(rows: list[dict[str, Any]], additions: Additions | None) -> list[Judged]:
    """Each case with its verdict."""
    out = []
    for row in rows:
        started = time.perf_counter()
        verdict = judge(row["prompt"], row["rewrite"], row["mode"], additions=additions)
        out.append((row, verdict, time.perf_counter() - started))
    return out


def table(found: list[Judged], good: bool) -> None:
    """Per kind and language, how many were judged wrong."""
    wrong, of = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for row, verdict, _ in found:
        if row["good"] == good:
            for cell in ((row["kind"], row["language"]), (row["kind"], ""), ("all", row["language"]), ("all", "")):
                of[cell] += 1
                wrong[cell] += verdict.accepted != good
    print(
        f"\n{'good rejected' if good else 'harmful accepted':<18}"
        + "".join(f"{name:>8}" for name in LANGUAGES)
        + "     all"
    )
    for kind in [*dict.fromkeys(kind for kind, _ in of if kind != "all"), "all"]:
        cells = [f"{wrong[kind, name]}/{of[kind, name]}" for name in LANGUAGES]
        share = wrong[kind, ""] / of[kind, ""]
        print(f"{kind:<18}" + "".join(f"{cell:>8}" for cell in cells) + f"{share:>8.1%}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--additions", choices=("exact", "model"), default="model")
    parser.add_argument("--half", choices=("dev", "test", "fresh"), default="test")
    parser.add_argument("--wrong", action="store_true")
    args = parser.parse_args()
    rows = [json.loads(line) for line in (DATA / f"{args.half}.jsonl").read_text("utf-8").splitlines()]
    additions = trained() if args.additions == "model" else None
    judge("Why is that so?", "Why is that so? Give reasons.", additions=additions)  # what is compiled once
    found = judged(rows, additions)
    table(found, good=False)
    table(found, good=True)
    took = sorted(seconds * 1000 for _, _, seconds in found)
    print(f"\na verdict: median {statistics.median(took):.1f} ms, 95% below {took[int(0.95 * len(took))]:.1f} ms")
    for row, verdict, _ in found if args.wrong else ():
        if verdict.accepted != row["good"]:
            why = f"{verdict.rule} ({verdict.detail})" if verdict.rule else "accepted"
            print(f"\n[{row['language']} {row['kind']} {row['mode']}] {why}\n    {row['prompt']}\n    {row['rewrite']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
