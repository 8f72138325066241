"""python -m benchmarks.gate_additions --file FILE: which harmful rewrites pass the gate, which good ones do not?

Judges labelled rewrites (JSON lines with language, kind, harmful, prompt, rewrite and perhaps mode) by the whole gate,
per kind and language. `trainers/gate/rewrites/*.jsonl` are what the model learned from, so its figures on them
say nothing; `trimtab train gate` prints what it reaches on writers left out. Needs trimtab[multilingual] for
--additions model.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from prompt_opt.gate.verdict import Additions, Verdict, judge
from trainers.gate.examples import LANGUAGES, Labelled, read

Judged = tuple[Labelled, Verdict, float]  # case, verdict, seconds


def judged(rows: Sequence[Labelled], model: bool) -> list[Judged]:
    """Each case with its verdict; a prompt is embedded beforehand, as it is while a rewriter writes."""
    additions: Additions | None = None
    if model:
        from serve.chat.rewriters import trained_judge

        additions = scorer = trained_judge()
    judge("Why is that so?", "Why is that so? Give reasons.", additions=additions)  # what is compiled once
    out = []
    for row in rows:
        if model:
            scorer.prepare(row.prompt)
        started = time.perf_counter()
        verdict = judge(row.prompt, row.rewrite, row.mode, additions=additions)
        out.append((row, verdict, time.perf_counter() - started))
    return out


def table(found: Sequence[Judged], harmful: bool) -> None:
    """Per kind and language, how many were judged wrong."""
    wrong, of = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for row, verdict, _ in found:
        if row.harmful == harmful:
            for cell in ((row.kind, row.language), (row.kind, ""), ("all", row.language), ("all", "")):
                of[cell] += 1
                wrong[cell] += verdict.accepted == harmful
    title = "harmful accepted" if harmful else "good rejected"
    print(f"\n{title:<18}" + "".join(f"{name:>8}" for name in LANGUAGES) + "     all")
    for kind in [*dict.fromkeys(kind for kind, _ in of if kind != "all"), "all"]:
        cells = [f"{wrong[kind, name]}/{of[kind, name]}" for name in LANGUAGES]
        share = wrong[kind, ""] / of[kind, ""]
        print(f"{kind:<18}" + "".join(f"{cell:>8}" for cell in cells) + f"{share:>8.1%}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--additions", choices=("exact", "model"), default="model", help="who judges (default: model)")
    parser.add_argument("--wrong", action="store_true", help="show the cases that are judged wrong")
    args = parser.parse_args()
    found = judged(read(args.file), args.additions == "model")
    table(found, harmful=True)
    table(found, harmful=False)
    took = sorted(seconds * 1000 for _, _, seconds in found)
    print(f"\na verdict: median {statistics.median(took):.1f} ms, 95% below {took[int(0.95 * len(took))]:.1f} ms")
    for row, verdict, _ in found if args.wrong else ():
        if verdict.accepted == row.harmful:
            why = f"{verdict.rule} ({verdict.detail})" if verdict.rule else "accepted"
            print(f"\n[{row.language} {row.kind} {row.mode}] {why}\n    {row.prompt}\n    {row.rewrite}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
