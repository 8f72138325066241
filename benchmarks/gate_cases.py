"""The labelled cases that the gate of BPO is measured on, written before the gate.

Every case is a prompt, a rewrite (or, in the complement mode, a hint) made from it by one edit, and the rule of the
gate that has to catch it ("" for an edit that does no harm). `also` are rules that may as well be named, because the
edit does that too: an answer alone also changes the meaning. Phrases come in pairs, the first for prompts in the
"tune" half, the second for the "report" half, so that no phrase the gate was tuned on is in the reported figures.
The halves are by prompt. Nothing here imports the gate.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.gate_edits import BAD, BAD_HINTS, FACTS, GOOD, GOOD_HINTS, Half, Prompt, brief, hint_contradicts, size
from benchmarks.gate_phrases import PHRASES

OWN = Path(__file__).parent.parent / "tests" / "data" / "gate" / "prompts.jsonl"


@dataclass(frozen=True, slots=True)
class Case:
    """One judgement that the gate has to make. `rule` is "" where it has to accept."""

    edit: str
    mode: Literal["replace", "complement"]
    language: str
    half: Half
    prompt: str
    rewrite: str
    rule: str
    also: tuple[str, ...] = ()


def own_prompts() -> list[Prompt]:
    """Our prompts in German, French, Spanish and Chinese, and each one's English twin."""
    rows = [json.loads(line) for line in OWN.read_text("utf-8").splitlines()]
    out = [Prompt(row["text"], row["language"], row["english"]) for row in rows]
    return out + [Prompt(row["english"], "en", row["text"]) for row in rows]


def bpo_prompts(folder: Path) -> list[Prompt]:
    """The 252 + 80 English prompts of BPO's test sets (thu-coai/BPO `data/testset`, Apache-2.0)."""
    rows = json.loads((folder / "self_instruct_eval.json").read_text("utf-8"))
    out = [
        Prompt("\n".join(t for t in (r["instruction"], r["context"]) if t).strip(), "en", answer=r["output"].strip())
        for r in rows
    ]
    lines = (folder / "vicuna_eval.jsonl").read_text("utf-8").splitlines()
    return out + [Prompt(json.loads(line)["text"], "en") for line in lines]


def _made(p: Prompt, thin: int) -> Iterator[Case]:
    """Every edit that applies to a prompt; of the ones that apply everywhere, each `thin`th prompt gets one."""
    w, i = PHRASES[p.language], int(p.half == "report")
    turn = int(hashlib.sha256(p.text.encode()).hexdigest()[8:16], 16)
    facts = len(GOOD) - 4  # from `paraphrase` on, and all of the fact edits, where they apply
    for at, edit in enumerate(GOOD):
        if at < facts and turn % (thin * 2) != at % (thin * 2):
            continue
        if brief(p) and edit.__name__ in ("format_hint", "clarify", "list_request", "example"):
            continue
        text = edit(p, w, i)
        if text and text != p.text and size(text) <= 6 * size(p.text):
            yield Case(edit.__name__, "replace", p.language, p.half, p.text, text, "")
    fact_rules = ("number", "date", "quote", "link", "code", "negation", "format", "name", "dropped")
    general = [row for row in BAD if row[1] not in fact_rules]
    for edit, rule, also in BAD:
        if rule not in fact_rules and turn % (thin * 4) != general.index((edit, rule, also)) % (thin * 4):
            continue
        text = edit(p, w, i)
        if text is not None and (text != p.text or rule in ("unchanged", "empty")):
            yield Case(edit.__name__, "replace", p.language, p.half, p.text, text, rule, also)


def _hinted(p: Prompt, thin: int) -> Iterator[Case]:
    w, i = PHRASES[p.language], int(p.half == "report")
    turn = int(hashlib.sha256(p.text.encode()).hexdigest()[16:24], 16)
    for at, edit in enumerate(GOOD_HINTS):
        if turn % thin == at % thin and not (brief(p) and edit.__name__ != "hint_careful"):
            yield Case(edit.__name__, "complement", p.language, p.half, p.text, str(edit(p, w, i)), "")
    for at, (edit, rule, also) in enumerate(BAD_HINTS):
        always = edit is hint_contradicts
        if (always or turn % (thin * 2) == at % (thin * 2)) and (text := edit(p, w, i)) is not None:
            yield Case(edit.__name__, "complement", p.language, p.half, p.text, text, rule, also)


def templates() -> Iterator[Case]:
    """Cases from `templates.json`: a prompt, the rewrite that harms it and one that does not, with what to fill in."""
    for language, table in json.loads(OWN.with_name("templates.json").read_text("utf-8")).items():
        fills = {name: [{"a": a, "b": b} for a, b in pairs] for name, pairs in table.items() if name != "rows"}
        for rule, kind, prompt, bad, good in table["rows"]:
            for fill in fills[kind]:
                p = Prompt(prompt.format(**fill), language)
                yield Case(f"{rule}_bad", "replace", language, p.half, p.text, bad.format(**fill), rule, FACTS)
                yield Case(f"{rule}_good", "replace", language, p.half, p.text, good.format(**fill), "")


def cases(folder: Path | None = None) -> list[Case]:
    """All cases: our own prompts, and BPO's test sets where their folder is given. The same ones every time."""
    out = list(templates())
    for p in own_prompts():
        out += [*_made(p, 2), *_hinted(p, 3)]
    for p in bpo_prompts(folder) if folder else []:
        out += [*_made(p, 3), *_hinted(p, 6)]
    return out
