"""What a run comes to: report.json for programs, report.html for people; the terminal's table is in `terminal.py`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from trainers.ask.journal import write_whole
from trainers.evaluation.core import Answer, Comparison, Measure, Question
from trainers.evaluation.judging.aspect_scores import Scores
from trainers.evaluation.judging.calibration import Calibration, warnings
from trainers.evaluation.measure.counts import absent, counts, missing
from trainers.evaluation.report.extremes import cases
from trainers.evaluation.report.page import Contents, page
from trainers.evaluation.report.terminal import table
from trainers.evaluation.report.wording import sentences, summary, word
from trainers.evaluation.stats.compare import compare_kinds
from trainers.evaluation.stats.preference import Preference
from trainers.judge.pairwise import Verdict

__all__ = ["SCHEMA", "document", "table", "write_report"]

SCHEMA = "trimtab-eval-report/1"
KINDS = 24  # more than these are no kinds, but labels


def write_report(
    folder: Path,
    run: Mapping[str, Any],
    questions: Sequence[Question],
    answers: Mapping[str, Sequence[Answer]],
    comparisons: Sequence[Comparison],
    calibration: Calibration | None = None,
    verdict_summary: Mapping[str, Preference] | None = None,
    *,
    verdicts: Mapping[str, Sequence[Verdict]] = {},
    scores: Scores | None = None,
    described: Mapping[str, Measure] = {},
) -> None:
    """report.json and report.html in `folder`, each whole or not at all.

    Args:
        run: what run.json holds: the arms, the sets with their hashes, the command; shown as it is.
        answers: by arm, the baseline among them.
        verdict_summary: `preference` of each arm. verdicts: the same one by one; the judge's words stand in the cases.
        scores: of `score_aspects`; its marks are compared by kind too. described: its measures.
    """
    it = contents(run, questions, answers, comparisons, calibration, verdict_summary or {}, verdicts, scores, described)
    told = json.dumps(document(it), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(folder / "report.json", told)
    write_whole(folder / "report.html", page(it))


def contents(
    run: Mapping[str, Any], questions: Sequence[Question], answers: Mapping[str, Sequence[Answer]],
    comparisons: Sequence[Comparison], calibration: Calibration | None, preferences: Mapping[str, Preference],
    verdicts: Mapping[str, Sequence[Verdict]], scores: Scores | None, described: Mapping[str, Measure],
) -> Contents:  # fmt: skip
    samples = run.get("fixed", run).get("samples", 1)
    split: dict[str, list[Comparison]] = {}
    if 1 < len({q.kind for q in questions}) <= KINDS and comparisons:
        marks = scores.marks if scores else {}
        split = compare_kinds(questions, answers, comparisons[0].baseline, marks, described=described)
    unread = ""
    if scores and (scores.unreadable or scores.refused):
        unread = f"Of {scores.asked:,} answers the judge gave {scores.unreadable:,} no marks that could be read"
        unread += f", and its engine refused {scores.refused:,}; they have none."
    back = counts(answers, len(questions) * samples) | absent(run.get("arms") or (), answers)
    return Contents(
        run, len(questions), back, comparisons, split,
        cases(questions, answers, comparisons, verdicts), preferences, calibration, unread,
    )  # fmt: skip


def document(it: Contents) -> dict[str, Any]:
    """report.json. Numbers that are no numbers are null."""
    return {
        "schema": SCHEMA,
        "summary": [
            line
            for said in summary(it.comparisons)
            for line in sentences(said, missing(it.arms, said.baseline, said.arm))
        ],
        "questions": it.questions,
        "arms": _plain(it.arms),
        "comparisons": [_comparison(c) for c in it.comparisons],
        "kinds": {kind: [_comparison(c) for c in found] for kind, found in it.kinds.items()},
        "judge": _plain(it.preferences),
        "calibration": it.calibration and {**_plain(it.calibration), "warnings": list(warnings(it.calibration))},
        "run": _plain(it.run),
    }


def _comparison(found: Comparison) -> dict[str, Any]:
    return {**_plain(found), "word": word(found)}


def _plain(what: Any) -> Any:
    """As JSON has it."""
    if is_dataclass(what) and not isinstance(what, type):
        what = asdict(what)
    if isinstance(what, Mapping):
        return {str(key): _plain(value) for key, value in what.items()}
    if isinstance(what, list | tuple):
        return [_plain(value) for value in what]
    if isinstance(what, float) and not math.isfinite(what):
        return None
    return what if isinstance(what, str | int | float | bool | None) else str(what)
