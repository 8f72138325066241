"""The report: what it says, that it says it as text, and how it stands in a browser."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.page.conftest import browser, missing, open_tab  # noqa: F401  (fixtures)
from tests.page.test_views import violations
from trainers.evaluation.core import Answer, Comparison, Estimate, Measure, Question
from trainers.evaluation.judging.calibration import compared
from trainers.evaluation.judging.labels import Labelled
from trainers.evaluation.report.page.markup import joined, tag
from trainers.evaluation.report.page.plots import forest, nice, stack
from trainers.evaluation.report.report_files import SCHEMA, table, write_report
from trainers.evaluation.report.terminal import judged
from trainers.evaluation.report.wording import change, interval, needs, summary, value, word
from trainers.evaluation.stats.compare import compare
from trainers.evaluation.stats.preference import preference
from trainers.judge.pairwise import Item, Verdict

HOSTILE = (
    '</p></span></div></style></title></main><script>document.title="owned";fetch("http://evil.example/")</script>'
    '<img src="http://evil.example/x.png" onerror="document.title=1"><style>@import url(http://evil.example/);</style>'
    '<a href="javascript:document.title=2">x</a><iframe src="http://evil.example"></iframe>"\'><svg onload=alert(1)>'
    "\u202e reversed \x00\x07\ud800 &amp; &#60; <!-- ]]> {{x}} ${y}"
)
ARMS = ("plain", "urial")
SENTENCES = (
    "This can be said in short.", "First, take what is known.", "Then ask what follows from it.", "It may not be much.",
    "Still, it often suffices.", "In the end, try it.",
)  # fmt: skip
NEEDS_BROWSER = pytest.mark.skipif(bool(missing()), reason=missing() or "")


def comparison(name: str = "clean_ending", kind: Any = "rate", better: Any = "higher", **more: Any) -> Comparison:
    at = {"before": 0.6, "after": 0.8, "difference": 0.2, "low": 0.1, "high": 0.3, "holm": 0.01, "needed": None} | more
    before, after = (Estimate(at[k], at[k] - 0.1, at[k] + 0.1, 80) for k in ("before", "after"))
    difference = Estimate(at["difference"], at["low"], at["high"], 80)
    measure = Measure(name, kind, better, "about it", more.get("unit", ""))
    test = ("McNemar, exact", 0.001, at["holm"], at["needed"])
    return Comparison(measure, "plain", "urial", before, after, difference, *test)


def run_of(size: int = 60, text: str = "") -> tuple[list[Question], dict[str, list[Answer]]]:
    """Questions of two kinds, and two arms' answers: the second is cut off less often and writes more."""
    questions = [Question(f"q{i}", (f"Question {i}? {text}",), kind=("maths", "law")[i % 2]) for i in range(size)]
    answers: dict[str, list[Answer]] = {arm: [] for arm in ARMS}
    for i, question in enumerate(questions):
        for arm in ARMS:
            cut = i % 3 == 0 if arm == "plain" else i % 20 == 1
            said = " ".join(SENTENCES[: 3 if arm == "plain" else 6]) + text
            answers[arm].append(
                Answer(arm, question.id, 0, 1, "ok", (said.strip(),), "length" if cut else "stop",
                       stages={"urial": "applied(3)"} if arm == "urial" else {}, prompt_tokens=20, completion_tokens=9,
                       cached_tokens=5, first_s=0.1, total_s=1.0 + i / 100)
            )  # fmt: skip
    return questions, answers


def verdicts_of(questions: list[Question], why: str = "") -> list[Verdict]:
    marks: list[Any] = [("B", "A"), ("A", "B"), ("A", "A"), ("B", "A"), ("tie", "A"), ("unreadable", "A")]
    return [
        Verdict(q.id, *marks[i % 6], (-1) ** (i // 6) * 40 - i, q.kind, (why, why)) for i, q in enumerate(questions)
    ]


def write(folder: Path, size: int = 60, text: str = "") -> str:
    questions, answers = run_of(size, text)
    answers["plain"][-1] = Answer("plain", questions[-1].id, 0, 1, "failed", error=f"answered 503 {text}")
    answers["urial"][-2] = Answer("urial", questions[-2].id, 0, 1, "refused", error="400: too long")
    verdicts = verdicts_of(questions, f"It is better. {text}")
    people = [("win", "win", "loss"), ("loss",) * 3, ("tie", "tie", "win")]
    labelled = [_labelled(str(i), people[i % 3]) for i in range(30)]
    calibration = compared(labelled, [Verdict(str(i), "B", "A", 5) for i in range(30)])
    arms = [
        {"name": arm, "url": "http://127.0.0.1:8000", "model": f"tiny{text}", "policy": arm, "digest": "abcdef",
         "decoding": {"temperature": 0}, "stages": []}
        for arm in ARMS
    ]  # fmt: skip
    prompts = {"set": {"file": f"set{text}.jsonl", "sha256": "0" * 64, "form": "auto", "questions": size}}
    run = {
        "version": "0.1.0", "command": ["trimtab", "eval", "--arm", f"plain{text}", "--out", "runs/x y"],
        "judge": "http://j#judge-7b", "arms": arms, "fixed": {"prompts": prompts, "seed": 3, "samples": 1},
    }  # fmt: skip
    write_report(
        folder, run, questions, answers, compare(questions, answers, "plain"), calibration,
        {"urial": preference(verdicts)}, verdicts={"urial": verdicts},
    )  # fmt: skip
    return (folder / "report.html").read_text("utf-8")


def _labelled(name: str, people: Any) -> Labelled:
    return Labelled(Item(name, (name,), ("a",), ("b",)), people)


class Reader(HTMLParser):
    """The tags of a page, each closed in its order, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(("better", "difference", "holm", "said"), [
    ("higher", 0.2, 0.01, "better"), ("higher", -0.2, 0.01, "worse"), ("lower", -0.2, 0.01, "better"),
    ("lower", 0.2, 0.01, "worse"),
    ("", 0.2, 0.01, "higher"), ("", -0.2, 0.01, "lower"), ("higher", 0.2, 0.05, "no difference shown"),
    ("higher", 0.0, 0.01, "no difference shown"),
])  # fmt: skip
def test_a_word_for_every_comparison(better: str, difference: float, holm: float, said: str) -> None:
    assert word(comparison(better=better, difference=difference, holm=holm)) == said


def test_a_difference_is_shown_only_where_interval_and_test_both_say_so() -> None:
    sure, held = comparison(holm=0.01), comparison("total_s", holm=0.002, low=-2.22, high=4.11, difference=0.95)
    alone = comparison("words", holm=0.3)
    assert [word(sure), word(held), word(alone)] == ["better", "no difference shown", "no difference shown"]
    assert not held.significant
    assert needs(held).startswith("The interval holds 0 though p does not")
    assert "after Holm's correction is not under 0.05" in needs(alone)
    shown = table([sure, held, alone], 120)
    rows = {line.split("  ")[0]: line for line in shown.splitlines()}
    assert rows["words"].endswith("no difference shown*")
    assert rows["time to whole answer"].endswith("no difference shown**")
    assert "\n* By itself the interval" in shown
    assert "\n** The interval holds 0" in shown
    assert "*" not in table([sure], 120)


def test_numbers_are_written_as_their_measure_wants() -> None:
    rate, long = Measure("m", "rate", "", "m"), Measure("m", "mean", "", "m", "characters")
    assert [value(rate, 0.6125), change(rate, 0.2), change(rate, -0.031)] == ["61.3%", "+20.0 points", "−3.1 points"]
    assert [change(rate, 0.00001), value(long, 1234.5), change(long, -0.5)] == [
        "0.0 points",
        "1,234 characters",
        "−0.50 characters",
    ]
    assert interval(rate, Estimate(0.1, -0.05, 0.25, 9)) == "−5.0 to +25.0"


def test_what_was_not_shown_says_how_many_questions_it_takes() -> None:
    assert (
        needs(comparison(needed=2311))
        == "A difference of this size would take about 2,400 questions to show; these are 80."
    )
    assert "would do for one test" in needs(comparison(needed=60))
    assert needs(comparison(needed=None)) == ""
    [said] = summary([comparison(holm=0.4), comparison("over_refusal", better="lower")])
    assert (len(said.unshown), len(said.worse)) == (1, 1)
    assert said.headline == "Worse in over refusal."
    [none] = summary([comparison(holm=0.4)])
    assert none.headline == "Nothing shown: no measure tells urial from plain."


# ---------------------------------------------------------------- terminal


@pytest.mark.parametrize("width", [72, 80, 100, 120, 200])
def test_the_table_fits(width: int) -> None:
    rows = [
        comparison(), 
        comparison("characters", "mean", "", unit="characters", before=812, difference=1091, low=877, high=1310),
        comparison("a_measure_with_a_name_that_is_much_too_long_for_a_narrow_terminal", holm=0.3, low=-0.1),
    ]  # fmt: skip
    shown = table(rows, width)
    assert max(map(len, shown.splitlines())) <= width
    assert "urial against plain" in shown
    assert "+20.0 pt" in shown
    assert "+10.0 to +30.0" in shown
    assert ("no difference shown" if width >= 100 else "not shown") in shown.split("Differences")[0]
    assert "better: clean ending" in shown


def test_the_judge_is_told_of_in_the_terminal() -> None:
    questions, _ = run_of(60)
    shown = judged({"urial": preference(verdicts_of(questions)), "none": preference([])}, "plain")
    assert "urial against plain, by the judge: 60 pairs in both orders" in shown
    assert re.search(r"win rate at equal length +\d\d\.\d% \(\d\d\.\d% to \d\d\.\d%\)", shown)
    assert "20 wins, 10 losses, 0 ties, 20 where the orders disagree" in " ".join(shown.split())
    assert "left out: 10 that could not be read" in shown
    assert "no verdict could be read" in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_the_table_is_plain_text() -> None:
    assert "\x1b" not in table([comparison()], 80)
    assert table([], 80).strip().startswith("Differences")


# ---------------------------------------------------------------- files


def test_the_json_says_what_the_page_says(tmp_path: Path) -> None:
    write(tmp_path)
    told = json.loads((tmp_path / "report.json").read_text())
    assert told["schema"] == SCHEMA
    assert {row["word"] for row in told["comparisons"]} >= {"better", "higher", "no difference shown"}
    assert told["summary"][0].startswith("urial against plain: Better in clean ending")
    assert told["arms"]["plain"]["failed"] == 1
    assert told["arms"]["urial"]["refused"] == 1
    assert told["arms"]["urial"]["left_out"] == 1
    assert told["arms"]["urial"]["stages"] == {"urial": {"applied": 59}}
    assert set(told["kinds"]) == {"maths", "law"}
    assert told["judge"]["urial"]["unreadable"] == 10
    assert told["calibration"]["pairs"] == 30
    assert told["run"]["fixed"]["seed"] == 3
    assert not list(tmp_path.glob("*.part"))


def test_numbers_that_are_none_are_null(tmp_path: Path) -> None:
    questions, answers = run_of(4)
    odd = comparison(low=float("-inf"), high=float("nan"))
    write_report(tmp_path, {}, questions, answers, [odd])
    told = json.loads((tmp_path / "report.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert told["comparisons"][0]["difference"]["low"] is None
    Reader((tmp_path / "report.html").read_text())


def test_the_page_has_everything_a_reader_needs(tmp_path: Path) -> None:
    page = Reader(write(tmp_path))
    assert page.open == []
    for text in (
        "What changes from plain to urial", "Better", "no difference shown", "Can this judge be trusted?", "would win",
        "Largest gains", "Largest losses",
        "What the stages did", "What it cost", "SHA-256", "0" * 64, "answered 503",
        "trimtab eval --arm plain --out 'runs/x y'", "temperature 0",
        "At equal length", "ties, as the orders contradict",
    ):  # fmt: skip
        assert text in page.text, text
    sections = [attrs.get("id") for name, attrs in page.tags if name == "section"]
    assert sections == ["summary", "effects", "kinds", "judge", "cases", "answers", "made"]
    links = [str(attrs["href"])[1:] for name, attrs in page.tags if name == "a" and attrs.get("class") != "skip"]
    assert links == sections
    tables = sum(name == "table" for name, _ in page.tags)
    assert tables == sum(name == "caption" for name, _ in page.tags) > 5


def test_an_empty_run_has_a_page(tmp_path: Path) -> None:
    questions, answers = run_of(3)
    write_report(tmp_path, {}, questions, {"plain": answers["plain"]}, [])
    page = Reader((tmp_path / "report.html").read_text())
    assert "nothing to compare" in page.text
    write_report(tmp_path, {}, [], {}, [])


def test_an_arm_that_failed_does_not_vanish(tmp_path: Path) -> None:
    questions, answers = run_of(6)
    gone = {"name": "gone", "wanted": 6, "answered": 0, "refused": 2, "failed": 3, "stopped": "answered 500: broken"}
    run = {"arms": [{"name": "plain", "wanted": 6, "answered": 6, "refused": 0}, gone]}
    write_report(tmp_path, run, questions, answers, compare(questions, answers, "plain"))
    told = json.loads((tmp_path / "report.json").read_text())["arms"]
    assert list(told) == ["plain", "urial", "gone"]
    assert (told["gone"]["asked"], told["gone"]["refused"], told["gone"]["failed"]) == (6, 2, 4)
    assert "answered 500: broken" in Reader((tmp_path / "report.html").read_text()).text


def test_450_prompts_and_three_arms_make_a_small_page(tmp_path: Path) -> None:
    rng = random.Random(0)
    questions, answers = run_of(450, " ".join(f"word{rng.randrange(999)}" for _ in range(300)))
    questions = [Question(q.id, q.turns, kind=f"kind {i % 18}") for i, q in enumerate(questions)]
    answers["urial + opo"] = [
        Answer("urial + opo", a.question, 0, 1, "ok", a.texts, a.finish, stages=a.stages) for a in answers["urial"]
    ]
    verdicts = verdicts_of(questions, "why " * 900)
    write_report(
        tmp_path, {}, questions, answers, compare(questions, answers, "plain"), None,
        dict.fromkeys(("urial", "urial + opo"), preference(verdicts)),
        verdicts={"urial": verdicts, "urial + opo": verdicts},
    )  # fmt: skip
    assert 50_000 < (tmp_path / "report.html").stat().st_size < 300_000
    text = Reader((tmp_path / "report.html").read_text()).text
    assert "more characters are in answers.jsonl" in text
    assert "was not held against people's labels" not in text  # no judge was named


# ---------------------------------------------------------------- as text


def test_markup_is_made_by_tag_alone() -> None:
    assert tag("p", "<b>", tag("i", "x"), None, ["&", tag("b", "y")]) == "<p>&lt;b&gt;<i>x</i>&amp;<b>y</b></p>"
    assert tag("a", href='"><script>', class_="x", hidden=True, title=None) == (
        '<a href="&quot;&gt;&lt;script&gt;" class="x" hidden></a>'
    )
    assert joined("\x00\ud800") == "\ufffd\ufffd"
    assert tag("line", x1=1) == '<line x1="1"/>'


def test_plots_hold_what_they_are_given() -> None:
    assert [nice(x) for x in (0.284, 7, 1091, 0, float("nan"))] == pytest.approx([0.3, 8, 1500, 1, 1])
    drawn = forest(Estimate(0.2, float("-inf"), 9.0, 5), 0.3)
    assert all(0 <= float(x) <= 240 for x in re.findall(r'\b[c]?x[12]?="([^"]+)"', drawn))
    assert stack([("better", 0), ("worse", 0)]).count("<rect") == 0


def test_hostile_text_is_text_wherever_it_stands(tmp_path: Path) -> None:
    page = write(tmp_path, text=HOSTILE)
    hostile = Reader(page)
    assert hostile.open == []
    plain = Reader(write(tmp_path / "plain"))
    assert {name for name, _ in hostile.tags} == {name for name, _ in plain.tags}
    assert not [key for _, attrs in hostile.tags for key in attrs if key.startswith("on") or key in ("style", "src")]
    assert {str(attrs["href"])[0] for name, attrs in hostile.tags if "href" in attrs} == {"#"}
    assert hostile.text.count("<script>") > 10
    assert "\x00" not in page


def test_the_page_lets_nothing_load_and_nothing_run(tmp_path: Path) -> None:
    page = Reader(write(tmp_path))
    [policy] = [str(a["content"]) for name, a in page.tags if name == "meta" and a.get("http-equiv")]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert not re.search(r"url\(|@import", (tmp_path / "report.html").read_text().split("</style>")[0])


# ---------------------------------------------------------------- in a browser


@NEEDS_BROWSER
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 360), ("dark", 768)])
def test_it_stands_in_a_browser(tmp_path: Path, open_tab: Callable[..., Any], scheme: str, width: int) -> None:  # noqa: F811
    write(tmp_path, text=HOSTILE if width == 360 else "")
    tab = open_tab("", color_scheme=scheme, viewport={"width": width, "height": 800}, bypass_csp=True, offline=True)
    asked: list[str] = []
    tab.page.on("request", lambda request: asked.append(request.url))
    tab.page.goto((tmp_path / "report.html").as_uri())
    tab.page.evaluate("document.querySelectorAll('details').forEach(node => { node.open = true; })")
    assert asked == [(tmp_path / "report.html").as_uri()]
    assert tab.page.evaluate("document.documentElement.scrollWidth") == width
    beyond = """() => [...document.querySelectorAll('main *')].filter(node => node.checkVisibility()
        && !node.closest('.hidden, thead, svg, .quote'))
        .filter(node => node.getBoundingClientRect().right > innerWidth + 1)
        .map(node => `${node.tagName}.${node.className}`)"""
    assert tab.page.evaluate(beyond) == []
    assert violations(tab.page) == []


@NEEDS_BROWSER
def test_hostile_text_does_nothing_and_the_policy_holds(tmp_path: Path, open_tab: Callable[..., Any]) -> None:  # noqa: F811
    write(tmp_path, text=HOSTILE)
    tab = open_tab("")
    asked: list[str] = []
    tab.page.on("request", lambda request: asked.append(request.url))
    tab.page.goto((tmp_path / "report.html").as_uri())
    assert len(asked) == 1
    assert tab.page.title() == "urial against plain · Trimtab eval"
    assert tab.page.evaluate("getComputedStyle(document.querySelector('.panel')).borderRadius") == "10px"
    assert tab.page.locator("script, img, iframe").count() == 0
    tab.page.locator("summary", has_text="run.json").click()
    assert "<script>" in tab.page.locator("pre").last.inner_text()


@NEEDS_BROWSER
def test_every_plot_is_drawn(tmp_path: Path, open_tab: Callable[..., Any]) -> None:  # noqa: F811
    """An element of SVG that is not closed swallows those after it, and nothing says so."""
    write(tmp_path)
    tab = open_tab("")
    tab.page.goto((tmp_path / "report.html").as_uri())
    nested = "document.querySelectorAll('svg line *, svg rect *, svg circle *, svg path *').length"
    assert tab.page.evaluate(nested) == 0
    rows, dots = tab.page.locator(".forests tbody tr"), tab.page.locator(".forests .dot")
    assert rows.count() == dots.count() > 10
    for i in (0, rows.count() - 1):
        assert dots.nth(i).bounding_box()["width"] > 5
