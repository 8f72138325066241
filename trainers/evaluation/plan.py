"""What an evaluation is to do: a YAML plan, as training recipes are, and the command line laid over it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainers.data.jsonl import DataError
from trainers.evaluation.arms.arm import Arm, read_arms
from trainers.evaluation.arms.sampling import Manner, Turns
from trainers.evaluation.core import Question
from trainers.evaluation.questions.forms import ALSO, FORMS
from trainers.evaluation.questions.prompts import named, picked, read_prompts, together
from trainers.run.recipe import RecipeError, fill, read_values


@dataclass(frozen=True, slots=True)
class Plan:
    """Every key of a plan file; the command line has a flag of the same name for each."""

    arms: list[str | dict] = field(default_factory=list)  # type: ignore[type-arg]
    prompts: list[str] = field(default_factory=list)
    pairs: list[str] = field(default_factory=list)
    scorer: str = ""
    scorer_key_env: str = ""
    url: str = ""
    key_env: str = ""
    baseline: str = ""
    format: str = "auto"
    limit: int = 0
    sample: int = 0
    samples: int = 1
    seed: int = 0
    temperature: float | None = None
    max_tokens: int | None = None
    concurrency: int = 8
    requests_per_minute: float = 0.0
    retries: int = 5
    timeout: float = 120.0
    letters: bool = True
    stream: bool = True
    turns: Turns = "auto"
    price: list[float] = field(default_factory=list)
    judge: str = ""
    judge_key_env: str = ""
    judge_may_be_an_arm: bool = False
    aspects: bool = False
    calibrate: str = ""
    rule: str = ""

    @property
    def manner(self) -> Manner:
        """How hosts are asked: at a time, a minute, retries and timeouts."""
        return Manner(
            self.concurrency, self.requests_per_minute, self.retries, self.timeout, stream=self.stream,
            letters=self.letters,
        )  # fmt: skip

    @property
    def decoding(self) -> dict[str, Any]:
        """The decoding of all arms that do not say theirs."""
        told = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        return {key: value for key, value in told.items() if value is not None}

    def read_arms(self) -> list[Arm]:
        """Raises ArmError, and PlanError where the baseline is none of them."""
        arms = read_arms(self.arms, self.url, self.key_env, self.decoding)
        if self.baseline and self.baseline not in (names := [arm.name for arm in arms]):
            raise RecipeError(f"the baseline {self.baseline!r} is no arm; the arms are {', '.join(names)}")
        return arms


def read_plan(path: Path | None, flags: Mapping[str, Any]) -> Plan:
    """Raises RecipeError, which names the file and the key."""
    where = f"{path}: " if path else ""
    try:
        plan = fill(Plan, (read_values(path) if path else {}) | dict(flags))
    except RecipeError as error:
        raise RecipeError(f"{where}{error}") from error
    for key, least in (("samples", 1), ("concurrency", 1), ("limit", 0), ("sample", 0), ("retries", 0)):
        if getattr(plan, key) < least:
            raise RecipeError(f"{where}{key!r} must be at least {least}, not {getattr(plan, key)}")
    if plan.price and (len(plan.price) != 2 or min(plan.price) < 0):
        raise RecipeError(f"{where}'price' is two numbers, of a million tokens in and out: --price 2.5,10")
    for key in ("calibrate", "aspects"):
        if getattr(plan, key) and not plan.judge:
            raise RecipeError(f"{where}{key!r} wants a judge: --judge URL#MODEL")
    if plan.rule and (plan.judge or plan.pairs):
        raise RecipeError(f"{where}'rule' stands in a judge's place, over answers: leave 'judge' and 'pairs' out")
    if not plan.prompts and not plan.pairs:
        raise RecipeError(f"{where}no prompts; give --prompts FILE, or --pairs FILE")
    if plan.prompts and plan.pairs:
        raise RecipeError(f"{where}'prompts' asks for answers, 'pairs' scores given ones: set one of them")
    return plan


def read_sets(plan: Plan) -> dict[str, tuple[Path, str, list[Question]]]:
    """Each file of prompts by a short name: its path, the form that was asked for, and the questions picked of it.

    A file may have its form before it: `xstest=my.csv`.
    """
    files = []
    for text in plan.prompts:
        form, equals, rest = text.partition("=")
        forced = bool(equals) and (form in FORMS or form in ALSO)
        files.append((Path(rest if forced else text), form if forced else plan.format))
    names = named(path for path, _ in files)
    return {
        name: (path, form, picked(read_prompts(path, form), plan.limit, plan.sample, plan.seed))
        for name, (path, form) in zip(names, files, strict=True)
    }


def all_questions(sets: Mapping[str, tuple[Path, str, list[Question]]]) -> list[Question]:
    """The questions of all sets, in the order of the plan."""
    questions = together({name: questions for name, (_, _, questions) in sets.items()})
    if len(questions) < 2:
        raise DataError("an evaluation needs two prompts or more")
    return questions
