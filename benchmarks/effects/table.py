"""The effects table from what `run.py` has kept, finished or not: JSON, CSV, and the tables of a page of the docs.

    python -m benchmarks.effects.table --work DIR --out benchmarks/effects/results --page docs/effects.md

Asks no server. A set that --work does not hold stays as an earlier run left it in results.json; cells that no run has
filled are shown as an en dash. In the page, what stands between the comments `effects:begin` and `effects:end` is
written anew.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.effects.cells import LAW, SETS, collected
from trainers.evaluation.core import Estimate

FEWEST = 10  # answers of an arm, without which a set is not shown


def merged(earlier: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """What was found, and every set of an earlier run that this one has not asked."""
    return {kind: told | {"sets": earlier.get(kind, {}).get("sets", {}) | told["sets"]} for kind, told in found.items()}


def flat(found: Mapping[str, Any]) -> str:
    """CSV: a line for each model, set, arm and measure."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow([
        "model", "set", "arm", "measure", "n", "value", "low", "high", "difference", "diff_low", "diff_high", "p_holm",
    ])  # fmt: skip
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
               ("declines_harmless", "Declines the harmless"), ("declines_harmful", "Declines the harmful"),
               ("clean_ending", "Clean ending"), ("fences_balanced", "Fences balanced"), ("characters", "Characters"),
               ("prompt_tokens", "Prompt tokens")),
    "instructions": (("follows", "Does what was asked"), ("characters", "Characters")),
}  # fmt: skip
_USUAL = (("clean_ending", "Clean ending"), ("fences_balanced", "Fences balanced"), ("language_matches", "Language"),
          ("characters", "Characters"))  # fmt: skip


def _answers_tables(sets: Mapping[str, Any]) -> list[str]:
    out = []
    for name in SETS:
        told = sets.get(name, {})
        if not told.get("arms") or max(cell["n"] for cell in told["arms"].values()) < FEWEST:
            continue
        shown = _SHOWN.get(name, _USUAL)
        rows = [
            [f"`{arm}`", str(cell["n"]), *(_cell(cell, measure) for measure, _ in shown)]
            for arm, cell in told["arms"].items()
        ]
        out += [f"**{name}**", "", *_table(("Arm", "Answers", *(head for _, head in shown)), rows)]
    return out


def _cell(cell: Mapping[str, Any], measure: str) -> str:
    if measure in ("characters", "prompt_tokens"):
        value = cell.get("level", {}).get(measure)
        return f"{value['value']:,.0f}" if value else "–"
    return _percent(cell, measure)


def _percent(cell: Mapping[str, Any], measure: str) -> str:
    value = cell.get("level", {}).get(measure)
    if not value:
        return "–"
    other = cell["against"].get(measure)
    return _share(value) + (_mark(other) if other else "")


def _mark(other: Mapping[str, Any]) -> str:
    """Which way a difference goes that holds after Holm's correction; "" for any other."""
    return "" if not other["shown"] else " ▲" if other["difference"]["value"] > 0 else " ▼"


def _share(value: Mapping[str, float]) -> str:
    return f"{100 * value['value']:.0f}% ({100 * value['low']:.0f} to {100 * value['high']:.0f})"


def _change(cell: Mapping[str, Any], measure: str, digits: int) -> str:
    other = cell.get("against", {}).get(measure)
    if not other:
        return "–"
    value = Estimate(**other["difference"])
    return f"{value.value:+.{digits}f} ({value.low:+.{digits}f} to {value.high:+.{digits}f}){_mark(other)}"


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="a folder for results.json and results.csv")
    parser.add_argument("--page", type=Path, help="a Markdown file whose tables are written anew")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    kept = args.out / "results.json"
    found = merged(json.loads(kept.read_text("utf-8")) if kept.is_file() else {}, collected(args.work))
    kept.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
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
