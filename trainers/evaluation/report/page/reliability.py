"""The judge: whether it can be trusted, how often it prefers an arm, and what place and length had to do with it."""

from __future__ import annotations

from trainers.evaluation.core import Estimate
from trainers.evaluation.judging.calibration import SAID, Calibration, warnings
from trainers.evaluation.report.page.contents import Contents, rated, side
from trainers.evaluation.report.page.markup import Html, against, joined, number, table, tag
from trainers.evaluation.report.page.plots import axis, forest, stack
from trainers.evaluation.report.wording import probability
from trainers.evaluation.stats.preference import FEW, Preference

UNTRIED = "This judge was not held against people's labels (--calibrate): nothing here says how far it can be trusted."


def judge(it: Contents, baseline: str) -> Html:
    """What the judge said, and how far it can be trusted: both orders, place, length, calibration."""
    parts = [_calibration(it.calibration)] if it.calibration else []
    orders = not it.run.get("rule")  # a rule has no order to be swayed by
    parts += [_preference(arm, baseline, pref, orders=orders) for arm, pref in it.preferences.items()]
    parts += [tag("p", it.unread, class_="note")] if it.unread else []
    if it.run.get("judge") and not it.calibration:
        why = str(it.run.get("untried") or UNTRIED)
        parts.insert(0, tag("p", why[:1].upper() + why[1:], class_="trouble"))
    return joined(parts)


def _calibration(found: Calibration) -> Html:
    place, length = found.judge.position, found.judge.length
    rows = (
        ("The judge says what most people said", found.agreement, None),
        ("The judge says what one person said", found.with_person, None),
        ("One person says what another did", found.person, None),
        (f"Always saying “{SAID[found.baseline]}” would be right", found.baseline_share, None),
        ("Both orders give the same verdict", found.consistency, None),
        ("Verdicts for the first place (fair: 50%)", place.share if place else None, 0.5),
        ("Verdicts for the longer answer", length.share if length else None, 0.5),
        ("People for the longer answer", found.longer_people, 0.5),
    )
    body = [
        tag("tr", tag("th", name, scope="row"),
            tag("td", stack([("bar", e.value), ("rest", 1 - e.value)], notch), class_="plot"),
            number("Share", tag("b", f"{e.value:.1%}"), f"{e.low:.1%} to {e.high:.1%}"))
        for name, e, notch in rows if e
    ]  # fmt: skip
    kappa = f"Cohen's kappa {found.kappa.value:.2f} ({found.kappa.low:.2f} to {found.kappa.high:.2f})"
    kappa += f", of two people {found.person_kappa.value:.2f}" if found.person_kappa else ""
    intro = (
        f"{found.pairs:,} pairs that people had compared, each shown to the judge in both orders. {kappa}. Left out: "
        f"{found.no_majority:,} without a majority of people, {found.unreadable:,} without two readable verdicts."
    )
    told = [tag("li", text) for text in warnings(found)]
    fine = tag("p", "It agrees with people beyond the simplest rule, and no habit was found.", class_="said")
    heads = [("", ""), ("", ""), ("Share, 95%", "number")]
    return tag(
        "div",
        tag("h3", "Can this judge be trusted?"),
        tag("ul", told, class_="warnings") if told else fine,
        tag("p", intro, class_="note"),
        table("The judge against people", heads, body, "shares", seen=False),
        class_="panel",
    )


def _preference(arm: str, baseline: str, pref: Preference, *, orders: bool) -> Html:
    rates = [("At equal length", pref.controlled.rate if pref.controlled else None)]
    who = "judge" if orders else "rule"
    if orders:
        rates += [("Verdicts that both orders agree on", pref.win_rate), ("The mean of both orders", pref.mean_rate)]
    else:
        rates += [("All pairs", pref.win_rate)]
    body = [
        tag("tr", tag("th", name, scope="row"), tag("td", forest(_centred(e), 0.5), class_="plot"),
            number("Rate", tag("b", f"{e.value:.1%}"), f"{e.low:.1%} to {e.high:.1%}"), class_=side(e))
        for name, e in rates if e
    ]  # fmt: skip
    outcomes = [
        ("better", pref.wins, "wins"),
        ("rest", pref.ties, "ties"),
        ("split", pref.split, "ties, as the orders contradict each other"),
        ("worse", pref.losses, "losses"),
    ]
    legend = [tag("span", tag("i", class_=f"key {look}"), f"{n:,} {name}") for look, n, name in outcomes if n]
    notes = [_place(pref), _length(pref)]
    if pref.unreadable or pref.refused:
        notes.append(f"Left out: {pref.unreadable:,} of {pref.items:,} pairs whose verdict could not be read, "
                     f"{pref.refused:,} that the judge's engine refused.")  # fmt: skip
    heads = [("Win rate", ""), (axis("0%", "50%", "100%"), "plot"), ("95% interval", "number")]
    return tag(
        "div",
        against(arm, baseline, f", {pref.items:,} pairs{' in both orders' if orders else ''}"),
        stack([(look, n) for look, n, _ in outcomes]),
        tag("p", legend, class_="legend"),
        table(f"How often the {who} prefers {arm} to {baseline}", heads, body, "shares", seen=False),
        tag("ul", [tag("li", note) for note in notes if note], class_="notes"),
        class_="panel",
    )


def _centred(found: Estimate) -> Estimate:
    return Estimate(found.value - 0.5, found.low - 0.5, found.high - 0.5, found.n)


def _place(pref: Preference) -> str:
    if not (place := pref.position):
        return ""
    habit = "so the place sways this judge" if place.p < 0.05 else "which is not shown to be more than chance"
    return (
        f"Place: {rated(place.share)} of the verdicts are for the answer that it read first, {habit} (fair: 50%; p "
        f"{probability(place.p)}, {place.test}). Every answer stood in both places, so no arm gains by it."
    )


def _length(pref: Preference) -> str:
    if not (length := pref.length):
        return ""
    text = f"Length: {rated(length.share)} of the verdicts are for the longer answer (p {probability(length.p)})."
    if not (found := pref.controlled):
        return text
    text += f" One that is {found.spread:,.0f} characters longer, else equal, would win {rated(found.longer)}."
    if found.rarer < FEW:
        text += (
            f" The correction to equal length hangs on {found.rarer:,} pairs: in the others one arm is always longer."
        )
    return text
