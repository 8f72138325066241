"""report.html: one file that asks nobody for anything, and shows whatever was said as text."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from trainers.evaluation.report.page.cases import cases
from trainers.evaluation.report.page.contents import Contents
from trainers.evaluation.report.page.details import answers, made
from trainers.evaluation.report.page.effects import effects, kinds
from trainers.evaluation.report.page.markup import Html, joined, tag
from trainers.evaluation.report.page.opening import opening, verdicts
from trainers.evaluation.report.page.reliability import judge
from trainers.evaluation.report.wording import listed, summary

__all__ = ["Contents", "page"]

FOOT = """Intervals are 95%, paired by question: the question is what is resampled, and several answers to one are
averaged first. p is two-sided, after Holm's correction over all comparisons with the baseline in which six questions
or more differ; with fewer no test can tell. A difference is shown where p < 0.05 and the interval leaves 0 out. “No
difference shown” is not the same as no difference: it means that these questions cannot tell. What models and people
wrote is shown as text, as they wrote it."""


def page(it: Contents) -> str:
    """The whole file. Its content security policy lets nothing load and nothing run."""
    said = summary(it.comparisons)
    baseline = said[0].baseline if said else next(iter(it.arms), "")
    sections = [
        ("summary", "Summary", verdicts(it, said)),
        ("effects", "Effects", joined(effects(it, one) for one in said)),
        ("kinds", "By kind", kinds(it, said)),
        ("judge", "Judge", judge(it, baseline)),
        ("cases", "Cases", joined(cases(one, it.cases.get(one.arm, ())) for one in said)),
        ("answers", "Answers and cost", answers(it)),
        ("made", "How it was made", made(it)),
    ]
    shown = [
        tag("section", tag("h2", name, id=f"{ident}-title"), content, id=ident, aria_labelledby=f"{ident}-title")
        for ident, name, content in sections
        if content
    ]
    links = [tag("a", name, href=f"#{ident}") for ident, name, content in sections if content]
    title = f"{listed([one.arm for one in said])} against {baseline}" if said else baseline
    body = tag(
        "body",
        tag("a", "Skip to the content", class_="skip", href="#main"),
        tag("header", _mark(), tag("nav", links, aria_label="Sections"), class_="top"),
        tag("main", opening(it, said, baseline), shown, id="main"),
        tag("footer", tag("p", FOOT)),
    )  # fmt: skip
    return f'<!doctype html>\n<html lang="en">\n{_head(f"{title} · Trimtab eval")}\n{body}\n</html>\n'


def _head(title: str) -> Html:
    digest = base64.b64encode(hashlib.sha256(style().encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(style())),
    )


@cache
def style() -> str:
    text = files("trainers.evaluation.report.page").joinpath("report.css").read_text("utf-8")
    return re.sub(r"\n\s*", "\n", re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)).strip() + "\n"


def _mark() -> Html:
    paths = [tag("path", d="M4 3h7v18c-4 0-7-3-7-7z"), tag("path", class_="tab", d="M13 8h4l3 8h-7z")]
    drawn = tag("svg", paths, viewBox="0 0 24 24", aria_hidden="true", focusable="false")
    return tag("span", drawn, "Trimtab", class_="mark")
