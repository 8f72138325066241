"""From a complaint to a draft, and an evaluation's report opened in place; hostile text stays text.

SHOTS=FOLDER keeps the pictures.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.page.conftest import ASKED, CONFIG, RULE, Served, Tab
from tests.page.test_views import LOOKS, cut_off, violations
from tests.upstream import FakeUpstream

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>"
NOTE = (
    "A small chat model runs on this machine without a GPU, behind a shop's rules. It is small: it gets facts wrong. "
    * 2
)


def compared(name: str, kind: str, unit: str, change: float) -> dict[str, Any]:
    def estimate(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.05, "high": value + 0.05, "n": 64}

    return {
        "measure": {"name": name, "kind": kind, "better": "", "about": HOSTILE, "unit": unit},
        "baseline": "raw", "arm": "careful", "before": estimate(0.25), "after": estimate(0.25 + change),
        "difference": estimate(change), "holm": 0.0001, "word": "higher",
    }  # fmt: skip


ROWS = [compared("refused", "rate", "", 0.125), compared("prompt_tokens", "mean", "tokens", -62.0)]
REPORT = {
    "schema": "trimtab-eval-report/1", "summary": [f"careful against raw: {HOSTILE}"], "questions": 64,
    "comparisons": ROWS, "kinds": {HOSTILE: ROWS}, "run": {"finished": "2026-01-02", "baseline": "raw"},
}  # fmt: skip


@pytest.fixture(scope="module")
def desk(
    start: Callable[..., Served], upstream: FakeUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    runs = tmp_path_factory.mktemp("runs")
    (runs / "release-1").mkdir()
    (runs / "release-1" / "report.json").write_text(json.dumps(REPORT))
    upstream.scripts["page-rewriter"] = [ASKED]
    settings = f'reports = "{runs}"\npage_note = "{NOTE}"\n'
    served = start(file=CONFIG.replace('policy = "careful"\n', f'policy = "careful"\n{settings}', 1))
    rule = RULE | {"text": f"{RULE['text']} {HOSTILE}"}
    added = httpx.post(served.url + "/v1/principles", json={"index": "law", "principles": [rule]}, timeout=30)
    assert added.status_code == 200, added.text
    yield served
    upstream.scripts.pop("page-rewriter", None)


def judged(tab: Tab, look: str, name: str) -> None:
    tab.page.evaluate("scrollTo(0, 0)")
    if folder := os.environ.get("SHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        tab.page.screenshot(path=Path(folder) / f"complaint-{look}-{name}.png", full_page=True)
    assert cut_off(tab.page) == [], name
    assert not re.search(r"\[object|undefined|NaN", tab.page.locator("body").inner_text()), name
    assert tab.page.locator("main script, main img").count() == 0, name
    assert violations(tab.page) == [], name


@pytest.mark.parametrize("look", ["light", "phone"])
def test_a_report_is_opened_in_place(desk: Served, open_tab: Callable[..., Tab], look: str) -> None:
    tab = open_tab(desk.url, **LOOKS[look])
    page = tab.open("#use")
    page.get_by_role("link", name="release-1").click()
    page.get_by_role("heading", name="Evaluation release-1").wait_for()
    page.reload()
    page.get_by_role("heading", name="careful against raw").first.wait_for()
    first, second = page.locator("main tbody").first.locator("tr").all()
    assert "25.0 % (20.0 to 30.0)" in first.inner_text()
    assert "+12.5 points (+7.5 to +17.5)" in first.inner_text()
    assert "−62 tokens" in second.inner_text()
    assert HOSTILE in page.locator("main li").first.inner_text()
    page.locator("summary", has_text="Questions of the kind").click()
    judged(tab, look, "report")
    page.go_back()
    page.get_by_role("heading", name="Evaluations").wait_for()


def test_a_complaint_becomes_a_draft_of_its_rule_and_of_its_policy(desk: Served, open_tab: Callable[..., Tab]) -> None:
    body = {"messages": [{"role": "user", "content": ASKED}], "trimtab": {"explain": True}}
    answer = httpx.post(f"{desk.url}/v1/chat/completions", json=body, timeout=30)
    trace = answer.headers["x-trimtab-trace"]
    httpx.get(f"{desk.url}/v1/traces/{trace}").raise_for_status()
    tab = open_tab(desk.url, **LOOKS["light"])
    page = tab.open(f"#why/{trace}")
    page.get_by_role("link", name="Propose a change of this rule").click()
    page.get_by_role("heading", name="Propose a change").wait_for()
    assert HOSTILE in page.get_by_label("Text", exact=True).input_value()
    assert trace in page.get_by_label("Reason").input_value()
    judged(tab, "light", "rule")
    page.get_by_label("Text", exact=True).fill("A phone call may be recorded by nobody.")
    page.get_by_role("button", name="Draft it").click()
    page.get_by_role("heading", name="change rule law/call-1").first.wait_for()
    assert page.get_by_label("Question").input_value() == ASKED
    change = httpx.get(f"{desk.url}/v1/changes/{re.findall(r'changes/([^?]+)', page.url)[0]}").json()
    assert [row["field"] for row in change["diff"][0]["fields"]] == ["text"]  # tags and all else stay

    page.goto(f"{desk.url}/#why/{trace}")
    page.get_by_role("link", name="Propose a change of the policy").click()
    items = page.get_by_label("Items as JSON")
    items.wait_for()
    assert json.loads(items.input_value())[0]["name"] == "careful-draft"
    judged(tab, "light", "policy")
    page.get_by_role("button", name="Draft it").click()
    page.get_by_role("heading", name="add policy careful-draft").first.wait_for()
    assert page.get_by_label("Policy", exact=True).input_value() == "careful-draft"


def test_on_a_phone_the_note_is_above_the_composer(desk: Served, open_tab: Callable[..., Tab]) -> None:
    tab = open_tab(desk.url, **LOOKS["phone"])
    page = tab.open()
    note = page.locator(".empty .small")
    note.wait_for()
    if folder := os.environ.get("SHOTS"):
        page.screenshot(path=Path(folder) / "complaint-phone-note.png")
    box, composer = note.bounding_box(), page.locator(".composer").bounding_box()
    assert box["y"] + box["height"] <= composer["y"]
