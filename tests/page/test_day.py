"""A person's day on the page: a complaint by its trace, the policy in words, the week; hostile text stays text.

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

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)><svg onload=alert(1)>"
ANSWER = (
    "**Only with consent** [call-1], and not [call-9]:\n\n1. ask *everybody*\n2. say so, as in “A phone call may be "
    "recorded by anybody who likes” [call-1]\n\n| a | b |\n|---|---|\n| `1` | 2 |\n\n```\nx = 1\n```\n\n"
    f"{HOSTILE} [here](javascript:alert(1)) [there](https://example.org/x) ![pixel](data:text/html,x)"
)
DAY = CONFIG.replace('index = ["law"]\n', 'index = ["law"]\ncite = "marks"\n') + (
    '[policy.plain]\nstages = []\n[engine.dead]\nurl = "http://127.0.0.1:1"\n'
    '[policy.dead]\nengine = "dead"\nstages = []\n'
)


@pytest.fixture(scope="module")
def day(start: Callable[..., Served], upstream: FakeUpstream) -> Iterator[Served]:
    upstream.scripts["page-rewriter"] = [ASKED]
    upstream.scripts["page-answer"] = re.findall(r".{1,9}", ANSWER, re.DOTALL)
    served = start(file=DAY.replace('model = "stream-6"', 'model = "page-answer"'))
    rules = [RULE, RULE | {"id": HOSTILE, "title": HOSTILE, "text": f"A phone call: {HOSTILE}"}]
    added = httpx.post(served.url + "/v1/principles", json={"index": "law", "principles": rules}, timeout=30)
    assert added.status_code == 200, added.text
    yield served
    for name in ("page-answer", "page-rewriter"):
        upstream.scripts.pop(name, None)


@pytest.mark.slow
@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_a_persons_day(day: Served, open_tab: Callable[..., Tab], look: str, tmp_path: Path) -> None:
    folder = Path(os.environ.get("SHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    tab = open_tab(day.url, **LOOKS[look])

    def judged(name: str) -> None:
        tab.page.evaluate("scrollTo(0, 0)")
        tab.page.screenshot(path=folder / f"day-{look}-{name}.png", full_page=True)
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= LOOKS[look]["viewport"]["width"], name
        assert not re.search(r"\[object|undefined|NaN", tab.page.locator("body").inner_text()), name
        assert violations(tab.page) == [], name

    page = tab.open("#play?policy=careful&policy=plain")
    page.locator(".composer").wait_for()
    tab.ask(ASKED)
    tab.answered()
    answer = page.locator(".answer").first
    assert answer.locator(".formed strong").first.inner_text() == "Only with consent"
    assert answer.locator(".formed table code").inner_text() == "1"
    assert HOSTILE in answer.locator(".formed").inner_text()
    assert answer.locator(".formed").locator("script, img, svg, [onerror]").count() == 0
    links = answer.locator(".formed a").evaluate_all("links => links.map(link => link.href)")
    assert links == ["https://example.org/x"]
    assert "1 mark of a rule that was not shown" in answer.inner_text()
    assert "1 quotation that is not in its rule" in answer.inner_text()
    judged("play")
    comparison = page.get_by_role("link", name="Address of this comparison").get_attribute("href")
    page.goto(f"{day.url}/{comparison}")
    page.locator(".compare .formed").nth(1).wait_for()
    page.reload()
    page.locator(".compare .formed").nth(1).wait_for()
    assert page.locator(".compare .question").inner_text() == ASKED
    judged("compare")

    # The complaint: a trace's address, pasted.
    trace = re.search(r"[0-9a-f]{32}", comparison or "")
    assert trace is not None
    page.get_by_role("link", name="Use", exact=True).click()
    page.get_by_label("Somebody complains about an answer").fill(f"X-Trimtab-Trace: {trace[0]}")
    page.get_by_role("button", name="Look at it").click()
    page.get_by_role("heading", name="Citations in the answer").wait_for()
    text = page.locator("main").inner_text()
    assert "Unknown: no such rule was in the prompt" in text
    assert "Altered: the rule does not say this" in text
    judged("why")
    page.go_back()
    page.locator(".chart").wait_for()
    judged("use")

    page.get_by_role("link", name="Policies", exact=True).click()
    page.get_by_label("Policy", exact=True).select_option("careful")
    if look == "phone":  # what differs from the defaults comes first, the rest when it is asked for
        page.locator("summary", has_text="settings with their defaults").click()
    page.get_by_text("A stage that fails is left out").wait_for()
    page.get_by_text("asked for marks").first.wait_for()  # of this policy: the one before has a stage too
    page.get_by_role("button", name="Show its prompt").click()
    page.locator(".policies .legend").wait_for()
    settings = page.get_by_label("Settings, as JSON")
    draft = json.loads(settings.input_value()) | {"stages": ["opo"]}
    draft.pop("bpo")
    settings.fill(json.dumps(draft))
    page.get_by_label("What for").fill("Quote rules only")
    page.get_by_role("button", name="Draft and try").click()
    page.get_by_role("link", name="look at it, submit it or withdraw it").wait_for()
    assert "urial=applied" in page.locator(".policies article").nth(0).inner_text()
    assert "urial" not in page.locator(".policies article").nth(1).inner_text().split("\n")[1]
    judged("policies")
    page.get_by_role("link", name="look at it, submit it or withdraw it").click()
    page.get_by_role("heading", name="Quote rules only").wait_for()

    page.get_by_role("link", name="Traces", exact=True).click()
    page.get_by_label("Search", exact=True).fill("record a phone")
    page.get_by_role("button", name="Refresh").click()
    page.locator(".traces td", has_text=ASKED).first.wait_for()
    assert "text=record" in page.evaluate("location.hash")
    page.reload()
    page.locator(".traces td", has_text=ASKED).first.wait_for()
    judged("traces")
    page.get_by_label("Outcome").select_option("error")
    page.get_by_text("No request yet that matches.").wait_for()
    page.go_back()
    page.locator(".traces td", has_text=ASKED).first.wait_for()
    assert cut_off(page) == []


def test_principles_are_imported_by_a_plan_edited_and_read_as_of_a_day(
    day: Served, open_tab: Callable[..., Tab]
) -> None:
    page = open_tab(day.url).open("#principles")
    page.get_by_text("Import many").click()
    rows = [{"id": "old-1", "text": "Calls are free.", "in_force_to": "1999-12-31"}, RULE]
    page.get_by_label("JSON lines, or a list").fill("\n".join(map(json.dumps, rows)))
    page.get_by_role("button", name="Show the plan").click()
    page.get_by_text("1 would be added, 0 changed, 1 stay as they are.").wait_for()
    page.get_by_role("button", name="Import", exact=True).click()
    page.locator(".card h2", has_text="old-1").wait_for()
    page.locator(".card", has_text="old-1").get_by_role("button", name="Edit").click()
    page.get_by_label("Text", exact=True).fill("Calls are not free.")
    page.get_by_role("button", name="Add it").click()
    page.get_by_text("Calls are not free.").wait_for()
    page.get_by_text("Filters", exact=True).click()
    page.get_by_label("In force on").fill("2026-01-01")
    page.get_by_role("button", name="Search", exact=True).click()
    page.locator(".card h2", has_text="Recording Act").first.wait_for()
    assert page.locator(".card h2", has_text="old-1").count() == 0


def test_an_error_tells_status_and_code_and_leads_to_its_trace(day: Served, open_tab: Callable[..., Tab]) -> None:
    tab = open_tab(day.url)
    page = tab.open("#play?policy=dead")
    page.locator(".composer").wait_for()
    tab.ask("hello")
    page.locator(".answer .trouble:not([hidden])").wait_for()
    assert page.locator(".answer .trouble").inner_text().startswith("502 upstream_failed:")
    assert page.locator(".answer").get_by_role("button", name="Try again").count() == 1
    page.locator(".answer").get_by_role("link", name="Why").click()
    page.locator(".why .facts").wait_for()
    assert "502" in page.locator(".facts").inner_text()


def the_policy(url: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{url}/v1/policies/careful").json()
    return found


def test_a_policy_is_told_with_every_setting(day: Served) -> None:
    policy = the_policy(day.url)
    assert policy["options"]["opo"]["cite"] == "marks"
    assert policy["file"]["opo"] == {"index": ["law"], "cite": "marks"}
    assert httpx.get(f"{day.url}/v1/policies/none").status_code == 404


def test_usage_counts_requests_by_day_policy_and_outcome(day: Served) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}]}
    for policy in ("careful", "dead"):
        answer = httpx.post(
            f"{day.url}/v1/chat/completions", json=body, headers={"x-trimtab-policy": policy}, timeout=30
        )
        httpx.get(f"{day.url}/v1/traces/{answer.headers['x-trimtab-trace']}").raise_for_status()
    rows = httpx.get(f"{day.url}/v1/usage").json()["data"]
    assert {(row["policy"], row["failed"]) for row in rows} >= {("careful", False), ("dead", True)}
    assert next(row for row in rows if row["policy"] == "careful")["outcomes"]["urial"] == "applied"
    assert httpx.get(f"{day.url}/v1/usage", params={"days": 0}).status_code == 400
    assert all(row["requests"] > 0 for row in rows)
