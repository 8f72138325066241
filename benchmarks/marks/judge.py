"""python -m benchmarks.marks.judge [--errors]: how well citations are checked, on labelled answers.

Real answers (`answers.jsonl`, from two small models, with `labels.tsv` written by reading them) and written ones. Half
of each was there to tune on (even numbers; real ones by the checksum of their id), the other half only measured.
Precision and recall are of single findings: a rule cited, a mark unknown, a rule altered or quoted without its mark.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks.marks.written import Answer
from benchmarks.marks.written import answers as written
from prompt_opt.citation.marks import Rules
from prompt_opt.citation.report import report
from prompt_opt.citation.scanner import Scanner
from prompt_opt.core import Principle

HERE = Path(__file__).parent
KINDS = ("cited", "unknown", "altered", "unmarked")


def real() -> Iterator[Answer]:
    """The models' answers with their labels; an answer without labels is left out."""
    topics = json.loads((HERE / "rules.json").read_text("utf-8"))
    labels = {}
    for line in (HERE / "labels.tsv").read_text("utf-8").splitlines():
        ident, *columns = line.split("\t")
        labels[ident] = [frozenset(column.split(";")) - {""} for column in columns]
    for line in (HERE / "answers.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        if row["id"] in labels:
            shown = topics[row["id"].split("/")[1].split("-")[0]]
            rules = tuple(Principle(rule["id"], rule["text"], rule["title"], index="law") for rule in shown)
            yield Answer(row["id"], rules, row["answer"], *labels[row["id"]])


def found(answer: Answer) -> dict[str, frozenset[str]]:
    """What the checker finds in an answer."""
    rules = Rules(answer.rules)
    scanner = Scanner(rules)
    scanner.feed(answer.text)
    scanner.close()
    said = report(rules, scanner.text, scanner.marks)
    return {
        "cited": frozenset(rule.id for rule in said.cited), "unknown": frozenset(said.unknown),
        "altered": frozenset(it.rule.id for it in said.altered),
        "unmarked": frozenset(rule.id for rule in said.unmarked),
    }  # fmt: skip


def to_tune(answer: Answer) -> bool:
    """Whether the answer is of the half to tune on."""
    number = answer.id.rpartition("-")[2]
    return (zlib.crc32(answer.id.encode()) if "/" in answer.id else int(number)) % 2 == 0


def measure(name: str, answers: list[Answer], errors: bool) -> None:
    """Print precision and recall of each kind."""
    counts: Counter[tuple[str, str]] = Counter()
    for answer in answers:
        got = found(answer)
        for kind in KINDS:
            want, have = getattr(answer, kind), got[kind]
            counts[kind, "right"] += len(want & have)
            counts[kind, "false"] += len(have - want)
            counts[kind, "missed"] += len(want - have)
            if errors and want != have:
                print(f"  {answer.id} {kind}: false {sorted(have - want)}, missed {sorted(want - have)}")
    cells = []
    for kind in KINDS:
        right, false, missed = (counts[kind, each] for each in ("right", "false", "missed"))
        precision = f"{right / (right + false):.3f}" if right + false else "-"
        recall = f"{right / (right + missed):.3f}" if right + missed else "-"
        cells.append(f"{kind} {precision}/{recall} of {right + missed}")
    print(f"{name}, {len(answers)} answers: " + ", ".join(cells))


def main() -> None:
    errors = "--errors" in sys.argv
    for name, rows in (("real", list(real())), ("written", list(written()))):
        measure(f"{name}, to tune on", [row for row in rows if to_tune(row)], errors)
        measure(f"{name}, held out", [row for row in rows if not to_tune(row)], errors)


if __name__ == "__main__":
    main()
