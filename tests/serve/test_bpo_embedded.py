"""The embedded base model as a rewriter, which it is not: what it writes is turned down, and the user's words go on."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from prompt_opt.gate.verdict import RULES
from tests.serve.conftest import Running, Served, Start
from tests.upstream import FakeUpstream

pytestmark = pytest.mark.slow

CONFIG = """
state_dir = "{state}"
[server]
trace_content = true
[engine.main]
url = "{url}"
[engine.tiny]
url = "TINY"
kind = "transformers"
[rewriter.babbles]
engine = "tiny"
template = "bpo"
decoding = "greedy"
model = "trimtab-tiny"
max_tokens = 24
[rewriter.samples]
engine = "tiny"
template = "bpo"
decoding = "aggressive"
model = "trimtab-tiny"
max_tokens = 24
[rewriter.cannot]
engine = "tiny"
model = "trimtab-tiny"
max_tokens = 24
[policy.babbled]
stages = ["urial", "bpo"]
render = "chat"
budget_ms = 60000
[policy.babbled.bpo]
rewriter = "babbles"
[policy.sampled]
stages = ["urial", "bpo"]
render = "chat"
budget_ms = 60000
[policy.sampled.bpo]
rewriter = "samples"
[policy.hinted]
stages = ["urial", "bpo"]
render = "chat"
budget_ms = 60000
[policy.hinted.bpo]
rewriter = "cannot"
"""
PROMPTS = [
    "How do I keep bread fresh for 3 days?",
    "Write a haiku about autumn leaves.",
    "Nenne drei Vorteile von Fahrrädern.",
    "Explain the difference between a virus and a bacterium, without any jargon.",
]


@pytest.fixture(scope="module")
def server(start: Start, embedded: Running) -> Served:
    return start(file=CONFIG.replace("TINY", embedded.engine()))


def ask(server: Served, policy: str, prompt: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The stage's part of the trace, and the outcomes of the header."""
    body = {"model": "echo", "messages": [{"role": "user", "content": prompt}]}
    headers = {"x-trimtab-policy": policy}
    answer = httpx.post(server.url + "/v1/chat/completions", json=body, headers=headers, timeout=90)
    assert answer.status_code == 200, answer.text
    trace = httpx.get(f"{server.url}/v1/traces/{answer.headers['x-trimtab-trace']}").json()
    applied = dict(row.split("=", 1) for row in answer.headers["x-trimtab-applied"].split(", "))
    return next(row for row in trace["stages"] if row["stage"] == "bpo"), applied


@pytest.mark.parametrize("policy", ["babbled", "sampled"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_what_a_base_model_babbles_is_turned_down_by_name(
    server: Served, upstream: FakeUpstream, policy: str, prompt: str
) -> None:
    stage, applied = ask(server, policy, prompt)
    assert applied["urial"] == "applied(3)"
    detail = stage["detail"]
    assert detail["accepted"] is False
    assert detail["rule"] in {*RULES, "truncated"}
    assert applied["bpo"] == f"skipped(rejected: {detail['rule']})"
    assert detail["after"] != prompt
    sent = json.loads(upstream.posts[-1].body)["messages"]
    assert sent[-1] == {"role": "user", "content": prompt}


def test_a_model_without_a_chat_template_cannot_hint_and_costs_nothing(server: Served, upstream: FakeUpstream) -> None:
    stage, applied = ask(server, "hinted", PROMPTS[0])
    assert (stage["status"], applied["urial"]) == ("failed", "applied(3)")
    assert json.loads(upstream.posts[-1].body)["messages"][-1] == {"role": "user", "content": PROMPTS[0]}
