"""What came back of each arm, and what it took: sums and quantiles of one run, which claim nothing beyond it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainers.evaluation.core import Answer

_MOST = 5  # errors and outcomes that are told apart


@dataclass(frozen=True, slots=True)
class ArmCounts:
    """Tokens are (sum, answers that reported them), times (median, 90% quantile) in seconds; None: nobody said."""

    asked: int
    answered: int
    refused: int
    failed: int
    left_out: int  # answered, but not by every arm
    errors: Mapping[str, int]
    stages: Mapping[str, Mapping[str, int]]  # stage -> outcome -> how often
    prompt_tokens: tuple[int, int] | None
    completion_tokens: tuple[int, int] | None
    cached: float | None  # of the prompt tokens, where the engine reported what it had cached
    first: tuple[float, float] | None
    whole: tuple[float, float] | None


def counts(answers: Mapping[str, Sequence[Answer]], wanted: int = 0) -> dict[str, ArmCounts]:
    """By arm. `wanted` is how many answers were asked for of each; 0: as many as there are."""
    there = [{(a.question, a.sample) for a in some if a.status == "ok"} for some in answers.values()]
    common = set.intersection(*there) if there else set()
    return {arm: _counted(some, common, max(wanted, len(some))) for arm, some in answers.items()}


def missing(arms: Mapping[str, ArmCounts], *names: str) -> list[str]:
    """What a reader must know of each of these arms that did not answer everything."""
    out = []
    for name in names:
        if not (counted := arms.get(name)) or counted.answered == counted.asked:
            continue
        why = [(counted.refused, "turned down by its engine"), (counted.failed, "failed or not asked")]
        told = " and ".join(f"{count:,} {what}" for count, what in why if count)
        out.append(
            f"{name} has no answer to {counted.asked - counted.answered:,} of {counted.asked:,} requests ({told}). The "
            "comparisons are over what both arms answered: if the others are the hard ones, they show it in too good "
            "a light."
        )
    return out


def absent(rows: Iterable[Mapping[str, Any]], answers: Mapping[str, Sequence[Answer]]) -> dict[str, ArmCounts]:
    """The arms of which nothing is compared, as run.json tells of them: an arm that failed is not to vanish."""
    return {
        row["name"]: ArmCounts(
            int(row.get("wanted", 0)), int(row.get("answered", 0)), int(row.get("refused", 0)),
            int(row.get("wanted", 0)) - int(row.get("answered", 0)) - int(row.get("refused", 0)), 0,
            {row["stopped"]: 1} if row.get("stopped") else {}, {}, None, None, None, None, None,
        )
        for row in rows if isinstance(row, Mapping) and row.get("name") not in answers and "wanted" in row
    }  # fmt: skip


def _counted(some: Sequence[Answer], common: set[tuple[str, int]], asked: int) -> ArmCounts:
    ok = [a for a in some if a.status == "ok"]
    refused = sum(a.status == "refused" for a in some)
    stages: dict[str, Counter[str]] = {}
    for answer in ok:
        for stage, outcome in answer.stages.items():
            stages.setdefault(stage, Counter())[re.sub(r"^applied\(.*\)$", "applied", outcome)] += 1
    cached = [(a.cached_tokens, a.prompt_tokens) for a in ok if a.cached_tokens is not None and a.prompt_tokens]
    return ArmCounts(
        asked=asked, answered=len(ok), refused=refused, failed=asked - len(ok) - refused,
        left_out=sum((a.question, a.sample) not in common for a in ok),
        errors=_most(Counter(" ".join(a.error.split())[:200] or "no reason given" for a in some if a.status != "ok")),
        stages={stage: _most(outcomes) for stage, outcomes in stages.items()},
        prompt_tokens=_sum(a.prompt_tokens for a in ok),
        completion_tokens=_sum(a.completion_tokens for a in ok),
        cached=sum(c for c, _ in cached) / sum(p for _, p in cached) if cached else None,
        first=_quantiles(a.first_s for a in ok),
        whole=_quantiles(a.total_s for a in ok),
    )  # fmt: skip


def _most(found: Counter[str]) -> dict[str, int]:
    """The most frequent, and the others together."""
    out = dict(found.most_common(_MOST))
    rest = found.total() - sum(out.values())
    return out | ({"others": rest} if rest else {})


def _sum(numbers: Iterable[int | None]) -> tuple[int, int] | None:
    known = [number for number in numbers if number is not None]
    return (sum(known), len(known)) if known else None


def _quantiles(numbers: Iterable[float | None]) -> tuple[float, float] | None:
    known = sorted(number for number in numbers if number is not None)
    return (known[len(known) // 2], known[min(len(known) - 1, int(0.9 * len(known)))]) if known else None
