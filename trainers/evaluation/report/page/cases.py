"""The largest gains and losses, both answers side by side. Everything in them is text of others."""

from __future__ import annotations

from collections.abc import Sequence

from trainers.evaluation.core import Measure
from trainers.evaluation.report.extremes import Case
from trainers.evaluation.report.page.markup import Html, against, chip, tag
from trainers.evaluation.report.wording import Said, name_of, value

LONGEST = 1600  # characters of a text that are shown


def cases(one: Said, found: Sequence[Case]) -> Html:
    """The cases of one arm: what was asked, both answers, and the judge's words."""
    if not found:
        return Html("")
    out = []
    for side, name in (("gain", "Largest gains"), ("loss", "Largest losses")):
        chosen = [case for case in found if case.side == side]
        mine = [_case(one, case, i == 0) for i, case in enumerate(chosen)]
        out += [tag("h4", name), *mine] if mine else []
    return tag("div", against(one.arm, one.baseline), out, class_="cases")


def _case(one: Said, case: Case, opened: bool) -> Html:
    look = "better" if case.side == "gain" else "worse"
    chips = [
        chip(f"{name_of(m)}: {_said(m, was)} → {_said(m, now)}", _went(m, was, now)) for m, was, now in case.changes
    ]
    if case.why == "judge":
        chips.insert(0, chip(f"the judge prefers {one.arm if case.side == 'gain' else one.baseline}", look))
    q = case.question
    name = tag("span", tag("code", q.id), f" · {q.kind}" if q.kind else None, class_="note")
    answers = [
        tag("div", tag("h5", arm, tag("small", f" {len(answer.text):,} characters")), _text(answer.text, "text"))
        for arm, answer in ((one.baseline, case.before), (one.arm, case.after))
    ]
    words = tag("details", tag("summary", "What the judge wrote"), _text(case.judge, "text")) if case.judge else None
    head = tag("span", name, tag("span", chips, class_="chips"), class_="head")
    said = [f"[system] {q.system}"] if q.system else []
    said += [f"[{role}] {text}" for role, text in q.history]
    asked, columns = _text("\n\n".join([*said, *q.turns]), "question"), tag("div", answers, class_="columns")
    return tag("details", tag("summary", head, asked), columns, words, class_=f"panel case {look}", open=opened)


def _went(m: Measure, was: float, now: float) -> str:
    return "better" if (now > was) == (m.better == "higher") else "worse"


def _said(m: Measure, number: float) -> str:
    return {0.0: "no", 1.0: "yes"}.get(number, value(m, number)) if m.kind == "rate" else value(m, number)


def _text(text: str, look: str) -> Html:
    """What somebody wrote, cut where it is long, in a box that it cannot leave."""
    cut = len(text) - LONGEST
    more = tag("span", f" … {cut:,} more characters are in answers.jsonl", class_="cut") if cut > 0 else None
    shown = text[:LONGEST] if text.strip() else tag("em", "no text")
    return tag("span", tag("span", shown, more, dir="auto", class_=look), class_="quote")
