"""A change in a real Chromium, with two keys: drafted, tried, submitted, approved by the other, in force, rolled back.

SHOTS=FOLDER keeps the pictures.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.page.conftest import Served, Tab
from tests.page.test_views import LOOKS, judged
from tests.serve.conftest import chat, key_table
from tests.upstream import FakeUpstream

pytestmark = pytest.mark.slow

SECRETS = {"ada": "sk-ada-0123456789", "ben": "sk-ben-0123456789"}
CONFIG = """
state_dir = "{state}"
[server]
policy = "rules"
workers = 2
[engine.main]
url = "{url}"
[index.law]
embedder = "none"
[policy.rules]
stages = ["opo"]
[policy.rules.opo]
index = ["law"]
"""
RIGHTS = {"ada": ["author", "explain", "principles"], "ben": ["author", "approver", "principles"]}
HOSTILE = '<img src=x onerror="document.title=1">Dogs must be kept on a leash in parks.</p><script>alert(1)</script>'


@pytest.fixture(scope="module")
def house(start: Callable[..., Served]) -> Served:
    keys = "".join(key_table(name, SECRETS[name], rights) for name, rights in RIGHTS.items())
    served = start(file=CONFIG + keys)
    served.until_ready(bearer("ben"))
    return served


def bearer(who: str) -> dict[str, str]:
    return {"authorization": f"Bearer {SECRETS[who]}"}


def prompt(house: Served, upstream: FakeUpstream) -> str:
    """What reaches the engine of a question."""
    asked = chat("May my dogs run in parks?")
    answer = httpx.post(house.url + "/v1/chat/completions", json=asked, headers=bearer("ben"), timeout=20, verify=False)
    assert answer.status_code == 200
    return upstream.requests[-1].body.decode()


def signed_in(open_tab: Callable[..., Tab], house: Served, who: str, look: str) -> Any:
    tab = open_tab(house.url, **LOOKS[look])
    page = tab.open("#changes")
    page.get_by_label("API key").fill(SECRETS[who])
    page.get_by_role("button", name="Use it").click()
    page.get_by_role("heading", name="Changes", exact=True).wait_for()
    return page


# Once in the suite; in every look where the pictures are wanted.
@pytest.mark.parametrize("look", LOOKS if "SHOTS" in os.environ else ["light"])
def test_a_rule_is_drafted_tried_approved_by_another_and_rolled_back(
    house: Served, open_tab: Callable[..., Tab], upstream: FakeUpstream, look: str, tmp_path: Path
) -> None:
    folder = Path(os.environ.get("SHOTS", tmp_path))

    rule = f"parks-{look}"
    author = signed_in(open_tab, house, "ada", look)
    author.locator("summary", has_text="Draft a change").click()
    author.get_by_label("Index").fill("law")
    author.get_by_label("Rule", exact=True).fill(rule)
    author.get_by_label("Text").fill(HOSTILE)
    author.get_by_label("Reason").fill("A new bylaw <b>of 1 March</b>")
    judged(author, look, "changes-drafting", folder)
    author.get_by_role("button", name="Draft it").click()
    author.get_by_role("heading", name=f"add rule law/{rule}").wait_for()
    author.get_by_label("Question").fill("May my dogs run in parks?")
    author.get_by_role("button", name="Show the prompt").click()
    author.get_by_text(f"law/{rule} comes").wait_for()
    judged(author, look, "changes-tried", folder)
    assert "on a leash" not in prompt(house, upstream)
    author.get_by_role("button", name="Submit").click()
    author.locator(".state", has_text="submitted").wait_for()
    assert author.get_by_role("button", name="Approve").count() == 0  # ada has no such right
    at = author.evaluate("location.hash")

    approver = signed_in(open_tab, house, "ben", look)
    judged(approver, look, "changes-inbox", folder)
    approver.evaluate("at => { location.hash = at }", at)
    approver.get_by_role("heading", name=f"add rule law/{rule}").wait_for()
    assert approver.locator("img, main script").count() == 0  # hostile text is text
    assert "<img src=x" in approver.locator(".after").first.inner_text()
    approver.get_by_label("Comment").fill("Checked against the gazette.")
    judged(approver, look, "changes-before-approval", folder)
    approver.get_by_role("button", name="Approve").click()
    approver.locator(".state", has_text="in force").wait_for()
    judged(approver, look, "changes-in-force", folder)
    assert "on a leash" in prompt(house, upstream)
    approver.get_by_role("button", name="Roll back").click()
    approver.get_by_role("heading", name="Roll back").wait_for()
    judged(approver, look, "changes-rolled-back", folder)
    assert "on a leash" not in prompt(house, upstream)


def test_who_wrote_a_change_is_told_that_another_must_approve_it(house: Served, open_tab: Callable[..., Tab]) -> None:
    body = {"reason": "r", "items": [{"kind": "rule", "index": "law", "name": "own", "content": {"text": "Own rule."}}]}
    made = httpx.post(house.url + "/v1/changes", json=body, headers=bearer("ben"), timeout=20, verify=False).json()
    page = signed_in(open_tab, house, "ben", "light")
    page.get_by_role("link", name=re.compile(f"^{made['id']}: ")).click()
    page.get_by_role("button", name="Submit").click()
    page.locator(".state", has_text="submitted").wait_for()
    page.get_by_role("button", name="Approve").click()
    page.locator(".trouble", has_text="another key must approve it").wait_for()
    if (folder := os.environ.get("SHOTS")) is not None:
        page.screenshot(path=Path(folder) / "light-changes-own.png", full_page=True)
