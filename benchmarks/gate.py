"""python -m benchmarks.gate --data DIR: how well does the gate of BPO tell harm from help?

Judges every labelled case of `gate_cases` (plain edit rules over our own prompts and, with --data, over BPO's test
sets) and prints, for the half that the gate was not tuned on, per rule:

    recall      of the cases that this rule has to catch, how many were rejected for a reason that the edit gives
    precision   of the verdicts that name this rule, how many were on cases whose edit gives it a reason

and 30 cases where the gate is wrong, of that half and of the ones written by hand (`tests/data/gate/written.jsonl`;
`hard.jsonl`, which the rules on names, units and opposites were made for, and which holds what no rule on the surface
can see; `unseen.jsonl`, written before the rules that lay the texts side by side; `reworded.jsonl`, good rewrites in
words of their own; `later.jsonl`, written after those rules, which were not changed for it). With --embedder NAME
instead: how similar good rewrites, rewrites of another prompt and the hand-written harmful ones are to the prompt, by
language, for the threshold of the rule `meaning`. --half tune shows the other half; --half all both.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gate_cases import OWN, Case, cases
from prompt_opt.gate.verdict import RULES, Verdict, judge

Judged = tuple[Case, Verdict]
HAND = ("written.jsonl", "hard.jsonl", "unseen.jsonl", "reworded.jsonl", "later.jsonl")


def right(case: Case, verdict: Verdict) -> bool:
    """Whether the verdict is right, and for a reason that the edit gives."""
    return verdict.accepted if not case.rule else verdict.rule in (case.rule, *case.also)


def table(judged: Sequence[Judged]) -> list[tuple[str, int, float, int, float]]:
    """(rule, cases, recall, verdicts, precision), and the same for the good cases as "good"."""
    rows = []
    for rule in (*RULES, ""):
        mine = [(c, v) for c, v in judged if c.rule == rule]
        named = [(c, v) for c, v in judged if v.rule == rule]
        recall = sum(right(c, v) for c, v in mine) / len(mine) if mine else float("nan")
        if rule:
            precision = sum(rule in (c.rule, *c.also) for c, _ in named) / len(named) if named else float("nan")
        else:
            precision = sum(not c.rule for c, _ in named) / len(named) if named else float("nan")
        rows.append((rule or "good", len(mine), recall, len(named), precision))
    return rows


def by_hand(name: str) -> list[Case]:
    """The cases of one file written by hand; any reason is right for these."""
    rows = [json.loads(line) for line in (OWN.parent / name).read_text("utf-8").splitlines()]
    return [
        Case(name, row.get("mode", "replace"), "", "report", row["prompt"], row["rewrite"], row["rule"]) for row in rows
    ]


def let_through(name: str, judged: Sequence[Judged]) -> None:
    """How much harm was accepted, and how much good rejected."""
    harm, good = [v for c, v in judged if c.rule], [v for c, v in judged if not c.rule]
    accepted, rejected = sum(v.accepted for v in harm), sum(not v.accepted for v in good)
    print(f"\n{name}: {accepted} of {len(harm)} harmful accepted, {rejected} of {len(good)} good rejected", end="")


def show(judged: Sequence[Judged], count: int) -> None:
    """Cases where the gate is wrong, harm let through first."""
    wrong = [(c, v) for c, v in judged if not right(c, v)]
    random.Random(7).shuffle(wrong)
    wrong.sort(key=lambda row: (not row[1].accepted, row[0].rule != ""))
    print(f"\n\n{len(wrong)} wrong; {min(count, len(wrong))} of them:")
    for case, verdict in wrong[:count]:
        said = "accepted" if verdict.accepted else f"{verdict.rule} ({verdict.detail})"
        print(f"\n[{case.language} {case.mode} {case.edit}] should be {case.rule or 'accepted'}, was {said}")
        print(f"    prompt   {case.prompt[:300]!r}\n    rewrite  {case.rewrite[:300]!r}")


def similarities(name: str, chosen: Sequence[Case]) -> None:
    """For each language and threshold, the share of texts below it."""
    from retrieval.embedding.embedder import load

    embedder = load(name)
    rng = random.Random(7)
    hand = [case for name in HAND for case in by_hand(name) if case.mode == "replace"]
    rows: list[tuple[str, str, str, str]] = []  # language, kind, prompt, rewrite
    for language in dict.fromkeys(c.language for c in chosen):
        good = [c for c in chosen if c.language == language and c.mode == "replace" and not c.rule]
        good = rng.sample(good, min(200, len(good)))
        rows += [(language, "good", c.prompt, c.rewrite) for c in good]
        rows += [
            (language, "another's", c.prompt, o.rewrite) for c in good if (o := rng.choice(good)).prompt != c.prompt
        ]
    rows += [("by hand", "harmful" if c.rule else "good", c.prompt, c.rewrite) for c in hand]
    texts = list({text for row in rows for text in row[2:]})
    vectors = dict(zip(texts, embedder.queries(texts), strict=True))
    found: dict[tuple[str, str], list[float]] = {}
    for language, kind, one, other in rows:
        if one != other:
            found.setdefault((language, kind), []).append(float(vectors[one] @ vectors[other]))
    marks = [0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    print(f"{'share below':<22}{'pairs':>7}" + "".join(f"{mark:>7}" for mark in marks))
    for (language, kind), values in sorted(found.items()):
        shares = "".join(f"{sum(v < mark for v in values) / len(values):>7.3f}" for mark in marks)
        print(f"{language + ', ' + kind:<22}{len(values):>7}{shares}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with self_instruct_eval.json and vicuna_eval.jsonl")
    parser.add_argument("--half", choices=("tune", "report", "all"), default="report")
    parser.add_argument("--wrong", type=int, default=30, metavar="N", help="cases to show")
    parser.add_argument("--embedder", metavar="NAME", help="measure the threshold of the rule meaning, with this model")
    args = parser.parse_args()
    chosen = [case for case in cases(args.data) if args.half in ("all", case.half)]
    if args.embedder:
        similarities(args.embedder, chosen)
        return 0
    started = time.monotonic()
    judged = [(case, judge(case.prompt, case.rewrite, case.mode)) for case in chosen]
    seconds = time.monotonic() - started
    languages = ", ".join(f"{n} {name}" for name, n in Counter(c.language for c in chosen).most_common())
    print(f"half {args.half}: {len(chosen)} cases ({languages}), {seconds / len(chosen) * 1000:.2f} ms each\n")
    print(f"{'rule':<14}{'cases':>7}{'recall':>9}{'verdicts':>10}{'precision':>11}")
    for rule, count, recall, named, precision in table(judged):
        print(f"{rule:<14}{count:>7}{recall:>9.3f}{named:>10}{precision:>11.3f}")
    let_through("by edits", judged)
    hand = [(case, judge(case.prompt, case.rewrite, case.mode)) for name in HAND for case in by_hand(name)]
    for name in HAND:
        let_through(name, [(c, v) for c, v in hand if c.edit == name])
    show([*judged, *((c, v) for c, v in hand if v.accepted != (c.rule == ""))], args.wrong)
    return 0


if __name__ == "__main__":
    sys.exit(main())
