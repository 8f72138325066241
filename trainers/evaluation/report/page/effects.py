"""The differences as tables with a forest plot in each row, over all questions and by kind."""

from __future__ import annotations

from collections.abc import Sequence

from trainers.evaluation.core import Comparison
from trainers.evaluation.report.page.contents import LOOK, SIGN, Contents
from trainers.evaluation.report.page.markup import Html, against, chip, joined, number, table, tag
from trainers.evaluation.report.page.plots import axis, forest, nice, reach
from trainers.evaluation.report.wording import (
    MARKS,
    Said,
    between,
    change,
    count,
    doubt,
    ends,
    footnotes,
    interval,
    name_of,
    probability,
    value,
    word,
)

_BY_KIND = ("s", "tokens")  # units that are not split by kind
KINDS_NOTE = """Where to look next, not what is shown: the more kinds, the more of these intervals miss by chance.
Filled dots are what holds after Holm's correction over all of them."""


def effects(it: Contents, one: Said) -> Html:
    """The effects of one arm against the baseline, a row and a plot for each measure."""
    mine = it.of(one.baseline, one.arm)
    rates, means = ([c for c in mine if c.measure.kind == kind] for kind in ("rate", "mean"))
    tables = [_table(one, rates, "Rates", reach(c.difference for c in rates))] if rates else []
    tables += [_table(one, means, "Averages", None)] if means else []
    notes = [tag("p", text, class_="note") for text in footnotes(mine)]
    return tag("div", against(one.arm, one.baseline), tables, notes, class_="effects")


def _table(one: Said, rows: Sequence[Comparison], name: str, limit: float | None) -> Html:
    """`limit`: of the axis that all rows share; None: each has its own."""
    plot: str | Html = "each on its own scale"
    if limit is not None:
        plot = axis(f"−{100 * limit:g}", "points", f"+{100 * limit:g}")
    figures = [(text, "number") for text in (one.baseline, one.arm, "Difference, 95%")]
    last = [("p (Holm)", "number"), ("n", "number"), ("", "")]
    return table(
        name, [("Measure", ""), *figures, (plot, "plot"), *last], [_row(one, c, limit) for c in rows], "forests"
    )


def _row(one: Said, found: Comparison, limit: float | None) -> Html:
    m, said = found.measure, word(found)
    look = LOOK.get(said, "none")
    own = limit if limit is not None else nice(max(abs(found.difference.low), abs(found.difference.high)))
    scale = ends(m, own) if limit is None else None
    wish = {"higher": "; more is better", "lower": "; less is better", "": ""}[m.better]
    test = f"{found.test}; {probability(found.p)} before the correction"
    return tag(
        "tr",
        tag("th", name_of(m), tag("small", f"{m.about}{wish}"), scope="row"),
        number(one.baseline, value(m, found.before.value), between(m, found.before)),
        number(one.arm, value(m, found.after.value), between(m, found.after)),
        number("Difference", tag("b", change(m, found.difference.value)), interval(m, found.difference)),
        tag("td", forest(found.difference, own, scale), class_="plot"),
        number("p", probability(found.holm), title=test),
        number("n", count(found.difference.n)),
        tag("td", chip(said + MARKS[doubt(found)], look, SIGN.get(said, "○")), class_="word"),
        class_=look,
    )


def kinds(it: Contents, said: Sequence[Said]) -> Html:
    """For each arm and each measure with a preferred direction, the difference by kind of question."""
    if len(it.kinds) < 2:
        return Html("")
    blocks = []
    for one in said:
        rows: dict[str, list[tuple[str, Comparison]]] = {}
        for kind, found in it.kinds.items():
            for c in found:
                if (
                    (c.baseline, c.arm) == (one.baseline, one.arm)
                    and c.measure.better
                    and c.measure.unit not in _BY_KIND
                ):
                    rows.setdefault(c.measure.name, []).append((kind or "(no kind)", c))
        moved = [each for each in rows.values() if len(each) > 1 and any(c.difference.value for _, c in each)]
        blocks += [_by_kind(one, each) for each in moved]
    return joined(tag("p", KINDS_NOTE, class_="note"), tag("div", blocks, class_="kinds")) if blocks else Html("")


def _by_kind(one: Said, rows: Sequence[tuple[str, Comparison]]) -> Html:
    m = rows[0][1].measure
    limit = reach(c.difference for _, c in rows)
    low, high = ends(m, limit)
    body = [
        tag(
            "tr",
            tag("th", kind, scope="row"),
            tag("td", forest(c.difference, limit), class_="plot"),
            number("Difference", tag("b", change(m, c.difference.value)), interval(m, c.difference)),
            number("n", count(c.difference.n)),
            class_=LOOK.get(word(c), "none"),
        )
        for kind, c in rows
    ]
    heads = [
        ("Kind", ""),
        (axis(low, m.unit or "points", high), "plot"),
        ("Difference, 95%", "number"),
        ("n", "number"),
    ]
    shown = sum(c.significant for _, c in rows)
    told = tag("em", f" {one.arm} against {one.baseline} · {len(rows)} kinds, {shown or 'none'} shown")
    name = f"{name_of(m)} of {one.arm} by kind"
    return tag(
        "details",
        tag("summary", tag("b", name_of(m)), told),
        table(name, heads, body, "shares", seen=False),
        class_="panel",
    )
