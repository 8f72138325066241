"""A judge in a run: whether it may judge, how it does where people have judged, and what it says of the arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainers.ask.engine import Engine, EngineError
from trainers.data.jsonl import DataError
from trainers.evaluation.arms.arm import Arm, check_address
from trainers.evaluation.core import Answer, Question
from trainers.evaluation.judging.aspect_scores import Scores, score_aspects
from trainers.evaluation.judging.calibration import Calibration, calibrate
from trainers.evaluation.judging.items import pairs
from trainers.evaluation.judging.kinship import judge_is_arm, served
from trainers.evaluation.judging.labels import read_labelled
from trainers.evaluation.plan import Plan
from trainers.evaluation.stats.preference import Preference, preference
from trainers.judge.pairwise import Verdict, judge_pairs
from trainers.run.recipe import RecipeError

_LENGTH = 2048  # tokens of a judgement, at most


@dataclass(frozen=True, slots=True)
class Judged:
    """What it said of each arm against the baseline, one by one and summed up; `scores` if aspects were asked for."""

    verdicts: Mapping[str, Sequence[Verdict]]
    preferences: Mapping[str, Preference]
    calibration: Calibration | None = None
    scores: Scores | None = None
    untried: str = ""  # why nothing says how far it can be trusted


class Silent(Engine):
    """A judge that is not asked: what it has said is there, and the rest is wanting."""

    def headers(self) -> dict[str, str]:
        """Raises EngineError: this engine only reads what the judge has said."""
        raise EngineError("verdicts are missing, and --report sends no requests")


def engine_of(plan: Plan, kind: type[Engine] = Engine) -> Engine:
    """Raises RecipeError where the judge is not written as URL#MODEL."""
    url, _, model = plan.judge.partition("#")
    if "://" not in url or not model:
        raise RecipeError(f"the judge {plan.judge!r} is not URL#MODEL, such as https://api.openai.com#gpt-4o")
    check_address("the judge", url)
    return kind(
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
    plan: Plan, questions: Sequence[Question], answers: Mapping[str, Sequence[Answer]], baseline: str, folder: Path,
    *, asks: bool = True,
) -> Judged:  # fmt: skip
    """Every verdict is kept in `folder`, so that the same command resumes. Raises EngineError as `ask_all` does, and
    without `asks` where there is anything left to ask."""
    engine = engine_of(plan, Engine if asks else Silent)
    calibration, untried = None, ""
    if plan.calibrate:
        try:
            calibration = calibrate(engine, read_labelled(Path(plan.calibrate)), folder / "calibration", seed=plan.seed)
        except DataError as error:  # the arms have been asked; their report is due whatever the judge is worth
            untried = f"{error}. Nothing says how far its verdicts can be trusted"
    else:
        untried = "the judge is uncalibrated: nobody knows how often it says what people say (--calibrate FILE)"
    verdicts = {
        arm: judge_pairs(engine, items, folder, seed=plan.seed)
        for arm, said in answers.items()
        if arm != baseline and (items := pairs(questions, answers[baseline], said))
    }
    preferences = {arm: preference(said, seed=plan.seed) for arm, said in verdicts.items()}
    scores = score_aspects(engine, questions, answers, folder, seed=plan.seed) if plan.aspects else None
    return Judged(verdicts, preferences, calibration, scores, untried)
