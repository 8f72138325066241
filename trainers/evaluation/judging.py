"""A judge in a run: whether it may judge, how it does on pairs that people have judged, and what it says of the arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainers.ask import Engine
from trainers.evaluation.arms import Arm
from trainers.evaluation.aspects import MEASURES, score_aspects
from trainers.evaluation.calibration import Calibration, calibrate, read_labelled
from trainers.evaluation.core import Answer, Measure, Question
from trainers.evaluation.identity import judge_is_arm, served
from trainers.evaluation.judge import judge_pairs, pairs
from trainers.evaluation.plan import Plan
from trainers.evaluation.preference import Preference, preference
from trainers.recipe import RecipeError

_LENGTH = 2048  # tokens of a judgement, at most


@dataclass(frozen=True, slots=True)
class Judged:
    """`preferences`: each arm against the baseline. `extra` and `described`: its marks, as `compare` takes them."""

    preferences: Mapping[str, Preference]
    calibration: Calibration | None = None
    extra: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    described: Mapping[str, Measure] = field(default_factory=dict)
    notes: Sequence[str] = ()


def engine_of(plan: Plan) -> Engine:
    """Raises RecipeError where the judge is not written as URL#MODEL."""
    url, _, model = plan.judge.partition("#")
    if "://" not in url or not model:
        raise RecipeError(f"the judge {plan.judge!r} is not URL#MODEL, such as https://api.openai.com#gpt-4o")
    return Engine(
        url, model, plan.judge_key_env, 0.0, _LENGTH, plan.concurrency, plan.requests_per_minute, plan.retries,
        plan.timeout,
    )  # fmt: skip


def check(plan: Plan, arms: Sequence[Arm]) -> None:
    """Before anything is asked of the arms: pairs that can be read, a judge that answers and is no arm's model.

    Raises:
        RecipeError: it is, and `judge_may_be_an_arm` is not set. EngineError: it cannot be reached. DataError: pairs.
    """
    engine = engine_of(plan)
    if plan.calibrate:
        read_labelled(Path(plan.calibrate))
    if plan.judge_may_be_an_arm:
        return
    own = served(engine.url, engine.model, engine.headers(), plan.timeout)
    there = {arm.name: served(arm.url, arm.model, arm.headers(), plan.timeout) for arm in arms}
    if why := judge_is_arm(own, there):
        raise RecipeError(f"{why}; choose another judge, or say --judge-may-be-an-arm")


def judge(
    plan: Plan, questions: Sequence[Question], answers: Mapping[str, Sequence[Answer]], baseline: str, folder: Path
) -> Judged:
    """Every verdict is kept in `folder`, so that the same command goes on. Raises EngineError as `ask_all` does."""
    engine = engine_of(plan)
    calibration, notes = None, []
    if plan.calibrate:
        calibration = calibrate(engine, read_labelled(Path(plan.calibrate)), folder / "calibration", seed=plan.seed)
    else:
        notes.append("the judge is uncalibrated: nobody knows how often it says what people say (--calibrate FILE)")
    preferences = {}
    for arm, said in answers.items():
        if arm != baseline and (items := pairs(questions, answers[baseline], said)):
            preferences[arm] = preference(judge_pairs(engine, items, folder, seed=plan.seed), seed=plan.seed)
    if not plan.aspects:
        return Judged(preferences, calibration, notes=notes)
    scores = score_aspects(engine, questions, answers, folder, seed=plan.seed)
    if scores.unreadable or scores.refused:
        notes.append(
            f"the judge gave no marks to {scores.unreadable + scores.refused} of {scores.asked} answers "
            f"(its engine turned {scores.refused} of them down)"
        )
    return Judged(preferences, calibration, scores.marks, MEASURES, notes)
