"""Every arm against a baseline, by every measure that both have, question by question."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from trainers.evaluation.core import Answer, Comparison, Estimate, Measure, Question
from trainers.evaluation.measure.measures import ANSWERED, MEASURES, measured
from trainers.evaluation.stats.intervals import differing, holm, mean, needed, paired_difference, paired_p, rate

Values = dict[str, dict[str, float]]  # measure -> question -> value
MOST = 5  # gains and losses that are named
LEAST = 2  # questions that a comparison takes


def compare(
    questions: Sequence[Question],
    answers: Mapping[str, Sequence[Answer]],
    baseline: str,
    extra: Mapping[str, Mapping[str, Mapping[str, float]]] = {},
    *,
    described: Mapping[str, Measure] = {},
    kinds: Collection[str] | None = None,
    seed: int = 0,
) -> list[Comparison]:
    """The comparisons of every other arm with `baseline`, arm by arm, in the order of MEASURES.

    Several samples of a question are averaged first: the question is what is compared and resampled. A measure counts
    the questions for which both arms have it, and is left out where these are fewer than two. Holm's correction runs
    over all comparisons that are returned and in which enough questions differ to tell anything. Gains are changes for
    the better, or up where neither way is better.

    Where an engine turned a request down for good, how many each arm got through is a measure of its own (ANSWERED):
    the others know nothing of these. What failed is to be asked again, and is in none.

    Args:
        answers: by arm; those to no question of `questions` are passed over.
        extra: arm -> question id -> measure -> value, of a judge for instance.
        described: what the measures of `extra` are; one that is not described is a mean of which more is better.
        kinds: only questions of these kinds.

    Raises:
        ValueError: there are no answers of the baseline.
    """
    if baseline not in answers:
        raise ValueError(f"no arm is called {baseline!r}; there are {', '.join(answers) or 'none'}")
    chosen = {question.id: question for question in questions if kinds is None or question.kind in kinds}
    values = {arm: _values(chosen, rows, extra.get(arm, {})) for arm, rows in answers.items()}
    if any(answer.status == "refused" for rows in answers.values() for answer in rows):
        for arm, rows in answers.items():
            values[arm][ANSWERED.name] = _answered(chosen, rows)
    known = {ANSWERED.name: ANSWERED, **MEASURES, **described}
    for name in (name for arm in values.values() for name in arm):
        known.setdefault(name, Measure(name, "mean", "higher", name))
    found = [
        _compared(measure, baseline, arm, values[baseline][name], values[arm][name], list(chosen), seed)
        for arm in values if arm != baseline
        for name, measure in known.items()
        if name in values[arm] and len(values[arm][name].keys() & values[baseline].get(name, {}).keys()) >= LEAST
    ]  # fmt: skip
    return _corrected(found)


def compare_kinds(
    questions: Sequence[Question], answers: Mapping[str, Sequence[Answer]], baseline: str,
    extra: Mapping[str, Mapping[str, Mapping[str, float]]] = {}, *, described: Mapping[str, Measure] = {},
    seed: int = 0,
) -> dict[str, list[Comparison]]:  # fmt: skip
    """`compare` for each kind of question by itself; Holm's correction runs over the comparisons of all kinds."""
    kinds = dict.fromkeys(question.kind for question in questions)
    split = {
        kind: compare(questions, answers, baseline, extra, described=described, kinds={kind}, seed=seed)
        for kind in kinds
    }
    corrected = iter(_corrected([one for rows in split.values() for one in rows]))
    return {kind: [next(corrected) for _ in rows] for kind, rows in split.items()}


def _corrected(found: Sequence[Comparison]) -> list[Comparison]:
    ps = holm([one.p for one in found], [one.differ for one in found])
    return [replace(one, holm=p) for one, p in zip(found, ps, strict=True)]


def levels(
    questions: Sequence[Question],
    answers: Sequence[Answer],
    extra: Mapping[str, Mapping[str, float]] = {},
    *,
    described: Mapping[str, Measure] = {},
    seed: int = 0,
) -> dict[str, Estimate]:
    """One arm by itself: every measure that it has, over all questions that it answered."""
    values = _values({question.id: question for question in questions}, answers, extra)
    known = {**MEASURES, **described}
    return {
        name: _estimate(known.get(name), list(by_question.values()), seed)
        for name, by_question in values.items()
        if len(by_question) >= LEAST
    }


def _values(
    questions: Mapping[str, Question], answers: Sequence[Answer], extra: Mapping[str, Mapping[str, float]]
) -> Values:
    """One value a question: the mean of its samples."""
    samples: dict[str, dict[str, list[float]]] = {}
    for answer in answers:
        if question := questions.get(answer.question):
            for name, value in measured(question, answer).items():
                samples.setdefault(name, {}).setdefault(question.id, []).append(value)
    for ident, row in extra.items():
        for name, value in row.items() if ident in questions else ():
            samples.setdefault(name, {}).setdefault(ident, []).append(value)
    return {name: {ident: sum(some) / len(some) for ident, some in row.items()} for name, row in samples.items()}


def _answered(questions: Mapping[str, Question], answers: Sequence[Answer]) -> dict[str, float]:
    samples: dict[str, list[float]] = {}
    for answer in answers:
        if answer.question in questions and answer.status != "failed":
            samples.setdefault(answer.question, []).append(float(answer.status == "ok"))
    return {ident: sum(some) / len(some) for ident, some in samples.items()}


def _estimate(measure: Measure | None, values: Sequence[float], seed: int) -> Estimate:
    return rate(values) if measure and measure.kind == "rate" else mean(values, seed=seed)


def _compared(
    measure: Measure, baseline: str, arm: str, first: Mapping[str, float], second: Mapping[str, float],
    order: Sequence[str], seed: int,
) -> Comparison:  # fmt: skip
    common = [ident for ident in order if ident in first and ident in second]
    before, after = [first[ident] for ident in common], [second[ident] for ident in common]
    test, p = paired_p(before, after, seed=seed)
    sign = -1.0 if measure.better == "lower" else 1.0
    change = {ident: round(sign * (second[ident] - first[ident]), 12) for ident in common}  # equal ones stay in order
    return Comparison(
        measure, baseline, arm,
        before=_estimate(measure, before, seed),
        after=_estimate(measure, after, seed),
        difference=paired_difference(before, after, seed=seed, share=measure.kind == "rate"),
        test=test, p=p, holm=p,
        needed=needed(before, after), differ=differing(before, after),
        gains=tuple(ident for ident in sorted(common, key=lambda one: -change[one])[:MOST] if change[ident] > 0),
        losses=tuple(ident for ident in sorted(common, key=lambda one: change[one])[:MOST] if change[ident] < 0),
    )  # fmt: skip
