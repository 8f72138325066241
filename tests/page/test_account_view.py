"""The account in a real Chromium: its timeline, its verification, a request's story; and hostile text stays text.

SHOTS=FOLDER keeps the pictures.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import msgspec
import pytest

from serve.config import Flags
from serve.configure.reader import load
from serve.store.account.change import Change
from serve.store.place import open_account
from tests.page.conftest import Served, Tab
from tests.page.test_views import LOOKS, judged
from tests.serve.conftest import chat
from tests.serve.test_account_requests import RECORD, account, state, until

pytestmark = pytest.mark.slow

HOSTILE = '<img src=x onerror="document.title=1">'


@pytest.fixture(scope="module")
def recorded(start: Callable[..., Served]) -> tuple[Served, str]:
    """A server that records requests, with a change and one request whose model is hostile; the request's id."""
    served = start(more=RECORD)
    log = open_account(load(Flags(state_dir=str(state(served)))))
    told = Change("c1", "approved", "ben", author="ada", title=HOSTILE, reason="complaint 17")
    log.append("change", msgspec.to_builtins(told))
    reply = httpx.post(f"{served.url}/v1/chat/completions", json=chat("hi", model=HOSTILE))
    ident = reply.headers["x-trimtab-trace"]
    until(served, ident)
    return served, ident


@pytest.mark.parametrize("look", LOOKS if "SHOTS" in os.environ else ["phone"])
def test_the_account_is_read_and_verified(
    recorded: tuple[Served, str], open_tab: Callable[..., Tab], look: str, tmp_path: Path
) -> None:
    folder = Path(os.environ.get("SHOTS", tmp_path))
    served, ident = recorded

    page = open_tab(served.url, **LOOKS[look]).open("#account")
    page.get_by_text("change c1 approved").wait_for()
    page.get_by_role("button", name="Verify").click()
    page.get_by_text("The account is whole.").wait_for(timeout=60_000)
    judged(page, look, "account-whole", folder)
    page.get_by_label("Show").select_option("open")
    page.get_by_role("link", name="request under").first.click()
    page.get_by_role("heading", name=f"Request {ident}").wait_for()
    judged(page, look, "account-request", folder)
    assert page.locator("main img").count() == 0  # hostile text is text
    assert "as model <img" in page.locator("main ol").inner_text()


def test_an_altered_account_is_called_so(recorded: tuple[Served, str], open_tab: Callable[..., Tab]) -> None:
    served, _ = recorded
    [segment] = account(served).glob("*.jsonl")
    whole = segment.read_bytes()
    segment.write_bytes(whole.replace(b'"by":"ben"', b'"by":"eve"', 1))
    try:
        httpx.get(f"{served.url}/healthz").raise_for_status()
        page = open_tab(served.url).open("#account")
        for _ in range(12):  # a verdict may be ten seconds old
            page.get_by_role("button", name="Verify").click()
            page.get_by_text(re.compile(r"The account is (not )?whole\.")).wait_for(timeout=60_000)
            if page.get_by_text("The account is not whole.").count():
                break
            page.wait_for_timeout(1000)
        assert page.get_by_text("ALTERED 000000000001.jsonl").count() == 1
    finally:
        segment.write_bytes(whole)


def test_a_server_without_an_account_says_so_plainly(
    start: Callable[..., Served], open_tab: Callable[..., Tab]
) -> None:
    page = open_tab(start().url).open("#account")
    page.get_by_text("Nothing is recorded yet.").wait_for()
    assert page.get_by_role("button", name="Verify").is_disabled()
    assert not page.locator(".account .trouble").is_visible()
