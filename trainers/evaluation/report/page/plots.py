"""The report's drawings, as SVG in the page. Colours are the style sheet's; what they show stands in words beside."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from trainers.evaluation.core import Estimate
from trainers.evaluation.report.page.markup import Html, joined, tag

WIDTH, MARGIN = 240.0, 8.0


def nice(limit: float) -> float:
    """The next round number."""
    if not math.isfinite(limit) or limit <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(limit) + 1e-9)
    return next(power * step for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if power * step >= limit * (1 - 1e-9))


def reach(found: Iterable[Estimate], middle: float = 0.0) -> float:
    """How far an axis around `middle` has to reach for all of these intervals."""
    ends = [abs(x - middle) for each in found for x in (each.low, each.high, each.value) if math.isfinite(x)]
    return nice(max(ends, default=0.0))


def forest(found: Estimate, limit: float, labels: tuple[str, str] | None = None) -> Html:
    """An interval on an axis from -limit to limit; a filled dot where a difference is shown, an open one where not."""
    at = [_x(number, limit) for number in (found.low, found.value, found.high)]
    low, middle, high = at
    height = 34 if labels else 22
    parts = [
        tag("line", class_="zero", x1=_n(WIDTH / 2), x2=_n(WIDTH / 2), y1=0, y2=22),
        tag("line", class_="range", x1=_n(low), x2=_n(high), y1=11, y2=11),
        *(tag("line", class_="range", x1=_n(x), x2=_n(x), y1=7, y2=15) for x in (low, high)),
        tag("circle", class_="dot", cx=_n(middle), cy=11, r=4.5),
    ]
    if labels:
        parts += [
            tag("text", labels[0], x=_n(MARGIN), y=32),
            tag("text", labels[1], x=_n(WIDTH - MARGIN), y=32, text_anchor="end"),
        ]
    return _svg(parts, height, "forest")


def axis(left: str, middle: str, right: str) -> Html:
    """What stands above the plots that share an axis."""
    spots = ((MARGIN, "start", left), (WIDTH / 2, "middle", middle), (WIDTH - MARGIN, "end", right))
    drawn = _svg([tag("text", text, x=_n(x), y=10, text_anchor=anchor) for x, anchor, text in spots], 13, "axis")
    return joined(tag("span", f"Plot, from {left} to {right}", class_="hidden"), drawn)


def stack(parts: Sequence[tuple[str, float]], notch: float | None = None) -> Html:
    """Shares of a whole, side by side: (look, how many). `notch` marks a place, as a share of the width."""
    whole = sum(size for _, size in parts) or 1.0
    at, drawn = 0.0, []
    for look, size in parts:
        wide = WIDTH * size / whole
        if size:
            drawn.append(tag("rect", class_=look, x=_n(at), y=0, width=_n(max(wide - 1, 0.8)), height=12))
        at += wide
    if notch is not None:
        drawn.append(tag("line", class_="zero", x1=_n(WIDTH * notch), x2=_n(WIDTH * notch), y1=0, y2=12))
    return _svg(drawn, 12, "stack", preserveAspectRatio="none")


def _svg(parts: Iterable[Html], height: float, look: str, **more: str) -> Html:
    box = f"0 0 {WIDTH:.0f} {height:.0f}"
    return tag("svg", joined(*parts), class_=look, viewBox=box, aria_hidden="true", focusable="false", **more)


def _x(number: float, limit: float) -> float:
    """Where a number stands; beyond the axis, at its end."""
    share = max(-1.0, min(1.0, number / limit if math.isfinite(number) else 0.0))
    return WIDTH / 2 + share * (WIDTH / 2 - MARGIN)


def _n(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
