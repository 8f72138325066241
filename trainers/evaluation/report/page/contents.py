"""What the page shows, and the words and looks that its parts share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainers.evaluation.core import Comparison, Estimate
from trainers.evaluation.judging.calibration import Calibration
from trainers.evaluation.measure.counts import ArmCounts
from trainers.evaluation.report.extremes import Case
from trainers.evaluation.stats.preference import Preference

LOOK = {"better": "better", "worse": "worse", "higher": "other", "lower": "other"}  # of a word; else "none"
SIGN = {"better": "▲", "worse": "▼", "higher": "◆", "lower": "◆"}  # else "○"


@dataclass(frozen=True, slots=True)
class Contents:
    """All that stands on the page."""

    run: Mapping[str, Any]
    questions: int
    arms: Mapping[str, ArmCounts]
    comparisons: Sequence[Comparison]
    kinds: Mapping[str, Sequence[Comparison]] = field(default_factory=dict)
    cases: Mapping[str, Sequence[Case]] = field(default_factory=dict)
    preferences: Mapping[str, Preference] = field(default_factory=dict)
    calibration: Calibration | None = None
    unread: str = ""  # what is to be said of the judge's marks

    def of(self, baseline: str, arm: str) -> list[Comparison]:
        """The comparisons of one arm with the baseline."""
        return [c for c in self.comparisons if (c.baseline, c.arm) == (baseline, arm)]


def rated(found: Estimate) -> str:
    """A rate with its interval, in percent."""
    return f"{found.value:.1%} ({found.low:.1%} to {found.high:.1%})"


def side(found: Estimate) -> str:
    """Of a win rate: better or worse where its interval says so."""
    return "better" if found.low > 0.5 else "worse" if found.high < 0.5 else "none"
