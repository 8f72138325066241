"""The judge's six marks of every answer of an evaluation, kept in the run's folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainers.ask.engine import Engine, Messages
from trainers.evaluation.core import Answer, Measure, Question
from trainers.evaluation.judging.items import references
from trainers.judge.aspects import ASPECTS, ask_marks, read_marks
from trainers.judge.pairwise import shuffled

MEASURES: Mapping[str, Measure] = {
    name: Measure(name, "mean", "higher", f"the judge's mark for {name}, 1 to 5", "of 5") for name in ASPECTS
}


@dataclass(frozen=True, slots=True)
class Scores:
    """`marks`: arm, question id, aspect: the mean mark of its samples.

    `asked` answers were shown to the judge, of which it gave `unreadable` no marks, or not all six, and its engine
    turned `refused` down; none of these has marks.
    """

    marks: Mapping[str, Mapping[str, Mapping[str, float]]]
    asked: int
    unreadable: int
    refused: int


def score_aspects(
    engine: Engine,
    questions: Sequence[Question],
    answers: Mapping[str, Sequence[Answer]],
    folder: Path,
    *,
    seed: int = 0,
) -> Scores:
    """The marks of every answer that there is; `folder`/marks.jsonl keeps what the judge said.

    Raises EngineError as `questions.ask_all` does.
    """
    known = {q.id: q for q in questions}
    shown = [a for each in answers.values() for a in each if a.status == "ok" and a.question in known]
    said = shuffled(
        engine, [_request(known[a.question], a.texts) for a in shown], folder / "marks.jsonl", "marking", seed
    )
    samples: dict[str, dict[str, list[dict[str, float]]]] = {arm: defaultdict(list) for arm in answers}
    unreadable = refused = 0
    for i, answer in enumerate(shown):
        if marks := read_marks(said[i]):
            samples[answer.arm][answer.question].append(marks)
        elif said[i].refused:
            refused += 1
        else:
            unreadable += 1
    means = {
        arm: {q: {name: sum(m[name] for m in each) / len(each) for name in ASPECTS} for q, each in by.items()}
        for arm, by in samples.items()
    }
    return Scores(means, len(shown), unreadable, refused)


def _request(question: Question, texts: Sequence[str]) -> Messages:
    return ask_marks(
        question.turns, texts, system=question.system, history=question.history, reference=references(question)
    )
