"""Whether a judge can be trusted: how often it says what people said, beside how often people agree with each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from trainers.ask import engine as questions
from trainers.data.jsonl import DataError
from trainers.evaluation.core import Estimate
from trainers.evaluation.judging.labels import OUTCOMES, Labelled
from trainers.evaluation.stats.preference import Preference, by_question, preference, share
from trainers.evaluation.stats.significance import paired_p
from trainers.judge.pairwise import Outcome, Verdict, judge_pairs

SAID: dict[Outcome, str] = {"win": "the second is better", "loss": "the first is better", "tie": "tie"}


@dataclass(frozen=True, slots=True)
class Calibration:
    """A judge against people, over the pairs on which a majority of them agrees and the judge could be read.

    `over_baseline` is the agreement less that of always giving the people's most frequent label, pair by pair.
    `person` is how often one of the people says what another one does, and what the judge would have to reach to pass
    for one of them is beside it: `with_person`, its agreement with one person, the mean of all.
    """

    pairs: int
    no_majority: int
    unreadable: int
    agreement: Estimate
    kappa: Estimate
    baseline: Outcome
    baseline_share: Estimate
    over_baseline: Estimate
    with_person: Estimate
    person: Estimate | None
    person_kappa: Estimate | None
    consistency: Estimate
    longer_people: Estimate | None  # how often the majority prefers the longer answer, ties as halves
    longer_p: float  # that the judge prefers the longer one as often as they do
    table: dict[str, dict[str, int]]  # people's label, the judge's label, how many
    judge: Preference

    @property
    def better_than_baseline(self) -> bool:
        """Whether the judge agrees with people more often than always giving the commonest label does."""
        return self.over_baseline.low > 0


# ---------------------------------------------------------------- the judge on them


def calibrate(engine: questions.Engine, labelled: Sequence[Labelled], folder: Path, *, seed: int = 0) -> Calibration:
    """Asks the judge for every pair, both orders, and compares; `folder` keeps what it said, as `judge_pairs` does."""
    return compared(labelled, judge_pairs(engine, [each.item for each in labelled], folder, seed=seed), seed=seed)


def compared(labelled: Sequence[Labelled], verdicts: Sequence[Verdict], *, seed: int = 0) -> Calibration:
    """The verdicts beside the labels, by position. Pairs of one question depend on each other, and count as such.

    Raises DataError where no pair has both a majority and a readable verdict.
    """
    both = [(l, v) for l, v in zip(labelled, verdicts, strict=True) if l.majority]  # noqa: E741
    read = [(l, v) for l, v in both if v.readable]  # noqa: E741
    if not read:
        raise DataError(
            "the judge cannot be calibrated: no pair has a majority of people and a verdict that can be read"
        )
    groups = [v.question for _, v in read]
    people, judge = [l.majority for l, _ in read], [v.outcome for _, v in read]  # noqa: E741
    hits = [float(a == b) for a, b in zip(people, judge, strict=True)]
    most = Counter(people).most_common(1)[0][0]
    constant = [float(a == most) for a in people]
    agreement = share(hits, groups)
    with_person = [sum(p == v.outcome for p in l.people) / len(l.people) for l, v in read]  # noqa: E741
    lengths = [(l, v) for l, v in read if v.longer]  # noqa: E741
    people_longer = [_likes_longer(l.majority, v) for l, v in lengths]  # noqa: E741
    judge_longer = [v.score if v.longer > 0 else 1 - v.score for _, v in lengths]
    asked, pairs = [v.question for _, v in lengths], list(zip(people, judge, strict=True))
    person, person_kappa = people_agree([l for l, _ in read])  # noqa: E741
    return Calibration(
        pairs=len(read),
        no_majority=len(labelled) - len(both),
        unreadable=len(both) - len(read),
        agreement=agreement,
        kappa=beyond_chance(agreement, people, judge),
        baseline=most,
        baseline_share=share(constant, groups),
        over_baseline=_difference(constant, hits, groups),
        with_person=share(with_person, groups),
        person=person,
        person_kappa=person_kappa,
        consistency=share([float(v.consistent) for _, v in read], groups),
        longer_people=share(people_longer, asked) if lengths else None,
        longer_p=paired_p(*(by_question(x, asked) for x in (people_longer, judge_longer)), seed=seed)[1]
        if len(set(asked)) > 1
        else 1.0,
        table={a: {b: pairs.count((a, b)) for b in OUTCOMES} for a in OUTCOMES},
        judge=preference([v for _, v in both], seed=seed),
    )  # fmt: skip


def _likes_longer(label: Outcome, verdict: Verdict) -> float:
    return 0.5 if label == "tie" else float((label == "win") == (verdict.longer > 0))


def _difference(before: Sequence[float], after: Sequence[float], groups: Sequence[str]) -> Estimate:
    """after - before, pair by pair, from -1 to 1."""
    moved = share([(b - a + 1) / 2 for a, b in zip(before, after, strict=True)], groups)
    value, low, high = (2 * x - 1 for x in (moved.value, moved.low, moved.high))
    return Estimate(value, low, high, moved.n)


def people_agree(labelled: Sequence[Labelled]) -> tuple[Estimate | None, Estimate | None]:
    """How often two of the people who labelled a pair say the same, and kappa; None where each pair has one label."""
    agree, groups, left, right = [], [], [], []
    for each in labelled:
        two = list(combinations(each.people, 2))
        if two:
            agree.append(sum(a == b for a, b in two) / len(two))
            groups.append(each.item.question)
        for a, b in two:
            left += [a, b]
            right += [b, a]
    if not agree:
        return None, None
    found = share(agree, groups)
    return found, beyond_chance(found, left, right)


def beyond_chance(agreement: Estimate, a: Sequence[str], b: Sequence[str]) -> Estimate:
    """Cohen's kappa, its interval that of the agreement with the chance agreement as found (as `intervals.kappa`)."""
    one, two = Counter(a), Counter(b)
    chance = sum(one[label] * two[label] for label in one) / len(a) ** 2
    if chance >= 1:
        return Estimate(0.0, 0.0, 0.0, agreement.n)
    value, low, high = ((x - chance) / (1 - chance) for x in (agreement.value, agreement.low, agreement.high))
    return Estimate(value, max(-1.0, low), min(1.0, high), agreement.n)


# ---------------------------------------------------------------- in words


def lines(found: Calibration) -> Iterator[str]:
    """What the calibration says, for the terminal."""
    yield f"the judge on {found.pairs:,} pairs that people labelled"
    yield _line("says what most people said", found.agreement, f"kappa {_plain(found.kappa)}")
    if found.person and found.person_kappa:
        yield _line("says what one person said", found.with_person)
        yield _line("one says what another said", found.person, f"kappa {_plain(found.person_kappa)}")
    yield _line("always saying the same would", found.baseline_share, f"{SAID[found.baseline]!r}")
    yield _line("both orders say the same", found.consistency)
    if place := found.judge.position:
        yield _line("verdicts for the first place", place.share, f"fair: 50%; p {_p(place.p)}")
    if (length := found.judge.length) and found.longer_people:
        yield _line("verdicts for the longer one", length.share, f"people: {found.longer_people.value:.1%}")
    left = f"{found.no_majority:,} pairs without a majority of people"
    yield f"  left out: {left}; {found.unreadable:,} without two verdicts that could be read"
    yield from (f"  ! {warning}" for warning in warnings(found))


def warnings(found: Calibration) -> Iterator[str]:
    """What a reader of this judge's verdicts must know, in plain words."""
    if not found.better_than_baseline:
        yield (
            f"This judge is no better than always saying {SAID[found.baseline]!r}: it agrees with people in "
            f"{found.agreement.value:.0%} of the pairs, and that would in {found.baseline_share.value:.0%}."
        )
    if (place := found.judge.position) and place.p < 0.05:
        first = "first" if place.excess > 0 else "second"
        yield (
            f"It prefers whichever answer it reads {first}: {max(place.share.value, 1 - place.share.value):.0%} of its "
            "verdicts are for that place. Every pair is judged in both orders, so no arm gains by it; but verdicts "
            "that depend on the place say nothing."
        )
    if found.judge.length and found.longer_people and found.longer_p < 0.05:
        more = "more" if found.judge.length.share.value > found.longer_people.value else "less"
        yield (
            f"It prefers the longer answer {more} often than people do ({found.judge.length.share.value:.0%} against "
            f"{found.longer_people.value:.0%}). Look at the win rate at equal length."
        )
    if found.unreadable > 0.05 * (found.pairs + found.unreadable):
        yield f"In {found.unreadable:,} pairs a verdict could not be read: what the judge thought of these is unknown."


def _line(name: str, found: Estimate, note: str = "") -> str:
    return f"  {name:29}{found.value:6.1%} ({found.low:.1%} to {found.high:.1%})  {note}".rstrip()


def _plain(found: Estimate) -> str:
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"
