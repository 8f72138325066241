"""How an evaluation's numbers are written, and what they say in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trainers.evaluation.core import Comparison, Estimate, Measure

NOT_SHOWN = "no difference shown"
MINUS = "−"
_NAMES = {
    "first_s": "time to first token",
    "total_s": "time to whole answer",
    "cached_share": "cached share of the prompt",
}


def word(found: Comparison) -> str:
    """better, worse, or for measures of which neither is better higher or lower; else that no difference was shown."""
    if not found.significant or not found.difference.value:
        return NOT_SHOWN
    higher = found.difference.value > 0
    if not found.measure.better:
        return "higher" if higher else "lower"
    return "better" if higher == (found.measure.better == "higher") else "worse"


def name_of(measure: Measure) -> str:
    """As people would call it."""
    return _NAMES.get(measure.name, measure.name.replace("_", " "))


def value(measure: Measure, number: float, *, unit: bool = True) -> str:
    """A rate in percent, an average in its unit."""
    if _is_share(measure):
        return f"{number:.1%}".replace("-", MINUS)
    return f"{_digits(number)}{_unit(measure) if unit else ''}"


def change(measure: Measure, number: float, *, unit: bool = True) -> str:
    """A difference with its sign: of rates in percentage points."""
    if _is_share(measure):
        return _signed(f"{abs(100 * number):.1f}", number) + (" points" if unit else "")
    return _signed(_digits(abs(number)), number) + (_unit(measure) if unit else "")


def interval(measure: Measure, found: Estimate) -> str:
    """The 95% interval of a difference."""
    return f"{change(measure, found.low, unit=False)} to {change(measure, found.high, unit=False)}"


def ends(measure: Measure, limit: float) -> tuple[str, str]:
    """What stands at both ends of a plot's axis."""
    text = f"{100 * limit:g}" if _is_share(measure) else f"{limit:,g}"
    return MINUS + text, "+" + text


def between(measure: Measure, found: Estimate) -> str:
    """The 95% interval of one arm's value."""
    if _is_share(measure):
        return f"{found.low:.1%} to {found.high:.1%}".replace("-", MINUS)
    return f"{_digits(found.low)} to {_digits(found.high)}"


def probability(p: float) -> str:
    """A p-value in words: three digits, or a bound."""
    return "< 0.001" if p < 0.001 else f"{min(p, 1.0):.3f}"


def count(number: float) -> str:
    """A number with thousands separated."""
    return f"{number:,.0f}"


def seconds(number: float | None) -> str:
    """A duration; a dash where there is none."""
    if number is None:
        return "–"
    return f"{1000 * number:.0f} ms" if number < 1 else f"{number:.2f} s" if number < 10 else f"{number:,.1f} s"


def _is_share(measure: Measure) -> bool:
    return measure.kind == "rate" or measure.unit.startswith("of the ")


def _unit(measure: Measure) -> str:
    return f" {measure.unit}" if measure.unit else ""


def _signed(text: str, number: float) -> str:
    if not any(c in "123456789" for c in text):
        return text  # zero has no sign, and neither has what is written as zero
    return ("+" if number > 0 else MINUS) + text


def _digits(number: float) -> str:
    """Three digits that count, and no more than there are before the point."""
    if not math.isfinite(number):
        return "–"
    size = abs(number)
    places = 0 if size >= 100 or not size else 1 if size >= 10 else 2 if size >= 0.1 else 3
    return f"{number:,.{places}f}".replace("-", MINUS)


# ---------------------------------------------------------------- in words


@dataclass(frozen=True, slots=True)
class Said:
    """What an arm's comparisons say, sorted; `unshown` holds what could not be told from chance."""

    arm: str
    baseline: str
    better: tuple[Comparison, ...]
    worse: tuple[Comparison, ...]
    changed: tuple[Comparison, ...]
    unshown: tuple[Comparison, ...]

    @property
    def headline(self) -> str:
        """The arm's result in one sentence."""
        if not (self.better or self.worse or self.changed):
            return f"Nothing shown: no measure tells {self.arm} from {self.baseline}."
        parts = []
        if self.better:
            parts.append(f"better in {listed([name_of(c.measure) for c in self.better])}")
        if self.worse:
            parts.append(f"worse in {listed([name_of(c.measure) for c in self.worse])}")
        if not parts:
            return (
                f"Neither better nor worse is shown; different in {listed([name_of(c.measure) for c in self.changed])}."
            )
        return (f"{' and '.join(parts)}.")[:1].upper() + (f"{' and '.join(parts)}.")[1:]


def summary(comparisons: Sequence[Comparison]) -> list[Said]:
    """One for each pair of arm and baseline, in their order."""
    out = []
    for baseline, arm in dict.fromkeys((c.baseline, c.arm) for c in comparisons):
        mine = [c for c in comparisons if (c.baseline, c.arm) == (baseline, arm)]
        by = {w: tuple(c for c in mine if word(c) == w) for w in ("better", "worse", "higher", "lower", NOT_SHOWN)}
        out.append(Said(arm, baseline, by["better"], by["worse"], by["higher"] + by["lower"], by[NOT_SHOWN]))
    return out


def sentences(said: Said, missing: Sequence[str] = ()) -> Iterator[str]:
    """The same as plain sentences, for report.json; `missing` says of which answers there are none."""
    yield f"{said.arm} against {said.baseline}: {said.headline}"
    yield from missing
    for found in (*said.better, *said.worse, *said.changed):
        yield f"{name_of(found.measure)}: {moved(found)}"
    for found in said.unshown:
        yield f"{name_of(found.measure)}: {NOT_SHOWN}, {change(found.measure, found.difference.value)} "\
            f"({interval(found.measure, found.difference)}). {needs(found)}".rstrip()  # fmt: skip


def moved(found: Comparison) -> str:
    """From what to what, and by how much."""
    m = found.measure
    return (
        f"from {value(m, found.before.value, unit=False)} to {value(m, found.after.value)}, "
        f"{change(m, found.difference.value, unit=_is_share(m))} ({interval(m, found.difference)})"
    )


HELD = "The interval holds 0 though p does not: a few extreme answers carry the test, and nothing can rest on them."
UNCORRECTED = (
    "By itself the interval leaves 0 out, but p after Holm's correction is not under 0.05: among as many "
    "comparisons, or with as few questions, that comes by chance."
)
MARKS = {"": "", UNCORRECTED: "*", HELD: "**"}


def doubt(found: Comparison) -> str:
    """Why nothing is shown though the interval or p by itself would say so; "" where both say the same."""
    if found.significant:
        return ""
    return HELD if found.holm < 0.05 else UNCORRECTED if found.excludes_zero else ""


def footnotes(found: Sequence[Comparison]) -> list[str]:
    """What the marks after "no difference shown" mean, those that there are."""
    there = {doubt(each) for each in found}
    return [f"{mark} {why}" for why, mark in MARKS.items() if why and why in there]


def needs(found: Comparison) -> str:
    """How many questions it would take, or what is in the way; "" where the arms do not differ at all."""
    if why := doubt(found):
        return why
    if found.needed is None:
        return ""
    if found.needed <= found.difference.n:
        return f"These {count(found.difference.n)} questions would do for one test; not for as many as were made here."
    return (
        f"A difference of this size would take about {count(_round(found.needed))} questions to show; "
        f"these are {count(found.difference.n)}."
    )


def _round(number: int) -> int:
    """Two digits are more than a number of questions needed deserves."""
    step: int = 10 ** max(0, len(str(number)) - 2)
    return -(-number // step) * step


def listed(names: Sequence[str]) -> str:
    """Names as a list in a sentence."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
