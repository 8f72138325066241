"""What a judge compares: an arm's answers beside the baseline's, question by question."""

from __future__ import annotations

from collections.abc import Sequence

from trainers.evaluation.core import Answer, Question
from trainers.judge.pairwise import Item


def pairs(questions: Sequence[Question], before: Sequence[Answer], after: Sequence[Answer]) -> list[Item]:
    """The items of an arm against the baseline: a sample of the one with the same sample of the other.

    Only what both have answered; what is left out is for the report to count.
    """
    firsts = {(a.question, a.sample): a for a in before if a.status == "ok"}
    known = {q.id: q for q in questions}
    items = []
    for answer in after:
        question, first = known.get(answer.question), firsts.get((answer.question, answer.sample))
        if answer.status != "ok" or question is None or first is None:
            continue
        items.append(
            Item(
                question.id,
                question.turns,
                first.texts,
                answer.texts,
                question.system,
                question.kind,
                references(question),
                question.history,
            )
        )
    return items


def references(question: Question) -> tuple[str, ...]:
    """The good answers that a question comes with, to as many of its turns as there are."""
    good = question.expect.get("reference", ())
    return (good,) if isinstance(good, str) else tuple(good)
