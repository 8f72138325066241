"""Every view before the embedded model, in light, dark and on a phone: accessible, nothing cut off, and photographed.

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

from tests.page.conftest import ASKED, AXE, CONFIG, REWRITTEN, RULE, Served, Tab
from tests.upstream import FakeUpstream

pytestmark = pytest.mark.slow

EMBEDDED = (
    CONFIG.replace('url = "{url}"\nmodel = "stream-6"', 'model = "trimtab-tiny"\nlauncher = "transformers"')
    .replace('engine = "main"\nmodel = "page-rewriter"', 'engine = "other"\nmodel = "page-rewriter"')
    .replace('render = "chat"', 'render = "base"')
    .replace("[index.law]", '[engine.other]\nurl = "{url}"\n[index.law]')
)
RULES = [
    RULE,
    {
        "id": "call-2", "title": "Recording Act, section 5", "source": "Recording Act of 1998", "region": "Bayern",
        "text": "Who records a call must say so at its beginning and keep the record no longer than a year.",
        "language": "en", "kind": "law", "in_force_from": "2001-01-01",
    },
    {
        "id": "call-3", "title": "A customer's calls", "source": "House rules", "kind": "norm", "language": "en",
        "text": "Never promise a customer that a phone call is not recorded.",
    },
]  # fmt: skip
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 860}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 860}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light", "reduced_motion": "reduce"},
}


@pytest.fixture(scope="module")
def real(start: Callable[..., Served], upstream: FakeUpstream) -> Served:
    """The embedded model with all three stages; only the rewriter is the fake engine."""
    upstream.scripts["page-rewriter"] = [REWRITTEN]
    served = start(file=EMBEDDED, env={"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"})
    served.until_ready()
    httpx.post(served.url + "/v1/principles", json={"index": "law", "principles": RULES}, timeout=30).raise_for_status()
    return served


@pytest.mark.parametrize("look", LOOKS)
def test_every_view_is_accessible_and_whole(
    real: Served, open_tab: Callable[..., Tab], look: str, tmp_path: Path
) -> None:
    tab = open_tab(real.url, **LOOKS[look])
    folder = Path(os.environ.get("SHOTS", tmp_path))
    page = tab.open("#play?max_tokens=48&seed=3&policy=urial-plain&policy=careful")
    page.locator(".composer").wait_for()
    judged(page, look, "empty", folder, whole=False)
    page.locator("summary", has_text="Settings").click()
    tab.ask(ASKED)
    tab.answered()
    page.locator(".figures dd", has_text="≈").nth(1).wait_for()
    judged(page, look, "playground", folder, whole=False)
    page.locator(".answer").nth(1).get_by_role("link", name="Why").click()
    page.locator(".waterfall").wait_for()
    judged(page, look, "why", folder)
    page.get_by_role("link", name="Principles").click()
    page.get_by_label("Search", exact=True).fill("record a phone call")
    page.get_by_label("Search", exact=True).press("Enter")
    page.locator(".scores").first.wait_for()
    page.locator("summary", has_text="Filters").click()
    page.locator("summary", has_text="Add a principle").click()
    judged(page, look, "adding", folder)
    page.locator("summary", has_text="Add a principle").click()
    judged(page, look, "principles", folder)
    page.get_by_role("link", name="Traces").click()
    page.locator(".traces tbody tr").first.wait_for()
    judged(page, look, "traces", folder)


def judged(page: Any, look: str, name: str, folder: Path, *, whole: bool = True) -> None:
    """Take a picture of what the page shows, and hold it against what holds for every view."""
    folder.mkdir(parents=True, exist_ok=True)
    if whole:
        page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=folder / f"{look}-{name}.png", full_page=whole)
    assert page.evaluate("document.documentElement.scrollWidth") <= LOOKS[look]["viewport"]["width"], name
    assert cut_off(page) == [], name
    assert not re.search(r"\[object|undefined|NaN", page.locator("body").inner_text()), name
    assert violations(page) == [], name


def cut_off(page: Any) -> list[str]:
    """Elements whose text runs out of their box, or out of the window, unseen."""
    return list(
        page.evaluate(
            """() => [...document.querySelectorAll('main *, .top *')]
                .filter(node => node.checkVisibility() && !node.closest('.hidden, svg') && node.textContent.trim())
                .filter(node => {
                    const box = node.getBoundingClientRect(), look = getComputedStyle(node);
                    const hides = look.overflowX === 'hidden' && node.scrollWidth > node.clientWidth + 1;
                    return box.width > 0 && (hides || box.right > innerWidth + 1 || box.left < -1);
                })
                .map(node => `${node.tagName}.${node.className}: ${node.textContent.slice(0, 60)}`)"""
        )
    )


def violations(page: Any) -> list[str]:
    """What axe-core calls serious or critical, with the first place of each."""
    if not AXE.is_file():
        return []
    page.evaluate(AXE.read_text())
    found = page.evaluate("async () => (await axe.run(document, {resultTypes: ['violations']})).violations")
    return [
        f"{row['id']}: {row['nodes'][0]['target']} {row['nodes'][0]['failureSummary']}"
        for row in found
        if row["impact"] in ("serious", "critical")
    ]


@pytest.mark.skipif(not AXE.is_file(), reason="needs axe-core (npm install --prefix FOLDER axe-core; AXE_CORE=FOLDER)")
def test_axe_finds_what_is_wrong(real: Served, open_tab: Callable[..., Tab]) -> None:
    page = open_tab(real.url).open()
    page.locator(".composer").wait_for()
    assert violations(page) == []
    page.evaluate("document.getElementById('key').showModal()")
    assert violations(page) == []
    page.evaluate("document.getElementById('key').close()")
    page.evaluate("document.querySelector('.composer textarea').removeAttribute('aria-label')")
    page.evaluate("document.querySelector('.composer textarea').removeAttribute('placeholder')")
    assert any(line.startswith("label") for line in violations(page))


def test_the_theme_switch_holds_over_a_reload(real: Served, open_tab: Callable[..., Tab]) -> None:
    page = open_tab(real.url, color_scheme="light").open()
    ground = "getComputedStyle(document.body).backgroundColor"
    page.locator(".composer").wait_for()
    light = page.evaluate(ground)
    for _ in range(2):
        page.locator("#theme").click()
    assert page.locator("#theme").get_attribute("aria-label") == "Theme: dark"
    dark = page.evaluate(ground)
    assert dark != light
    page.reload()
    assert page.evaluate(ground) == dark
    page.locator(".composer").wait_for()
    page.locator("#theme").click()
    assert page.evaluate(ground) == light
