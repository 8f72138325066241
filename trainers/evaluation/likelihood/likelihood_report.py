"""What the scores of pairs come to: report.json, and the table on the terminal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainers.ask.journal import write_whole
from trainers.evaluation.core import Answer, Comparison, Estimate
from trainers.evaluation.likelihood.margin import MEASURES, Row, by_length, measured
from trainers.evaluation.likelihood.pair_file import Pair
from trainers.evaluation.report.terminal import table
from trainers.evaluation.report.wording import word
from trainers.evaluation.stats.compare import compare, compare_kinds, levels

SCHEMA = "trimtab-pairs-report/1"
KINDS = 24  # more than these are no kinds, but labels


def write_report(
    baseline: str, out: Path, told: Mapping[str, Any], pairs: Sequence[Pair], rows: Mapping[str, Sequence[Row]],
    seed: int,
) -> None:  # fmt: skip
    """report.json in the folder, and the table on the terminal."""
    by_id = {pair.id: pair for pair in pairs}
    marks = {
        arm: {row.pair: measured(by_id[row.pair], row.scores) for row in some if row.scores}
        for arm, some in rows.items()
    }
    marks = {arm: some for arm, some in marks.items() if some}
    if baseline not in marks or len(marks) < 2:
        print("nothing to compare: the baseline and one arm more must have scores")
        return
    questions = [pair.question for pair in pairs]
    comparisons = compare(questions, {arm: [] for arm in marks}, baseline, marks, described=MEASURES, seed=seed)
    found = document(baseline, told, pairs, rows, marks, comparisons, seed)
    write_whole(out / "report.json", json.dumps(found, indent=1, ensure_ascii=False, default=str) + "\n")
    print(table(comparisons, shutil.get_terminal_size((120, 24)).columns))
    length = by_length(pairs)
    told_of = ", ".join(
        f"the {name} answer {each.value:.1%} ({each.low:.1%} to {each.high:.1%})" for name, each in length.items()
    )
    print(f"by length alone, the better one is {told_of}")
    for arm, some in rows.items():
        if lost := [row.error for row in some if row.error]:
            print(f"arm {arm!r}: {len(lost)} pairs without a score; the first: {lost[0]}")
    print(f"report: {out / 'report.json'}")


def document(
    baseline: str, told: Mapping[str, Any], pairs: Sequence[Pair], rows: Mapping[str, Sequence[Row]],
    marks: Mapping[str, Mapping[str, Mapping[str, float]]], comparisons: Sequence[Comparison], seed: int,
) -> dict[str, Any]:  # fmt: skip
    """report.json. `marks`: arm -> pair -> measure -> value, of arms that have some."""
    questions = [pair.question for pair in pairs]
    empty: dict[str, list[Answer]] = {arm: [] for arm in marks}
    kinds = list(dict.fromkeys(question.kind for question in questions))
    several = 1 < len(kinds) <= KINDS
    split = compare_kinds(questions, empty, baseline, marks, described=MEASURES, seed=seed) if several else {}
    parts = {kind: [pair for pair in pairs if pair.kind == kind] for kind in kinds} if several else {}
    return {
        "schema": SCHEMA, "baseline": baseline, "pairs": len(pairs),
        "length": {kind: _estimates(by_length(some)) for kind, some in {"": pairs, **parts}.items()},
        "arms": {
            arm: {
                "scored": len(marks.get(arm, {})), "refused": [row.error for row in some if row.error][:5],
                "levels": _levels(pairs, marks.get(arm, {}), seed),
                "kinds": {kind: _levels(part, marks.get(arm, {}), seed) for kind, part in parts.items()},
            } for arm, some in rows.items()
        },
        "comparisons": _told(comparisons),
        "kinds": {kind: _told(some) for kind, some in split.items()},
        "run": told,
    }  # fmt: skip


def _told(some: Sequence[Comparison]) -> list[dict[str, Any]]:
    return [asdict(one) | {"word": word(one)} for one in some]


def _estimates(some: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: asdict(estimate) for name, estimate in some.items()}


def _levels(pairs: Sequence[Pair], marks: Mapping[str, Mapping[str, float]], seed: int) -> dict[str, Any]:
    return _estimates(levels([pair.question for pair in pairs], [], marks, described=MEASURES, seed=seed))
