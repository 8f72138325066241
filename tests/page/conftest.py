"""The page in a real Chromium, before the real command. Skipped, with the reason, where there is no browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serve.conftest import Served, start, start_shared  # noqa: F401  (fixtures)
from tests.upstream import FakeUpstream

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
# axe-core is npm's: `npm install --prefix FOLDER axe-core`, and AXE_CORE says where that was.
AXE = Path(os.environ.get("AXE_CORE", Path.home() / ".cache/trimtab-axe")) / "node_modules/axe-core/axe.min.js"
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-background-networking"]
CONFIG = """
state_dir = "{state}"
[server]
policy = "careful"
[engine.main]
url = "{url}"
model = "stream-6"
[index.law]
embedder = "none"
[rewriter.house]
engine = "main"
model = "page-rewriter"
[policy.careful]
stages = ["urial", "opo", "bpo"]
render = "chat"
[policy.careful.opo]
index = ["law"]
[policy.careful.bpo]
rewriter = "house"
mode = "replace"
"""
ASKED = "Is it legal to record a phone call?"
REWRITTEN = "Is it legal to record a phone call? Please explain which rules apply, and give an example."
RULE = {
    "id": "call-1",
    "title": "Recording Act, section 3",
    "text": "A phone call may be recorded only with the consent of everybody who speaks in it.",
    "source": "Recording Act of 1998",
    "url": "https://example.org/recording",
    "language": "en",
    "kind": "law",
    "tags": ["privacy"],
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = missing()
    if reason:
        for item in items:
            if item.path.parent.name == "page":
                item.add_marker(pytest.mark.skip(reason=reason))


def missing() -> str:
    """Why no browser can be started; "" where one can."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "needs playwright (pip install playwright)"
    return "" if CHROMIUM else "needs chromium (apt-get install chromium, or CHROMIUM=its path)"


@pytest.fixture(scope="module")  # while it is open its loop runs in this thread, where other tests want theirs
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def server(start_shared: Callable[..., Served], upstream: FakeUpstream) -> Served:  # noqa: F811
    """A server with all stages, an index of one rule and a rewriter, without keys."""
    upstream.scripts["page-rewriter"] = [REWRITTEN]
    served = start_shared(file=CONFIG)
    added = httpx.post(served.url + "/v1/principles", json={"index": "law", "principles": [RULE]}, timeout=30)
    assert added.status_code == 200, added.text
    return served


class Tab:
    """A page on a server, and what its console said."""

    def __init__(self, browser: Any, url: str, **context: Any) -> None:
        self.context = browser.new_context(**context)
        self.context.set_default_timeout(60_000)
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", lambda line: self.wrong.append(line.text) if line.type == "error" else None)
        self.url = url

    def open(self, fragment: str = "") -> Any:
        self.page.goto(f"{self.url}/{fragment}")
        return self.page

    def ask(self, text: str) -> None:
        self.page.get_by_label("Your question").fill(text)
        self.page.get_by_label("Your question").press("Enter")

    def answered(self, columns: int = 2, turn: int = 1) -> None:
        """Wait until every column of a turn can be judged."""
        self.page.locator(f".turn:nth-child({turn}) .verdict").nth(columns - 1).wait_for(timeout=60_000)


@pytest.fixture
def open_tab(browser: Any) -> Iterator[Callable[..., Tab]]:
    """Opens tabs; whatever a page's own code got wrong fails the test."""
    tabs: list[Tab] = []

    def begin(url: str, **context: Any) -> Tab:
        tabs.append(Tab(browser, url, **context))
        return tabs[-1]

    yield begin
    for tab in tabs:
        tab.context.close()
    # A status that is no success is on the console whether the page expected it or not.
    wrong = [line for tab in tabs for line in tab.wrong if "Failed to load resource" not in line]
    assert wrong == []


@pytest.fixture
def tab(open_tab: Callable[..., Tab], server: Served) -> Tab:
    it = open_tab(server.url)
    it.open()
    return it
