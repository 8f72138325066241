"""What came back and what it cost, and all that it takes to do it again."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from trainers.evaluation.measure.counts import ArmCounts
from trainers.evaluation.report.page.contents import Contents
from trainers.evaluation.report.page.markup import Html, facts, joined, number, table, tag
from trainers.evaluation.report.page.plots import stack
from trainers.evaluation.report.wording import count, seconds

MOST_OF_RUN = 20_000  # characters of run.json
_COUNTED = ("name", "wanted", "answered", "refused", "failed")  # of an arm; they stand in a table of their own
LEFT_OUT = """Left out: answers to questions that another arm did not answer; a comparison counts what both arms did."""
COST = """Tokens are sums of what the engines reported. Times are the median, and what nine in ten answers stayed under,
as this run met them; the differences and their intervals stand under Effects."""


def answers(it: Contents) -> Html:
    """What came back of each arm, and what it cost."""
    heads = ("Asked", "Answered", "Refused by the engine", "Failed", "Left out")
    rows = [
        _row(arm, heads, [(count(n), "") for n in (c.asked, c.answered, c.refused, c.failed, c.left_out)])
        for arm, c in it.arms.items()
    ]
    out = [_table("What came back", heads, rows), tag("p", LEFT_OUT, class_="note")]
    wrong = [
        tag("li", tag("b", arm), f" {n:,} × ", tag("code", text))
        for arm, c in it.arms.items()
        for text, n in c.errors.items()
    ]
    out += [tag("ul", wrong, class_="notes wrong")] if wrong else []
    out += [tag("p", str(note), class_="note") for note in it.run.get("notes") or ()]
    staged = [_stage(arm, stage, found) for arm, c in it.arms.items() for stage, found in c.stages.items()]
    out += [_table("What the stages did", ("", "Outcomes"), staged)] if staged else []
    heads = ("Prompt tokens", "Cached", "Answer tokens", "First token", "Whole answer")
    rows = [_row(arm, heads, _cost(c)) for arm, c in it.arms.items()]
    return joined(out, _table("What it cost", heads, rows), tag("p", COST, class_="note"))


def _table(name: str, heads: Sequence[str], rows: Sequence[Html]) -> Html:
    return table(name, [("Arm", ""), *((head, "number") for head in heads)], rows, "counts")


def _row(arm: str, heads: Sequence[str], cells: Sequence[tuple[str, str]]) -> Html:
    figures = [number(head, text, below) for head, (text, below) in zip(heads, cells, strict=True)]
    return tag("tr", tag("th", arm, scope="row"), figures)


def _stage(arm: str, stage: str, found: dict[str, int] | Any) -> Html:
    looks = [("better" if o.startswith("applied") else "worse" if o.startswith(("failed", "timed")) else "split", n)
             for o, n in found.items()]  # fmt: skip
    told = ", ".join(f"{outcome} {n:,}" for outcome, n in found.items())
    return tag("tr", tag("th", arm, " ", tag("small", stage), scope="row"), tag("td", stack(looks), class_="plot"),
               tag("td", told, data_name="Outcomes", class_="outcomes"))  # fmt: skip


def _cost(c: ArmCounts) -> list[tuple[str, str]]:
    tokens = [
        (count(found[0]), f"{count(found[0] / found[1])} an answer") if found else ("–", "")
        for found in (c.prompt_tokens, c.completion_tokens)
    ]
    times = [(seconds(t[0]), f"90%: {seconds(t[1])}") if t else ("–", "") for t in (c.first, c.whole)]
    return [tokens[0], (f"{c.cached:.0%}" if c.cached is not None else "–", ""), tokens[1], *times]


# ---------------------------------------------------------------- how it was made


def made(it: Contents) -> Html:
    """The command, the sets with their hashes, versions, and run.json."""
    run, out = it.run, []
    if command := run.get("command"):
        text = " ".join(_shell(str(part)) for part in command) if isinstance(command, list) else str(command)
        out.append(tag("div", tag("h3", "Run it again"), tag("pre", tag("code", text), tabindex="0"), class_="panel"))
    given = run.get("arms") or {}
    arms = {str(row.get("name", i)): row for i, row in enumerate(given)} if isinstance(given, list) else given
    cards = []
    for name, row in arms.items():
        told = facts({_name(k): _fact(v) for k, v in row.items() if k not in _COUNTED and v})
        cards.append(tag("div", tag("h3", name), told, class_="panel"))
    out += [tag("div", cards, class_="arms")] if cards else []
    fixed = run.get("fixed", run)
    if prompts := fixed.get("prompts"):
        keys = ("file", "form", "questions", "sha256")
        rows = [
            tag("tr", tag("th", name, scope="row"), [
                tag("td", _fact(row.get(k)), data_name=_name(k), class_="code" if k == "sha256" else None) for k in keys
            ])
            for name, row in prompts.items()
        ]  # fmt: skip
        out.append(table("Prompts", [("Set", ""), *((_name(k), "") for k in keys)], rows, "counts"))
    out.append(
        facts(
            {
                _name(k): _fact(fixed[k])
                for k in ("seed", "samples", "sample", "limit")
                if fixed.get(k) or (k == "seed" and k in fixed)
            }
        )
    )
    kept = json.dumps(run, indent=1, ensure_ascii=False, default=str)
    kept = kept if len(kept) <= MOST_OF_RUN else kept[:MOST_OF_RUN] + "\n… the rest is in run.json"
    out.append(tag("details", tag("summary", "run.json"), tag("pre", kept, tabindex="0"), class_="panel"))
    return joined(out)


def _shell(part: str) -> str:
    """As a shell takes it; `shlex.quote` quotes what needs no quotes in an arm (#, comma)."""
    return part if re.fullmatch(r"[\w@%+=:,./-][\w@%+=:,./#-]*", part) else "'" + part.replace("'", "'\"'\"'") + "'"


def _name(key: str) -> str:
    return {"url": "URL", "sha256": "SHA-256"}.get(key, key.replace("_", " ").capitalize())


def _fact(what: Any) -> Html:
    if isinstance(what, dict):
        return joined(", ".join(f"{key} {value}" for key, value in what.items()))
    if isinstance(what, list | tuple):
        return joined(", ".join(map(str, what)))
    return joined("–" if what is None else str(what))
