"""A rule in Python in a judge's place: a number for each answer, and which of two answers it prefers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from trainers.evaluation.core import Answer, Measure, Question
from trainers.evaluation.judging.items import pairs
from trainers.evaluation.stats.preference import Preference, preference
from trainers.judge.pairwise import Item, Verdict
from trainers.rounds.rule import load_rule, rated

Number = Callable[[Item, Sequence[str]], float]
RULE = Measure("rule", "mean", "higher", "the number that the rule gives")


@dataclass(frozen=True, slots=True)
class Ruled:
    """What a rule says. `marks`: arm -> question -> measure -> mean over the samples, as `compare` takes them."""

    verdicts: Mapping[str, Sequence[Verdict]]
    preferences: Mapping[str, Preference]
    marks: Mapping[str, Mapping[str, Mapping[str, float]]]


def by_rule(
    name: str, questions: Sequence[Question], answers: Mapping[str, Sequence[Answer]], baseline: str, seed: int
) -> Ruled:
    """Every answer's number, and each arm against the baseline by them; of two equal numbers neither is preferred.

    Raises:
        RecipeError: there is no such rule, or it returns what is no finite number.
    """
    rule = load_rule(name)

    def number(item: Item, texts: Sequence[str]) -> float:
        return rated(rule, name, asked(item, texts), texts[-1], f"an answer to question {item.question}")

    marks = {arm: _means(pairs(questions, said, said), number) for arm, said in answers.items()}
    verdicts = {
        arm: [_verdict(item, number(item, item.before), number(item, item.after)) for item in items]
        for arm, said in answers.items()
        if arm != baseline and (items := pairs(questions, answers[baseline], said))
    }
    found = {arm: replace(preference(said, seed=seed), position=None) for arm, said in verdicts.items()}
    return Ruled(verdicts, found, marks)


def asked(item: Item, texts: Sequence[str]) -> list[dict[str, str]]:
    """The messages that the last of the texts answers, in the form in which rounds give them to a rule."""
    told = [("system", item.system)] if item.system else []
    told += item.history
    for turn, text in zip(item.turns, texts, strict=False):
        told += [("user", turn), ("assistant", text)]
    return [{"role": role, "content": text} for role, text in told[:-1]]


def _means(items: Sequence[Item], number: Number) -> dict[str, dict[str, float]]:
    values: dict[str, list[float]] = {}
    for item in items:
        values.setdefault(item.question, []).append(number(item, item.after))
    return {ident: {RULE.name: sum(some) / len(some)} for ident, some in values.items()}


def _verdict(item: Item, before: float, after: float) -> Verdict:
    longer = len(item.after[-1]) - len(item.before[-1])
    forth, back = ("tie", "tie") if after == before else ("B", "A") if after > before else ("A", "B")
    return Verdict(item.question, forth, back, longer, item.kind)  # type: ignore[arg-type]
