"""What it comes to: the heading, and for each arm what is better, what is worse and what was not shown."""

from __future__ import annotations

from collections.abc import Sequence

from trainers.evaluation.measure.counts import missing
from trainers.evaluation.report.page.contents import LOOK, SIGN, Contents, rated, side
from trainers.evaluation.report.page.markup import Html, against, chip, facts, joined, tag
from trainers.evaluation.report.wording import Said, change, count, interval, moved, name_of, needs
from trainers.evaluation.stats.preference import Preference


def opening(it: Contents, said: Sequence[Said], baseline: str) -> Html:
    """The page's heading: what was compared, on what, and when."""
    heading = tag("h1", "Answers of one arm")
    if said:
        arms: list[str] = []
        for i, one in enumerate(said):
            arms += [" and " if i == len(said) - 1 else ", "] if i else []
            arms.append(tag("b", one.arm))
        heading = tag("h1", "What changes from ", tag("b", baseline), " to ", joined(*arms))
    run = it.run
    judge, samples = run.get("judge") or run.get("rule"), run.get("fixed", run).get("samples")
    given = {
        "Questions": count(it.questions),
        "Answers to each": str(samples) if samples else None,
        "Arms": str(len(it.arms)),
        "Judge": str(judge).rsplit("#", 1)[-1] if judge else "none",
        "Finished": str(run.get("finished", "")).replace("T", " ")[:16] or None,
        "Trimtab": str(run.get("version", "")) or None,
    }
    return tag("div", heading, facts(given), class_="opening")


def verdicts(it: Contents, said: Sequence[Said]) -> Html:
    """A sentence for each arm on what changed."""
    if not said:
        return tag("p", "There is nothing to compare: no other arm answered the same questions.", class_="note")
    return tag("div", [_verdict(it, one) for one in said], class_="verdicts")


def _verdict(it: Contents, one: Said) -> Html:
    groups = (
        ("Better", "better", one.better),
        ("Worse", "worse", one.worse),
        ("Different, neither better nor worse", "higher", one.changed),
    )
    parts = [
        _group(name, word, [joined(tag("b", name_of(c.measure)), " ", moved(c)) for c in found])
        for name, word, found in groups if found
    ]  # fmt: skip
    parts = [*(tag("p", text, class_="trouble") for text in missing(it.arms, one.baseline, one.arm)), *parts]
    if pref := it.preferences.get(one.arm):
        parts.append(_preferred(pref, one.baseline))
    if one.unshown:
        parts.append(_unshown(one))
    sizes = ((one.better, "better", "better"), (one.worse, "worse", "worse"), (one.changed, "different", "other"),
             (one.unshown, "not shown", "none"))  # fmt: skip
    chips = [chip(f"{len(found)} {name}", look) for found, name, look in sizes if found]
    head = tag("header", against(one.arm, one.baseline), tag("p", chips, class_="chips"))
    return tag("article", head, tag("p", one.headline, class_="said"), parts, class_="panel verdict")


def _group(name: str, word: str, lines: Sequence[Html]) -> Html:
    sign = tag("span", SIGN.get(word, "○"), aria_hidden="true", class_="sign")
    items = tag("ul", [tag("li", line) for line in lines])
    return tag("div", tag("h4", sign, name), items, class_=f"group {LOOK.get(word, 'none')}")


def _unshown(one: Said) -> Html:
    lines = [
        joined(tag("b", name_of(c.measure)), f" {change(c.measure, c.difference.value)} "
               f"({interval(c.measure, c.difference)}). {needs(c)}")
        for c in one.unshown
    ]  # fmt: skip
    if len(lines) <= 4:
        return _group("Not shown", "", lines)
    name = f"Not shown: {len(lines)} measures could not tell the arms apart"
    return tag("details", tag("summary", name), tag("ul", [tag("li", line) for line in lines]), class_="group none")


def _preferred(pref: Preference, baseline: str) -> Html:
    rate = pref.controlled.rate if pref.controlled else pref.win_rate
    if rate is None:
        return tag("p", "The judge gave no verdict that could be read.", class_="trouble")
    look = side(rate)
    found = {"better": "is preferred to", "worse": "is less liked than", "none": "is not shown to differ from"}[look]
    at = "at equal length" if pref.controlled else "by its verdicts"
    text = f"{at.capitalize()} the arm {found} {baseline}: it wins {rated(rate)}, and 50% would be even."
    return _group("The judge", look, [joined(text)])
