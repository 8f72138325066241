"""The words of an evaluation: a question, an arm that answers it, the answer, and what a comparison says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["ok", "refused", "failed"]
Better = Literal["higher", "lower", ""]  # "": neither is better, only different


@dataclass(frozen=True, slots=True)
class Question:
    """One item of a set. `turns` are the user's, asked in order, each after the answers to those before it.

    `history` are (role, text) of what was said before them, by whomever; it is sent as it is.

    `expect` holds what can be checked without a judge; every key is optional:
    `refuse` (bool: a good answer refuses), `choices` (a sequence of (letter, text)) and `answer` (its right letter),
    `json` (True, or a JSON schema), `language` (BCP 47), `rules` (ids, one of which should be cited), `reference`
    (a good answer), `chosen` and `rejected` (texts, of a preference pair).
    """

    id: str
    turns: tuple[str, ...]
    system: str = ""
    kind: str = ""  # the set's own category, by which a report may be split
    expect: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What an arm said to a question once. The last of `texts` is what is measured.

    `refused` means that the engine turned the request down for good (a 4xx), `failed` that it never answered; both
    are counted and shown, and neither is measured. Times are seconds; tokens are those the engine reported, None
    where it did not. `letters` are log-probabilities of a choice's letters as the first token, where asked for.
    """

    arm: str
    question: str
    sample: int
    seed: int
    status: Status = "ok"
    texts: tuple[str, ...] = ()
    finish: str = ""
    error: str = ""
    stages: Mapping[str, str] = field(default_factory=dict)  # urial: applied(3), as the response's headers say
    trace: str = ""
    principles: tuple[str, ...] = ()  # ids, where the trace could be read
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    first_s: float | None = None
    total_s: float | None = None
    letters: Mapping[str, float] | None = None

    @property
    def text(self) -> str:
        """The last text, which is what is measured; "" without one."""
        return self.texts[-1] if self.texts else ""


@dataclass(frozen=True, slots=True)
class Measure:
    """One thing that can be said of an answer. `kind` "rate" is a share of yes, "mean" an average of `unit`."""

    name: str
    kind: Literal["rate", "mean"]
    better: Better
    about: str
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its 95% interval, from `n` questions."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """An arm against the baseline, by one measure, over the questions that both answered.

    `p` is two-sided, of the `differ` questions whose values differ; `holm` the same after Holm's correction over all
    comparisons with that baseline in which enough of them do. `needed` is the number of questions that would show a
    difference of this size with 80% power; None where there is none to show.
    """

    measure: Measure
    baseline: str
    arm: str
    before: Estimate
    after: Estimate
    difference: Estimate
    test: str
    p: float
    holm: float
    needed: int | None = None
    differ: int = 0
    gains: Sequence[str] = ()  # ids of the questions with the largest gains, then losses
    losses: Sequence[str] = ()

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval of the difference does."""
        return self.difference.low > 0 or self.difference.high < 0

    @property
    def significant(self) -> bool:
        """Whether a difference is shown: by the test, after Holm's correction, and by the interval.

        The test and the interval are not made of the same statistic, and where a single extreme value carries the
        test they part; both have to say it, so no interval around 0 is ever called better or worse.
        """
        return self.holm < 0.05 and self.excludes_zero
