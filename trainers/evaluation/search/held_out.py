"""The check of a search's profile on pairs that it did not see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from trainers.evaluation.core import Estimate
from trainers.evaluation.stats.intervals import mean, paired_difference, paired_p


def checked(before: Mapping[str, float], after: Mapping[str, float], seed: int) -> dict[str, Any]:
    """The held-out comparison, over the pairs that both profiles could be scored on."""
    common = [ident for ident in before if ident in after]
    one, two = [before[ident] for ident in common], [after[ident] for ident in common]
    difference = paired_difference(one, two, seed=seed)
    test, p = paired_p(one, two, seed=seed)
    return {
        "pairs": len(common), "before": asdict(mean(one, seed=seed)), "after": asdict(mean(two, seed=seed)),
        "difference": asdict(difference), "test": test, "p": p, "beats": p < 0.05 and difference.low > 0,
    }  # fmt: skip


def said(against: str, told: Mapping[str, Any]) -> str:
    """The verdict in a sentence or two."""
    difference = Estimate(**told["difference"])
    verdict = f"beats {against}" if told["beats"] else f"is not shown to beat {against}"
    before, after = told["before"]["value"], told["after"]["value"]
    span = f"{difference.value:+.4f} ({difference.low:+.4f} to {difference.high:+.4f})"
    return (
        f"held out, {told['pairs']} pairs: {against} {before:+.4f}, found {after:+.4f}, difference {span}, "
        f"p {told['p']:.3g}: the profile {verdict}"
    )
