"""The page as people use it: ask, compare, stop, look why, change principles, judge, share, and lose the server."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.page.conftest import ASKED, CONFIG, RULE, Served, Tab
from tests.upstream import FakeUpstream
from trainers.data.layouts import read_rows

Open = Callable[..., Tab]
SETTINGS = {"System message": "Be & brief.", "Temperature": "0.7", "Most tokens": "12", "Region": "Bayern"}


def expect(locator: Any) -> Any:
    from playwright.sync_api import expect

    return expect(locator)


# ---------------------------------------------------------------- how it is served


def test_it_is_served_with_a_policy_that_runs_no_inline_script(server: Served) -> None:
    page = httpx.get(server.url + "/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|https?://", page.text)
    assert page.headers["x-content-type-options"] == "nosniff"
    types = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "svg": "image/svg+xml"}
    parts = set(re.findall(r'"(page/[^"]+)"', page.text))
    assert len(parts) > 8
    for part in parts:
        answer = httpx.get(f"{server.url}/{part}")
        assert answer.headers["content-type"] == types[part.rsplit(".", 1)[1]]
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["content-security-policy"] == policy


def test_every_module_is_loaded_ahead_or_with_its_view_and_every_file_is_served(server: Served) -> None:
    import serve.api.page

    folder = Path(serve.api.page.__file__).parent
    page = httpx.get(server.url + "/").text
    files = {path for path in folder.iterdir() if path.suffix in (".js", ".css", ".svg")}
    ahead = {part.rsplit("/", 1)[1] for part in re.findall(r'"(page/[^"]+)"', page)}
    texts = {path.name: path.read_text("utf-8") for path in files if path.suffix == ".js"}
    later = {name for text in texts.values() for name in re.findall(r'import\("\./([^"]+)"\)', text)}
    while more := {name for each in later for name in re.findall(r'from "\./([^"]+)"', texts[each])} - later:
        later |= more
    assert ahead | later == {path.name for path in files}
    static = {name for each in ahead & texts.keys() for name in re.findall(r'from "\./([^"]+)"', texts[each])}
    assert static <= ahead


def test_the_page_is_asked_for_again_and_its_parts_are_not(server: Served) -> None:
    page = httpx.get(server.url + "/")
    again = httpx.get(server.url + "/", headers={"if-none-match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    plain = httpx.get(server.url + "/", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.text == page.text
    for path in ("/page/old/main.js", "/page/x/../app.py", "/page/0/__init__.py"):
        assert httpx.get(server.url + path).status_code == 404


def test_a_first_visit_is_light(server: Served) -> None:
    page = httpx.get(server.url + "/").text
    parts = set(re.findall(r'"(page/[^"]+)"', page))
    with httpx.stream("GET", f"{server.url}/") as answer:
        size = len(b"".join(answer.iter_raw()))
    for part in parts:
        with httpx.stream("GET", f"{server.url}/{part}") as answer:
            size += len(b"".join(answer.iter_raw()))
    assert len(parts) <= 16
    assert size < 40_000


def test_a_setting_that_makes_no_sense_is_shown_and_not_sent(tab: Tab, upstream: FakeUpstream) -> None:
    page = tab.page
    page.goto(f"{tab.url}/#play?q=x&temperature=7")
    page.reload()
    page.locator("summary", has_text="Settings").click()
    before = len(upstream.requests)
    page.get_by_label("Your question").press("Enter")
    expect(page.get_by_label("Temperature")).to_be_focused()
    expect(page.locator(".turn")).to_have_count(0)
    assert not [r for r in upstream.requests[before:] if r.method == "POST"]
    page.get_by_label("Temperature").fill("0.75")
    page.get_by_label("Your question").press("Enter")
    tab.answered()
    assert upstream.posts[-1].json["temperature"] == 0.75


# ---------------------------------------------------------------- asking


def test_two_columns_answer_at_once_with_their_figures(tab: Tab) -> None:
    page = tab.page
    assert page.locator(".columns select").nth(0).input_value() == "raw"
    assert page.locator(".columns select").nth(2).input_value() == "careful"
    assert page.locator(".columns select").nth(1).evaluate("node => node.selectedOptions[0].text") == "stream-6"
    tab.ask(ASKED)
    tab.answered()
    raw, careful = page.locator(".answer").nth(0), page.locator(".answer").nth(1)
    for answer in (raw, careful):
        expect(answer.locator(".said")).to_have_text("0 1 2 3 4 5 ")
        figures = answer.locator(".figures dd")
        assert all(re.fullmatch(r"[\d.]+ m?s", figures.nth(i).inner_text()) for i in (0, 1))
        expect(figures.nth(2)).to_have_text("6")
    expect(raw.locator(".figures dd").nth(3)).to_have_text(re.compile(r"^0 of \d+$"))
    expect(careful.locator(".figures dd").nth(3)).to_have_text(re.compile(r"^≈ [\d,]+ of [\d,]+$"))
    expect(careful.locator(".applied")).to_have_text(re.compile(r"urial=applied\(3\), opo=applied\(1\), bpo=applied"))
    expect(raw.locator(".applied")).to_have_text("none")


def test_columns_stream_beside_each_other_and_stop(tab: Tab, upstream: FakeUpstream) -> None:
    page = tab.page
    upstream.scripts["page-slow"] = [piece for i in range(400) for piece in (f"{i} ", 0.05)]
    page.goto(f"{tab.url}/#play?q=count&policy=raw&model=page-slow&policy=raw&model=page-slow")
    page.reload()
    before = len(upstream.requests)
    page.get_by_label("Your question").press("Enter")
    page.evaluate(
        "globalThis.shifts = 0; new PerformanceObserver(l => { for (const e of l.getEntries()) shifts += e.value })"
        ".observe({type: 'layout-shift'})"
    )
    for i in (0, 1):  # both have begun, neither is done
        expect(page.locator(".said").nth(i)).to_contain_text("0 1 2")
        expect(page.locator(".said").nth(i)).to_have_attribute("aria-busy", "true")
    expect(page.locator(".said").first).to_contain_text("30 31")
    assert page.evaluate("shifts") < 0.01  # what comes pushes nothing away
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Ask")).to_be_visible()
    for i in (0, 1):
        expect(page.locator(".answer .trouble").nth(i)).to_have_text("Stopped.")
        expect(page.locator(".said").nth(i)).to_contain_text("0 1 2")
    streams = [i for i, r in enumerate(upstream.requests) if i >= before and r.method == "POST"]
    assert len(streams) == 2
    for i in streams:
        upstream.wait_abort(i, timeout=5)


def test_a_conversation_has_turns_and_each_column_its_own(tab: Tab, upstream: FakeUpstream) -> None:
    page = tab.page
    page.locator("summary", has_text="Settings").click()
    page.get_by_label("System message").fill("Be brief.")
    page.get_by_label("Temperature").fill("0.3")
    tab.ask("first question")
    tab.answered()
    tab.ask("second question")
    tab.answered(turn=2)
    body = next(r.json for r in reversed(upstream.requests) if r.method == "POST" and "second" in r.body.decode())
    said = [(m["role"], m["content"]) for m in body["messages"]]
    plain = [text for _, text in said]
    assert ("assistant", "0 1 2 3 4 5 ") in said
    assert "first question" in plain
    assert plain[0].endswith("Be brief.")
    assert body["temperature"] == 0.3
    assert "trimtab" not in body
    page.get_by_role("button", name="Start over").click()
    expect(page.locator(".turn")).to_have_count(0)


def test_the_keyboard_is_enough(tab: Tab) -> None:
    page = tab.page
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    seen = []
    for _ in range(30):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.textContent")
        )
        if seen[-1] == "Your question":
            break
    assert seen[-1] == "Your question"
    assert {"Playground", "Principles", "Traces"} <= set(seen)
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    tab.answered()
    expect(page.locator(".question")).to_have_text("one\ntwo")


def test_a_link_restores_question_columns_and_settings_and_no_key(tab: Tab, open_tab: Open) -> None:
    page = tab.page
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Add a column").click()
    page.locator("summary", has_text="Settings").click()
    for label, value in SETTINGS.items():
        page.get_by_label(label, exact=True).fill(value)
    page.get_by_label("Your question").fill("What? #1 & 2")
    page.get_by_role("button", name="Copy link").click()
    expect(page.locator("#said")).to_have_text("Link copied")
    address = page.evaluate("navigator.clipboard.readText()")
    assert "key" not in address
    other = open_tab(address.split("/#")[0])
    other.open("#" + address.split("#", 1)[1])
    expect(other.page.get_by_label("Your question")).to_have_value("What? #1 & 2")
    assert [other.page.locator(".columns select").nth(i).input_value() for i in (0, 2, 4)] == [
        page.locator(".columns select").nth(i).input_value() for i in (0, 2, 4)
    ]
    for label, value in SETTINGS.items():
        expect(other.page.get_by_label(label, exact=True)).to_have_value(value)


def test_a_conversation_outlives_a_look_elsewhere(tab: Tab, upstream: FakeUpstream) -> None:
    page = tab.page
    tab.ask("first of two")
    tab.answered()
    page.get_by_role("button", name="Copy link").click()  # which puts the question into the address
    page.get_by_role("link", name="Traces").click()
    page.locator(".traces tbody tr").first.wait_for()
    page.go_back()
    tab.ask("second of two")
    tab.answered(turn=2)
    body = next(r.json for r in reversed(upstream.requests) if r.method == "POST" and b"second of two" in r.body)
    assert "first of two" in [message["content"] for message in body["messages"]]


# ---------------------------------------------------------------- why


def test_why_shows_stages_rewrite_principles_and_the_prompt_by_origin(tab: Tab) -> None:
    page = tab.page
    tab.ask(ASKED)
    tab.answered()
    page.locator(".answer").nth(1).get_by_role("link", name="Why").click()
    rows = page.locator(".waterfall tbody tr")
    assert [rows.nth(i).locator("th").inner_text() for i in range(3)] == ["urial", "opo", "bpo"]
    expect(rows.nth(2)).to_contain_text("applied: replace")
    expect(rows.nth(0).locator("td").nth(1)).to_have_text(re.compile(r"^[\d.]+ m?s$"))
    expect(page.locator("ins").first).to_contain_text("Please explain which rules apply")
    expect(page.get_by_text("The gate accepted it, mode replace.")).to_be_visible()
    expect(page.locator(".piece[data-origin=rewrite]")).to_contain_text("give an example")
    expect(page.locator(".piece[data-origin=retrieved]").first).to_contain_text("consent of everybody")
    assert page.locator(".piece[data-origin=profile]").count()
    expect(page.get_by_role("link", name="Recording Act of 1998")).to_have_attribute("href", RULE["url"])
    page.get_by_role("link", name="Recording Act, section 3").click()
    expect(page.locator(".card h2")).to_have_text("Recording Act, section 3")
    expect(page.locator(".card")).to_contain_text("consent of everybody")
    page.go_back()
    expect(page.locator(".waterfall")).to_be_visible()
    page.get_by_role("link", name="Playground").last.click()
    expect(page.locator(".turn")).to_have_count(1)
    expect(page.locator(".said").first).to_have_text("0 1 2 3 4 5 ")  # the conversation is still there


def test_what_was_skipped_and_what_the_gate_rejected_is_said(tab: Tab, upstream: FakeUpstream) -> None:
    page = tab.page
    tab.ask("Name 4 quinces")
    tab.answered()
    page.locator(".answer").nth(1).get_by_role("link", name="Why").click()
    expect(page.locator(".waterfall")).to_contain_text("skipped: nothing relevant")
    expect(page.locator(".waterfall")).to_contain_text("skipped: rejected")
    expect(page.locator(".why .trouble")).to_contain_text("The gate rejected it")
    assert page.locator("del").count()


def test_a_trace_copies_as_a_command_that_asks_the_same(tab: Tab, upstream: FakeUpstream) -> None:
    page = tab.page
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.ask("It's $HOME; what's `that`?")
    tab.answered()
    page.locator(".answer").nth(1).get_by_role("link", name="Why").click()
    page.get_by_role("button", name="Copy as curl").click()
    expect(page.locator("#said")).to_have_text("Command copied")
    command = page.evaluate("navigator.clipboard.readText()")
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert "0 " in done.stdout
    assert "It's $HOME; what's `that`?" in json.dumps([r.json for r in upstream.requests if r.method == "POST"][-2:])


def test_a_prompt_can_be_seen_without_being_sent(tab: Tab, upstream: FakeUpstream) -> None:
    page = tab.page
    before = len([r for r in upstream.requests if "/completions" in r.path and "page-rewriter" not in r.model])
    page.get_by_label("Your question").fill(ASKED)
    page.get_by_role("button", name="Prompt").nth(1).click()
    expect(page.get_by_role("heading", name="The prompt, not sent")).to_be_visible()
    expect(page.locator(".piece[data-origin=retrieved]").first).to_contain_text("consent of everybody")
    after = len([r for r in upstream.requests if "/completions" in r.path and "page-rewriter" not in r.model])
    assert after == before


# ---------------------------------------------------------------- principles, traces


def test_a_principle_is_found_added_and_withdrawn(tab: Tab, server: Served) -> None:
    page = tab.page
    page.get_by_role("link", name="Principles").click()
    page.get_by_label("Search", exact=True).fill("record a phone call")
    page.get_by_label("Search", exact=True).press("Enter")
    expect(page.locator(".scores").first).to_contain_text("lexical")
    page.locator("summary", has_text="Add a principle").click()
    form = page.locator("details", has=page.locator("summary", has_text="Add a principle"))
    form.get_by_label("Text", exact=True).fill("Bees must be registered with the county.")
    form.get_by_label("Id", exact=True).fill("bees/1 a?b")
    form.get_by_label("Tags", exact=True).fill("animals, bees")
    form.get_by_role("button", name="Add it").click()
    expect(page.locator(".card")).to_have_count(1)
    expect(page.locator(".card")).to_contain_text("Bees must be registered")
    expect(page.locator(".card")).to_contain_text("animals, bees")
    page.get_by_role("button", name="Withdraw").click()
    page.get_by_role("button", name="Withdraw for good?").click()
    expect(page.locator(".card")).to_have_count(0)
    left = httpx.get(server.url + "/v1/principles", params={"index": "law"}).json()["data"]
    assert [row["id"] for row in left] == ["call-1"]
    form.get_by_label("Text", exact=True).fill("x")
    form.get_by_label("Id", exact=True).fill(" ")
    form.get_by_role("button", name="Add it").click()
    expect(page.locator(".principles .trouble")).to_contain_text("id")


def test_filters_hold_before_the_search(tab: Tab) -> None:
    page = tab.page
    page.get_by_role("link", name="Principles").click()
    page.locator("summary", has_text="Filters").click()
    page.locator("form[role=search]").get_by_label("Kind").fill("recipe")
    page.get_by_label("Search", exact=True).fill("record a phone call")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_text("Nothing found")).to_be_visible()
    page.locator("form[role=search]").get_by_label("Kind").fill("law")
    page.get_by_role("button", name="Search").click()
    expect(page.locator(".card")).to_have_count(1)


def test_traces_are_listed_filtered_and_opened(tab: Tab) -> None:
    page = tab.page
    tab.ask("for the list")
    tab.answered()
    page.get_by_role("link", name="Traces").click()
    page.locator(".traces tbody tr").first.wait_for()
    page.get_by_label("Policy").select_option("careful")
    expect(page.locator(".traces td[data-name=Policy]", has_text="raw")).to_have_count(0)
    page.get_by_label("Outcome").select_option("timed_out")
    expect(page.get_by_text("No request yet that matches.")).to_be_visible()
    page.get_by_label("Outcome").select_option("applied")
    page.locator(".traces tbody a").first.click()
    expect(page.locator(".waterfall")).to_contain_text("urial")


def test_a_view_that_comes_late_does_not_replace_the_one_asked_for_since(tab: Tab) -> None:
    page, held = tab.page, []
    tab.ask("a slow trace")
    tab.answered()
    page.route("**/v1/traces/*", lambda route: held.append(route))
    with page.expect_request("**/v1/traces/*"):
        page.locator(".answer").nth(1).get_by_role("link", name="Why").click()
    page.get_by_role("link", name="Policies").click()
    page.locator(".policies table").first.wait_for()
    with page.expect_response("**/v1/traces/*") as late:
        for route in held:
            route.continue_()
    late.value.finished()
    page.unroute("**/v1/traces/*")
    page.evaluate("fetch('v1/key').then((answer) => answer.json())")  # by then the late view has had its turn
    expect(page.locator(".policies table").first).to_be_visible()
    expect(page.locator(".why")).to_have_count(0)


def test_a_policy_that_comes_late_does_not_replace_the_one_asked_for_since(tab: Tab) -> None:
    page, held = tab.page, []
    page.get_by_role("link", name="Policies").click()
    page.locator(".policies table").first.wait_for()
    shown = page.locator(".policies .stack").first
    first = shown.inner_text()
    page.route("**/v1/policies/careful", lambda route: held.append(route))
    with page.expect_request("**/v1/policies/careful"):
        page.goto(page.url.split("#")[0] + "#policies/careful")
    with page.expect_response("**/v1/policies/raw"):
        page.goto(page.url.split("#")[0] + "#policies/raw")
    expect(page.get_by_label("Policy", exact=True)).to_have_value("raw")
    expect(shown).not_to_have_text(first)
    before = shown.inner_text()
    with page.expect_response("**/v1/policies/careful") as late:
        for route in held:
            route.continue_()
    late.value.finished()
    page.unroute("**/v1/policies/careful")
    page.evaluate("fetch('v1/key').then((answer) => answer.json())")
    assert shown.inner_text() == before


def test_an_empty_list_of_traces_is_asked_for_again(tab: Tab) -> None:
    page, asked = tab.page, []
    tab.ask("a trace that is written late")
    tab.answered()

    def answer(route: Any) -> None:
        asked.append(route.request.url)
        if len(asked) < 3:
            route.fulfill(json={"data": [], "next": None})
        else:
            route.continue_()

    page.route("**/v1/traces?*", answer)
    page.get_by_role("link", name="Traces").click()
    page.locator(".traces td", has_text="a trace that is written late").first.wait_for()
    assert len(asked) == 3


def test_a_comparison_shows_the_text_of_a_question_in_parts(tab: Tab, server: Served) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    parts = [{"type": "text", "text": "What is on this picture?"}, picture]
    body = {"model": "echo", "messages": [{"role": "user", "content": parts}]}
    body["trimtab"] = {"policy": "raw", "explain": True}
    answers = [httpx.post(server.url + "/v1/chat/completions", json=body, timeout=60) for _ in range(2)]
    page = tab.page
    page.goto(f"{server.url}/#compare/{','.join(answer.headers['x-trimtab-trace'] for answer in answers)}")
    expect(page.locator(".compare .question")).to_have_text("What is on this picture?")


# ---------------------------------------------------------------- feedback


def test_feedback_is_kept_changed_withdrawn_and_exported(tab: Tab, server: Served, tmp_path: Path) -> None:
    page = tab.page
    # Two models, so that the answers differ: of two equal ones none can be preferred.
    page.goto(f"{tab.url}/#play?policy=raw&model=stream-6&policy=careful&model=echo")
    page.reload()
    page.locator(".composer").wait_for()
    tab.ask("Which of these is better?")
    tab.answered()
    careful = page.locator(".answer").nth(1)
    good, bad = careful.get_by_role("button", name="Good answer"), careful.get_by_role("button", name="Bad answer")
    good.click()
    expect(good).to_have_attribute("aria-pressed", "true")
    bad.click()
    expect(bad).to_have_attribute("aria-pressed", "true")
    expect(good).to_have_attribute("aria-pressed", "false")
    bad.click()
    expect(bad).to_have_attribute("aria-pressed", "false")
    assert kept(server, "rating") == []
    page.locator(".answer").nth(0).get_by_role("button", name="This one is better").click()
    expect(page.locator(".answer").nth(0)).to_have_class(re.compile("best"))
    careful.get_by_role("button", name="This one is better").click()
    expect(careful).to_have_class(re.compile("best"))
    expect(page.locator(".answer").nth(0).get_by_role("button", name="This one is better")).to_have_attribute(
        "aria-pressed", "false"
    )
    [row] = kept(server, "preference")
    assert (row["chosen"]["policy"], row["rejected"]["policy"]) == ("careful", "raw")
    out = tmp_path / "pairs.jsonl"
    argv = ["feedback", "export", "--config", str(server.config), "--out", str(out)]
    subprocess.run([sys.executable, "-m", "serve.cli.command", *argv], check=True, capture_output=True)
    [pair] = read_rows(out, "preference")
    assert pair["prompt"] == [{"role": "user", "content": "Which of these is better?"}]
    careful.get_by_role("button", name="This one is better").click()
    expect(careful).not_to_have_class(re.compile("best"))
    assert kept(server, "preference") == []


def kept(server: Served, kind: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = httpx.get(server.url + "/v1/feedback", params={"kind": kind}).json()["data"]
    return rows


# ---------------------------------------------------------------- what goes wrong


@pytest.fixture(scope="module")
def locked(start: Callable[..., Served]) -> Served:
    """A server that asks for keys: one that may everything but change the shared index, and a bare one."""
    text = CONFIG
    for name, rights in (("full", '"raw", "traces", "explain", "principles", "feedback"'), ("bare", "")):
        digest = hashlib.sha256(f"sk-{name}-page".encode()).hexdigest()
        text += f'[[key]]\nid = "{name}"\nsha256 = "{digest}"\nrights = [{rights}]\n'
    return start(file=text)


def test_a_key_is_asked_for_and_kept_in_memory_only(open_tab: Open, locked: Served) -> None:
    tab = open_tab(locked.url)
    page = tab.open()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.get_by_label("API key").fill("sk-wrong")
    page.get_by_label("API key").press("Enter")
    expect(page.locator("#key-trouble")).to_have_text("invalid API key")
    page.get_by_label("API key").fill("sk-full-page")
    page.get_by_label("API key").press("Enter")
    expect(page.get_by_role("dialog")).to_be_hidden()
    tab.ask("with a key")
    tab.answered()
    assert "sk-full-page" not in page.content()
    stored = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])")
    assert "sk-" not in stored
    page.get_by_role("link", name="Principles").click()
    page.get_by_text("This index is empty").wait_for()
    expect(page.locator("summary", has_text="Add a principle")).to_be_hidden()
    page.reload()
    expect(page.get_by_role("dialog")).to_be_visible()


def test_a_key_that_may_little_sees_what_it_may(open_tab: Open, locked: Served) -> None:
    tab = open_tab(locked.url)
    page = tab.open()
    page.get_by_label("API key").fill("sk-bare-page")
    page.get_by_label("API key").press("Enter")
    expect(page.locator(".columns select").first).to_be_visible()
    assert "raw" not in page.locator(".columns select").first.inner_text().split()
    tab.ask("with few rights")
    expect(page.locator(".said").first).to_have_text("0 1 2 3 4 5 ")
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    assert page.locator(".verdict").count() == page.get_by_role("link", name="Why").count() == 0
    page.get_by_role("link", name="Traces").click()
    expect(page.locator(".recent .trouble")).to_have_text("this key lacks the right 'traces'")
    page.get_by_role("link", name="Principles").click()
    expect(page.locator("main .trouble")).to_have_text("this key lacks the right 'principles'")


def test_a_server_that_goes_in_mid_stream_is_said_and_comes_back(
    open_tab: Open, start: Callable[..., Served], upstream: FakeUpstream
) -> None:
    upstream.scripts["page-long"] = [piece for i in range(400) for piece in (f"{i} ", 0.05)]
    first = start(file=CONFIG.replace("[server]", "[server]\ndrain_s = 0"))
    tab = open_tab(first.url)
    page = tab.open("#play?q=count&policy=raw&model=page-long")
    page.get_by_label("Your question").press("Enter")
    expect(page.locator(".said")).to_contain_text("0 1 2")
    first.process.kill()
    first.process.wait(5)
    expect(page.locator(".answer .trouble")).to_have_text("The connection to the server broke.")
    expect(page.locator(".said")).to_contain_text("0 1 2")  # what came stays
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".answer .trouble")).to_have_text("The connection to the server broke.")
    upstream.scripts["page-long"] = ["back ", "again"]
    start("--port", first.url.rsplit(":", 1)[1], file=CONFIG)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".said")).to_have_text("back again")
    expect(page.locator(".answer .trouble")).to_be_hidden()


@pytest.mark.parametrize(
    ("model", "words"),
    [("die-mid-stream-2", "broke"), ("error-mid-stream-2", "made up error"), ("error-429", "made up error 429")],
)
def test_an_engine_that_fails_is_said_where_the_answer_would_be(tab: Tab, model: str, words: str) -> None:
    page = tab.page
    page.goto(f"{tab.url}/#play?q=x&policy=raw&model={model}")
    page.reload()
    # The list of models does not have this one, so the link's word on it is passed over: ask as the page would.
    page.route("**/v1/chat/completions", lambda route: route.continue_(post_data=renamed(route.request, model)))
    page.get_by_label("Your question").press("Enter")
    expect(page.locator(".answer .trouble")).to_contain_text(words)
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    expect(page.get_by_role("button", name="Ask")).to_be_visible()


def renamed(request: Any, model: str) -> str:
    return json.dumps(json.loads(request.post_data) | {"model": model})


# ---------------------------------------------------------------- hostile text

HOSTILE = (
    "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'> [a link](javascript:window.hacked=3) "
    "</textarea></p><style>body{display:none}</style> \u202edesrever &lt;b&gt; ${1} {{2}}"
)


def test_hostile_text_is_text_wherever_it_stands(tab: Tab, server: Served, upstream: FakeUpstream) -> None:
    page = tab.page
    upstream.scripts["stream-6"] = [HOSTILE, " ", "x" * 200_000]
    rule = {
        "id": "evil<b>", "title": HOSTILE[:80], "text": f"A phone call {HOSTILE}", "source": HOSTILE,
        "url": "javascript:window.hacked=4", "region": "<i>",
    }  # fmt: skip
    httpx.post(server.url + "/v1/principles", json={"index": "law", "principles": [rule]}).raise_for_status()
    try:
        tab.ask(f"{ASKED} {HOSTILE}")
        tab.answered()
        expect(page.locator(".question")).to_have_text(f"{ASKED} {HOSTILE}")
        assert page.locator(".said").nth(1).evaluate("node => node.textContent").startswith(HOSTILE)
        assert page.locator(".said").nth(1).evaluate("node => node.textContent.length") == len(HOSTILE) + 200_001
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.locator(".answer").nth(1).get_by_role("link", name="Why").click()
        page.locator(".waterfall").wait_for()
        assert HOSTILE in page.locator(".prompt").evaluate("node => node.textContent")
        page.get_by_role("link", name="Principles").click()
        page.locator(".card").nth(1).wait_for()
        evil = page.locator(".card", has_text="evil<b>")
        expect(evil).to_contain_text("<img src=x")
        assert evil.locator("a").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate("window.hacked") is None
        assert page.locator("main img, main script, main style").count() == 0
    finally:
        del upstream.scripts["stream-6"]
        httpx.delete(f"{server.url}/v1/principles/evil<b>", params={"index": "law"}).raise_for_status()


def test_the_key_dialog_says_where_the_key_goes(
    open_tab: Open, locked: Served, tab: Tab, upstream: FakeUpstream
) -> None:
    page = open_tab(locked.url).open()
    expect(page.locator("#key-title")).to_have_text("This server asks for a key")
    expect(page.locator("#key-use")).to_contain_text("goes to this server only")
    tab.page.evaluate("import(document.querySelector('script[type=module]').src.replace('main.js', 'server.js'))"
                      ".then(({ asks }) => asks.key(''))")  # fmt: skip
    expect(tab.page.locator("#key-title")).to_have_text("The engine asks for a key")
    expect(tab.page.locator("#key-use")).to_contain_text("it sends yours to the engine")
