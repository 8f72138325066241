"""The questions on which an arm gained and lost most: what to read before believing a number."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from trainers.evaluation.core import Answer, Comparison, Measure, Question
from trainers.evaluation.measure.measures import ANSWERED, measured
from trainers.judge.pairwise import Verdict

MOST = 4  # gains, and as many losses, of an arm
_NOT_READ = ("s", "tokens", "of the prompt")  # a unit that reading the answers does not explain
Side = Literal["gain", "loss"]


@dataclass(frozen=True, slots=True)
class Case:
    """One question, the baseline's answer and the arm's, and by which measure it was chosen."""

    side: Side
    question: Question
    before: Answer
    after: Answer
    why: str
    changes: tuple[tuple[Measure, float, float], ...]
    judge: str = ""  # its words, where it chose the case


def cases(
    questions: Sequence[Question],
    answers: Mapping[str, Sequence[Answer]],
    comparisons: Sequence[Comparison],
    verdicts: Mapping[str, Sequence[Verdict]] = {},
    most: int = MOST,
) -> dict[str, list[Case]]:
    """By arm: gains, then losses, at most `most` of each. The measures take turns, those that show something first."""
    known = {question.id: question for question in questions}
    rows: dict[str, dict[str, list[Answer]]] = {arm: defaultdict(list) for arm in answers}
    for arm, some in answers.items():
        for answer in some:
            if answer.status == "ok" and answer.question in known:
                rows[arm][answer.question].append(answer)
    out: dict[str, list[Case]] = {}
    for baseline, arm in dict.fromkeys((c.baseline, c.arm) for c in comparisons):
        mine = [c for c in comparisons if (c.baseline, c.arm) == (baseline, arm)]
        told = [c for c in mine if c.measure.better and c.measure.unit not in _NOT_READ and c.measure != ANSWERED]
        told.sort(key=lambda c: c.holm)
        judged = {v.question: v for v in verdicts.get(arm, ()) if v.outcome in ("win", "loss")}
        chosen: list[Case] = []
        for side in ("gain", "loss"):
            taken = [case.question.id for case in chosen]
            picked = _picked(told, judged, side, most, taken)
            chosen += [
                _case(side, known[ident], why, rows[baseline][ident], rows[arm][ident], mine, judged.get(ident))
                for ident, why in picked
                if ident in known and rows[baseline][ident] and rows[arm][ident]
            ]
        out[arm] = chosen
    return out


def _picked(
    told: Sequence[Comparison], judged: Mapping[str, Verdict], side: Side, most: int, taken: Sequence[str]
) -> list[tuple[str, str]]:
    """Question and measure, a measure's largest at a time; the judge's choices stand as one more measure."""
    lists = [[(q, c.measure.name) for q in (c.gains if side == "gain" else c.losses)] for c in told]
    wanted = "win" if side == "gain" else "loss"
    lists.insert(0, [(q, "judge") for q, v in judged.items() if v.outcome == wanted])
    out: dict[str, str] = {}
    for ident, why in _turns(lists):
        if ident not in taken and len(out) < most:
            out.setdefault(ident, why)
    return list(out.items())


def _turns(lists: Iterable[list[tuple[str, str]]]) -> Iterator[tuple[str, str]]:
    left = [list(each) for each in lists if each]
    while left:
        for each in left:
            yield each.pop(0)
        left = [each for each in left if each]


def _case(
    side: Side, question: Question, why: str, before: Sequence[Answer], after: Sequence[Answer],
    comparisons: Sequence[Comparison], verdict: Verdict | None,
) -> Case:  # fmt: skip
    """Of several samples the pair that shows the change best."""
    measures = {c.measure.name: c.measure for c in comparisons}
    pairs = [(a, b) for a in before for b in after if a.sample == b.sample] or [(before[0], after[0])]
    sign = (1.0 if side == "gain" else -1.0) * (-1.0 if why in measures and measures[why].better == "lower" else 1.0)

    def moved(pair: tuple[Answer, Answer]) -> float:
        was, now = measured(question, pair[0]), measured(question, pair[1])
        return sign * (now[why] - was[why]) if why in was and why in now else 0.0

    first, second = max(pairs, key=moved)
    was, now = measured(question, first), measured(question, second)
    changes = tuple(
        (measure, was[name], now[name])
        for name, measure in measures.items()
        if name in was and name in now and was[name] != now[name] and measure.better and measure.unit not in _NOT_READ
    )
    words = (verdict.why[0] or verdict.why[1]) if verdict and why == "judge" else ""
    return Case(side, question, first, second, why, changes, words)
