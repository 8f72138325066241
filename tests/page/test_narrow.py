"""The page at 320 pixels, dark, with what people paste: words without an end, writing from right to left, HTML."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.page.conftest import CONFIG, Served, Tab
from tests.page.test_views import cut_off, violations

WORD = "Donaudampfschifffahrtsgesellschaft" * 12
HEBREW = "האם מותר להקליט שיחת טלפון? כן, אבל רק בהסכמה."
MARKUP = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script><b>bold</b>"
RULES = [
    {"id": "w" * 190, "title": WORD, "text": f"{WORD} phone call", "source": WORD, "region": "R" * 100, "tags": [WORD]},
    {"id": "rtl-1", "title": HEBREW, "text": f"{HEBREW} phone call", "source": HEBREW, "language": "he"},
    {"id": "html-1", "title": MARKUP, "text": f"{MARKUP} phone call", "source": MARKUP, "url": "javascript:alert(1)"},
]  # fmt: skip
NARROW: dict[str, Any] = {"viewport": {"width": 320, "height": 640}, "color_scheme": "dark", "reduced_motion": "reduce"}


@pytest.fixture(scope="module")
def odd(start_shared: Callable[..., Served]) -> Served:
    served = start_shared(file=CONFIG)
    body = {"index": "law", "principles": RULES}
    httpx.post(served.url + "/v1/principles", json=body, timeout=60).raise_for_status()
    return served


def whole(page: Any, name: str) -> None:
    """Nothing runs out of the window or of its box, nothing became an element, and axe-core is content."""
    assert page.evaluate("document.documentElement.scrollWidth") <= 320, name
    assert page.locator("main img, main script, main b").count() == 0, name
    assert page.title().endswith("Trimtab"), name
    assert violations(page) == [], name
    # A table may be wider than its region, which scrolls.
    page.evaluate("document.querySelectorAll('.scrolls').forEach((node) => node.replaceChildren())")
    assert cut_off(page) == [], name


@pytest.mark.slow
def test_every_view_holds_odd_texts_on_the_narrowest_phone(odd: Served, open_tab: Callable[..., Tab]) -> None:
    tab = open_tab(odd.url, **NARROW)
    page = tab.open("#play?policy=raw&model=echo&policy=careful&model=echo")
    page.locator(".composer").wait_for()
    whole(page, "empty")
    for turn, question in enumerate((f"{WORD} phone call", f"{HEBREW} phone call", f"{MARKUP} phone call"), 1):
        tab.ask(question)
        tab.answered(turn=turn)
    whole(page, "playground")
    page.locator(".turn:last-child .answer").nth(1).get_by_role("link", name="Why").click()
    page.locator(".waterfall").wait_for()
    whole(page, "why")
    page.get_by_role("link", name="Principles").click()
    page.locator(".cards .card").nth(2).wait_for()
    whole(page, "principles")
    for view, shown in (("Traces", ".traces tbody tr"), ("Policies", ".policies table"), ("Use", ".use .chart"),
                        ("Changes", ".changes form"), ("Account", ".account form")):  # fmt: skip
        page.get_by_role("link", name=view).click()
        page.locator(shown).first.wait_for()
        whole(page, view)


def test_text_from_right_to_left_is_set_from_the_right(odd: Served, open_tab: Callable[..., Tab]) -> None:
    tab = open_tab(odd.url)
    page = tab.open("#play?policy=raw&model=echo&policy=careful&model=echo")
    page.locator(".composer").wait_for()
    tab.ask(HEBREW)
    tab.answered()
    page.locator(".said.formed").nth(1).wait_for()
    for spot in (".question", ".said p"):
        ends = page.locator(spot).first.evaluate(
            """node => {
                const range = document.createRange();
                range.setStart(node.firstChild, 0);
                range.setEnd(node.firstChild, 1);
                return node.getBoundingClientRect().right - range.getBoundingClientRect().right;
            }"""
        )
        assert ends < 4, spot


def test_the_playground_is_used_by_the_keyboard_alone(odd: Served, open_tab: Callable[..., Tab]) -> None:
    tab = open_tab(odd.url)
    page = tab.open("#play?policy=raw&model=echo&policy=careful&model=stream-6")
    page.locator(".composer").wait_for()
    reached: list[str] = []

    def forward(to: str) -> None:
        """Tab on until the focus is on the control of that name; every stop has a name and shows its focus."""
        for _ in range(80):
            page.keyboard.press("Tab")
            name, outline = page.evaluate(
                """() => {
                    const node = document.activeElement;
                    if (node === document.body) return ['', ''];
                    const labels = [...(node.labels ?? [])].map(({ textContent }) => textContent).join(' ');
                    const name = node.getAttribute('aria-label') || labels || node.textContent.trim();
                    return [name, getComputedStyle(node).outlineStyle];
                }"""
            )
            if page.evaluate("document.activeElement === document.body"):
                continue  # past the last control, before the first
            assert name, reached
            assert outline != "none", name
            reached.append(name)
            if name == to:
                return
        raise AssertionError(f"{to!r} is not reached: {reached}")

    forward("Skip to the content")
    forward("Policies")
    forward("Your question")
    page.keyboard.type("By keys")
    page.keyboard.press("Enter")
    tab.answered()
    page.locator(".answer").nth(0).locator(".verdict").wait_for()
    page.locator("#view").focus()
    forward("Why")
    forward("Good answer")
    page.keyboard.press("Enter")
    page.locator(".answer").nth(0).locator("[aria-label='Good answer'][aria-pressed=true]").wait_for()
    forward("This one is better")
    page.keyboard.press("Space")
    page.locator(".answer.best").first.wait_for()
