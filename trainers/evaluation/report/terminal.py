"""What a run comes to, as plain text: the comparisons as a table as wide as the terminal, and the judge."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from trainers.evaluation.core import Comparison, Estimate
from trainers.evaluation.judging.calibration import Calibration
from trainers.evaluation.judging.calibration import lines as calibrated
from trainers.evaluation.measure.counts import ArmCounts, missing
from trainers.evaluation.report.wording import (
    MARKS,
    NOT_SHOWN,
    change,
    count,
    doubt,
    footnotes,
    interval,
    name_of,
    probability,
    summary,
    value,
    word,
)
from trainers.evaluation.stats.preference import FEW, Preference

HEADS = ("", "before", "after", "difference", "95% interval", "p", "n", "")
LONG = 32  # characters of a name; what is longer may be cut
KEPT = ((1, 2, 3, 4, 5, 6, 7), (1, 2, 3, 4, 5, 7), (1, 3, 4, 5, 6, 7), (3, 4, 5, 6, 7))  # the first that has room


def table(comparisons: Sequence[Comparison], width: int = 80, arms: Mapping[str, ArmCounts] = {}) -> str:
    """One block for each arm: the measure, both values, the difference and its interval, p after Holm, n, a word; and
    how many answers of `arms` are not there.

    Where the width does not hold all that, some columns go. Never wider than `width` from 72 on.
    """
    lines: list[str] = []
    for said in summary(comparisons):
        mine = [c for c in comparisons if (c.baseline, c.arm) == (said.baseline, said.arm)]
        lines += ["", f"{said.arm} against {said.baseline}", *_rows(mine, max(width, 72))]
        for text, found in (("better", said.better), ("worse", said.worse)):
            if found:
                lines += _wrapped(f"{text}: {', '.join(name_of(c.measure) for c in found)}", width)
        for text in missing(arms, said.baseline, said.arm):
            lines += _wrapped(f"! {text}", width)
    note = (
        "Differences with their 95% intervals, paired by question; pt: percentage points; p: after Holm's correction. "
        f"Better and worse are said where p < 0.05 and the interval leaves 0 out. {NOT_SHOWN.capitalize()} is not the "
        "same as no difference."
    )
    feet = [line for text in footnotes(comparisons) for line in _wrapped(text, width)]
    return "\n".join([*lines[1:], "", *_wrapped(note, width), *feet])


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width, 72), subsequent_indent="    ", drop_whitespace=True, replace_whitespace=False)


def _rows(mine: Sequence[Comparison], width: int) -> Iterator[str]:
    """A heading and a line for each measure; numbers stand flush right."""
    cells = [_cells(c) for c in mine]
    for keep in KEPT:
        shown = [HEADS, *cells]
        if keep is KEPT[-1]:  # the word is short where there is no room
            shown = [(*row[:-1], row[-1].replace(NOT_SHOWN, "not shown")) for row in shown]
        sizes = [max(len(row[i]) for row in shown) for i in range(len(HEADS))]
        room = width - sum(sizes[i] for i in keep) - 2 * len(keep)
        if room >= min(sizes[0], LONG):
            break
    sizes[0] = max(8, min(sizes[0], room))
    for row in shown:
        name = row[0] if len(row[0]) <= sizes[0] else row[0][: sizes[0] - 1] + "…"
        last = len(HEADS) - 1
        yield "  ".join([name.ljust(sizes[0]), *(row[i].rjust(sizes[i]) for i in keep if i < last), row[last]]).rstrip()


def _cells(found: Comparison) -> tuple[str, ...]:
    m = found.measure
    points = " pt" if "points" in change(m, 1.0) else ""
    return (
        name_of(m) + (f", {m.unit}" if m.unit and m.unit not in name_of(m) and not points else ""),
        value(m, found.before.value, unit=False), value(m, found.after.value, unit=False),
        change(m, found.difference.value, unit=False) + points, interval(m, found.difference),
        probability(found.holm), count(found.difference.n), word(found) + MARKS[doubt(found)],
    )  # fmt: skip


# ---------------------------------------------------------------- with a judge


def judged(
    preferences: Mapping[str, Preference], baseline: str, calibration: Calibration | None = None, width: int = 100,
    rule: str = "",
) -> str:  # fmt: skip
    """Whether the judge can be trusted, what it prefers, and what place and length had to do with it.

    `rule` names the rule that stands in its place.
    """
    by = (f"the rule {rule}", "pairs") if rule else ("the judge", "pairs in both orders")
    lines = [] if calibration is None else [*calibrated(calibration), ""]
    for arm, found in preferences.items():
        lines += [
            f"{arm} against {baseline}, by {by[0]}: {count(found.items)} {by[1]}",
            *_preferred(found, orders=not rule),
        ]
    return "\n".join(line for text in lines for line in _wrapped(text, width) or [""])


def _preferred(found: Preference, *, orders: bool) -> Iterator[str]:
    if found.mean_rate is None:
        yield "  no verdict could be read"
        return
    if equal := found.controlled:
        said = "better" if equal.rate.low > 0.5 else "worse" if equal.rate.high < 0.5 else "no preference shown"
        yield f"  win rate at equal length     {_rate(equal.rate)}  {said}"
        if equal.rarer < FEW:
            yield f"  ! it hangs on {equal.rarer} pairs: in the others one arm's answer is always the longer one"
    what = "win rate, both orders' mean" if orders else "win rate"
    yield f"  {what:27}  {_rate(found.mean_rate)}"
    for name, bias in (("for the first place", found.position), ("for the longer one", found.length)):
        if bias:
            yield f"  verdicts {name:20}{_rate(bias.share)}  fair: 50%; p {probability(bias.p)}"
    split = f", {found.split} where the orders disagree" if orders else ""
    yield f"  {found.wins} wins, {found.losses} losses, {found.ties} ties{split}"
    if found.unreadable or found.refused:
        yield f"  left out: {found.unreadable} that could not be read, {found.refused} that the engine refused"


def _rate(found: Estimate) -> str:
    return f"{found.value:6.1%} ({found.low:.1%} to {found.high:.1%})"
