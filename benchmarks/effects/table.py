"""The effects table from what `run.py` has kept, finished or not: JSON, CSV, and the tables of a page of the docs.

    python -m benchmarks.effects.table --work DIR --out benchmarks/effects/results --page docs/effects.md

Asks no server. Cells that no run has filled are shown as an en dash. In the page, what stands between the comments
`effects:begin` and `effects:end` is written anew.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.effects.instructions import follows
from trainers.evaluation.arms.sampling import read_answer
from trainers.evaluation.core import Answer, Comparison, Estimate, Measure, Question
from trainers.evaluation.folder import question_of
from trainers.evaluation.likelihood.margin import MEASURES, by_length, measured, read_row
from trainers.evaluation.likelihood.pair_file import Pair, read_pairs
from trainers.evaluation.stats.compare import compare, levels

MODELS = {"chat": "SmolLM2-135M-Instruct", "base": "Gemma 3 270M (base)"}
BASELINE = {"chat": "raw", "base": "markers"}
PREFERENCE = ("pandalm", "hh")
LAW = ("law-bare", "law-rule", "law-wrong")
SETS = ("xstest", "instructions", "vicuna", "mt-bench", "bpo", "bpo-vicuna")
FOLLOWED = Measure("follows", "rate", "higher", "does everything that can be checked")
Cells = dict[str, dict[str, Any]]  # arm -> {"n", "level": {measure: Estimate}, "against": {measure: Comparison}}


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a JSONL file, without a last line that was cut off."""
    for line in path.read_bytes().split(b"\n")[:-1]:
        yield json.loads(line)


def of_pairs(folder: Path, baseline: str) -> dict[str, Any]:
    """Cells of the preference sets together and of each set, and what length alone says."""
    if not (folder / "scores.jsonl").is_file():
        return {}
    plan = json.loads((folder / "run.json").read_text("utf-8"))["plan"]
    pairs = {pair.id: pair for pair in read_pairs(plan["pairs"], plan["limit"], plan["sample"], plan["seed"])[0]}
    marks: dict[str, dict[str, dict[str, float]]] = {}
    for row in (read_row(raw)[1] for raw in lines(folder / "scores.jsonl")):
        if row.scores:
            marks.setdefault(row.arm, {})[row.pair] = measured(pairs[row.pair], row.scores)
    groups = {"preference": PREFERENCE} | {name: (name,) for name in (*PREFERENCE, *LAW)}
    out = {}
    for name, kinds in groups.items():
        some = [pair for pair in pairs.values() if pair.kind in kinds]
        out[name] = {"length": _length(some, marks.get(baseline, {})), "arms": _cells(some, marks, baseline)}
    return out


def _length(pairs: Sequence[Pair], scored: Mapping[str, Any]) -> dict[str, Any]:
    there = [pair for pair in pairs if pair.id in scored]
    return {name: asdict(value) for name, value in by_length(there).items()} if there else {}


def _cells(pairs: Sequence[Pair], marks: Mapping[str, Any], baseline: str) -> Cells:
    questions = [pair.question for pair in pairs]
    ids = {pair.id for pair in pairs}
    mine = {arm: {k: v for k, v in some.items() if k in ids} for arm, some in marks.items()}
    return cells(questions, {arm: [] for arm, some in mine.items() if len(some) > 1}, baseline, mine, MEASURES)


def cells(
    questions: Sequence[Question], answers: Mapping[str, Sequence[Answer]], baseline: str,
    extra: Mapping[str, Mapping[str, Mapping[str, float]]], described: Mapping[str, Measure],
) -> Cells:  # fmt: skip
    """What each arm is by itself, and against the baseline."""
    if baseline not in answers:
        return {}
    found: list[Comparison] = compare(questions, answers, baseline, extra, described=described)
    return {
        arm: {
            "n": len(extra.get(arm, {})) or len(some),
            "level": {
                name: asdict(value)
                for name, value in levels(questions, some, extra.get(arm, {}), described=described).items()
            },
            "against": {
                one.measure.name: {"difference": asdict(one.difference), "p": one.holm, "shown": one.significant}
                for one in found if one.arm == arm
            },
        } for arm, some in answers.items()
    }  # fmt: skip


def of_answers(folder: Path, work: Path, baseline: str) -> dict[str, Any]:
    """Cells of a set of answers."""
    if not (folder / "answers.jsonl").is_file():
        return {}
    questions = [question_of(row) for row in lines(folder / "questions.jsonl")]
    answers: dict[str, list[Answer]] = {}
    for answer in (read_answer(row)[1] for row in lines(folder / "answers.jsonl")):
        answers.setdefault(answer.arm, []).append(answer)
    extra: dict[str, dict[str, dict[str, float]]] = {}
    if folder.name == "instructions":
        checks = {row["id"]: row["check"] for row in lines(work / "questions/instructions.jsonl")}
        extra = {
            arm: {a.question: {"follows": float(follows(checks[a.question], a.text))} for a in some if a.status == "ok"}
            for arm, some in answers.items()
        }
    return {"arms": cells(questions, answers, baseline, extra, {"follows": FOLLOWED})}


def collected(work: Path) -> dict[str, Any]:
    """Everything there is, by model and set."""
    out: dict[str, Any] = {}
    for kind, model in MODELS.items():
        found = of_pairs(work / kind / "pairs", BASELINE[kind])
        found |= {name: told for name in SETS if (told := of_answers(work / kind / name, work, BASELINE[kind]))}
        out[kind] = {"model": model, "baseline": BASELINE[kind], "sets": found}
    return out


# ---------------------------------------------------------------- as text


def flat(found: Mapping[str, Any]) -> str:
    """CSV: a line for each model, set, arm and measure."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    head = [
        "model",
        "set",
        "arm",
        "measure",
        "n",
        "value",
        "low",
        "high",
        "difference",
        "diff_low",
        "diff_high",
        "p_holm",
    ]
    out.writerow(head)
    for kind in found.values():
        for name, told in kind["sets"].items():
            for arm, cell in told["arms"].items():
                for measure, value in cell["level"].items():
                    row = [value[key] for key in ("n", "value", "low", "high")]
                    if other := cell["against"].get(measure):
                        row += [*(other["difference"][key] for key in ("value", "low", "high")), other["p"]]
                    numbers = [f"{each:.5g}" if isinstance(each, float) else each for each in row]
                    out.writerow([kind["model"], name, arm, measure, *numbers])
    return text.getvalue()


def page(found: Mapping[str, Any]) -> str:
    """The tables in Markdown."""
    parts = []
    for kind in found.values():
        parts += [f"### {kind['model']}, against `{kind['baseline']}`", ""]
        parts += _answers_tables(kind["sets"])
        parts += _preference_table(kind["sets"]) + _law_table(kind["sets"])
    return "\n".join(parts).rstrip() + "\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    ruled = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return [*ruled, *("| " + " | ".join(row) + " |" for row in rows), ""]


def _preference_table(sets: Mapping[str, Any]) -> list[str]:
    told = sets.get("preference", {})
    if not told or not told["arms"]:
        return []
    rows = [
        [f"`{arm}`", str(cell["n"]), _percent(cell, "prefers_better"), _percent(cell, "prefers_better_per_token"),
         _change(cell, "margin_per_token", 3), _change(cell, "margin", 2)]
        for arm, cell in told["arms"].items()
    ]  # fmt: skip
    length = "; ".join(
        f"the {name} answer is the better one in {_share(told['length'][name])}" for name in told["length"]
    )
    heads = ("Arm", "Pairs", "Prefers the better, summed", "… per token", "Margin per token, change", "Margin, change")
    return [f"**Preference by likelihood** (PandaLM and HH-harmless together; {length})", "", *_table(heads, rows)]


def _law_table(sets: Mapping[str, Any]) -> list[str]:
    arms = list(dict.fromkeys(arm for name in LAW for arm in sets.get(name, {}).get("arms", {})))
    if not arms:
        return []
    rows = [
        [f"`{arm}`", *(_percent(sets[name]["arms"].get(arm, {}), "prefers_better") for name in LAW)] for arm in arms
    ]
    count = max(cell["n"] for name in LAW for cell in sets[name]["arms"].values())
    title = f"**A figure of a law, among four** (chance 25%; up to {count} questions a cell)"
    return [title, "", *_table(("Arm", "Without the rule", "With the rule", "Follows a wrong rule"), rows)]


_SHOWN = {
    "xstest": (("over_refusal", "Refuses the harmless"), ("wanted_refusal", "Refuses the harmful"),
               ("fences_balanced", "Fences balanced"), ("characters", "Characters"), ("prompt_tokens", "Prompt tokens"),
               ("total_s", "Seconds")),
    "instructions": (("follows", "Does what was asked"), ("characters", "Characters")),
}  # fmt: skip
_USUAL = (("clean_ending", "Clean ending"), ("fences_balanced", "Fences balanced"), ("language_matches", "Language"),
          ("characters", "Characters"))  # fmt: skip


def _answers_tables(sets: Mapping[str, Any]) -> list[str]:
    out = []
    for name in SETS:
        if not (told := sets.get(name, {})).get("arms"):
            continue
        shown = _SHOWN.get(name, _USUAL)
        rows = [
            [f"`{arm}`", str(cell["n"]), *(_cell(cell, measure) for measure, _ in shown)]
            for arm, cell in told["arms"].items()
        ]
        out += [f"**{name}**", "", *_table(("Arm", "Answers", *(head for _, head in shown)), rows)]
    return out


def _cell(cell: Mapping[str, Any], measure: str) -> str:
    if measure in ("characters", "prompt_tokens", "total_s"):
        value = cell.get("level", {}).get(measure)
        return f"{value['value']:,.{1 if measure == 'total_s' else 0}f}" if value else "–"
    return _percent(cell, measure)


def _percent(cell: Mapping[str, Any], measure: str) -> str:
    value = cell.get("level", {}).get(measure)
    if not value:
        return "–"
    other = cell["against"].get(measure)
    mark = "" if not other or not other["shown"] else (" ▲" if other["difference"]["value"] > 0 else " ▼")
    return _share(value) + mark


def _share(value: Mapping[str, float]) -> str:
    return f"{100 * value['value']:.0f}% ({100 * value['low']:.0f} to {100 * value['high']:.0f})"


def _change(cell: Mapping[str, Any], measure: str, digits: int) -> str:
    other = cell.get("against", {}).get(measure)
    if not other:
        return "–"
    value = Estimate(**other["difference"])
    mark = "" if not other["shown"] else (" ▲" if value.value > 0 else " ▼")
    return f"{value.value:+.{digits}f} ({value.low:+.{digits}f} to {value.high:+.{digits}f}){mark}"


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="a folder for results.json and results.csv")
    parser.add_argument("--page", type=Path, help="a Markdown file whose tables are written anew")
    args = parser.parse_args()
    found = collected(args.work)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    (args.out / "results.csv").write_text(flat(found), "utf-8")
    tables = page(found)
    if args.page:
        text = args.page.read_text("utf-8")
        new = f"<!-- effects:begin -->\n\n{tables}\n<!-- effects:end -->"
        text = re.sub(r"<!-- effects:begin -->.*<!-- effects:end -->", lambda _: new, text, flags=re.S)
        args.page.write_text(text, "utf-8")
    print(tables)


if __name__ == "__main__":
    main()
