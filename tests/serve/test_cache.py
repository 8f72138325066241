"""What a vLLM engine's prefix cache is told: salts that keep tenants apart, and prefixes before anybody asks."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

import httpx
import pytest

from tests.serve.conftest import Served, Start, chat
from tests.upstream import FakeUpstream

TENANTS = {"a1": "acme", "a2": "acme", "b1": "bolt"}
CONFIG = """
state_dir = "{state}"
[server]
cache_salt = "tenant"
[engine.main]
url = "{url}"
kind = "vllm"
warm_up = false
fields_pass = ["cache_salt"]
[engine.other]
url = "{url}"
[policy.chat]
render = "chat"
[policy.text]
render = "base"
[policy.together]
render = "chat"
cache_salt = "none"
[rewriter.house]
engine = "main"
model = "echo"
[policy.rewritten]
stages = ["bpo"]
render = "chat"
bpo = { rewriter = "house" }
[policy.elsewhere]
engine = "other"
render = "chat"
"""


def keys() -> str:
    return "".join(
        f'[[key]]\nid = "{name}"\nsha256 = "{hashlib.sha256(name.encode()).hexdigest()}"\ntenant = "{tenant}"\n'
        'rights = ["raw", "traces"]\n'
        for name, tenant in TENANTS.items()
    )


@pytest.fixture(scope="module")
def served(start: Start) -> Served:
    return start(file=CONFIG + keys())


@pytest.fixture
def ask(served: Served, upstream: FakeUpstream) -> Any:
    def asked(key: str, policy: str, path: str = "/v1/chat/completions", **fields: Any) -> tuple[Any, dict[str, Any]]:
        headers = {"authorization": f"Bearer {key}", "x-trimtab-policy": policy}
        body = (chat("hello") if "chat" in path else {"model": "echo", "prompt": "hello"}) | fields
        answer = httpx.post(served.url + path, json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        # A worker that has just started also asks for the engine's models.
        return answer, json.loads(next(r.body for r in reversed(upstream.requests) if r.method == "POST"))

    return asked


@pytest.mark.parametrize("policy", ["chat", "text", "raw"])
def test_tenants_have_salts_of_their_own_and_their_keys_share_them(ask: Any, policy: str) -> None:
    salts = {key: ask(key, policy)[1]["cache_salt"] for key in TENANTS}
    assert salts["a1"] == salts["a2"] != salts["b1"]
    assert all(len(salt) == 32 and int(salt, 16) for salt in salts.values())
    assert ask("a1", policy)[1]["cache_salt"] == salts["a1"]


def test_a_rewriters_call_is_salted_as_the_chat_is(ask: Any, upstream: FakeUpstream) -> None:
    before = len(upstream.requests)
    own = ask("b1", "rewritten")[1]["cache_salt"]
    sent = [json.loads(r.body) for r in upstream.requests[before:] if r.method == "POST"]
    assert [body["cache_salt"] for body in sent] == [own, own]
    assert sent[0]["messages"] != sent[1]["messages"]


def test_text_completions_are_salted_too_and_embeddings_are_as_they_came(ask: Any) -> None:
    assert len(ask("a1", "raw", "/v1/completions")[1]["cache_salt"]) == 32
    assert "cache_salt" not in ask("a1", "raw", "/v1/embeddings", input="x")[1]


def test_a_clients_own_salt_gives_way_and_the_trace_says_so(ask: Any, served: Served) -> None:
    ours = ask("a1", "chat")[1]["cache_salt"]
    answer, sent = ask("a1", "chat", cache_salt="f" * 32)
    assert sent["cache_salt"] == ours
    headers = {"authorization": "Bearer a1"}
    trace = httpx.get(f"{served.url}/v1/traces/{answer.headers['x-trimtab-trace']}", headers=headers).json()
    assert any("gave way" in note for note in trace["notes"])


def test_a_policy_may_let_its_tenants_share(ask: Any) -> None:
    assert "cache_salt" not in ask("a1", "together")[1]
    assert ask("a1", "together", cache_salt="mine")[1]["cache_salt"] == "mine"


def test_an_engine_that_is_no_vllm_gets_none_and_the_trace_says_so(ask: Any, served: Served) -> None:
    answer, sent = ask("a1", "elsewhere")
    assert "cache_salt" not in sent
    headers = {"authorization": "Bearer a1"}
    trace = httpx.get(f"{served.url}/v1/traces/{answer.headers['x-trimtab-trace']}", headers=headers).json()
    assert any("not known to be vLLM" in note for note in trace["notes"])


def test_constant_prefixes_are_sent_once_before_anybody_asks(start: Start) -> None:
    with FakeUpstream() as engine:
        file = CONFIG.replace("warm_up = false\n", "").replace("{url}", engine.url)
        served = start(file=file + keys())

        def warmed() -> list[dict[str, Any]]:
            return [json.loads(r.body) for r in engine.requests if r.method == "POST"]

        # Salted: chat, text, urial (and its kin) for two tenants; together once. Not raw, and not the other engine's.
        wanted = {("chat", True): 2, ("text", True): 2, ("together", False): 1}
        deadline = time.monotonic() + 20
        while len(warmed()) < 3 * 2 + sum(wanted.values()):
            assert time.monotonic() < deadline, [sorted(body) for body in warmed()]
            time.sleep(0.02)
        bodies = warmed()
        assert all(body["max_tokens"] == 1 for body in bodies)
        assert len({body.get("cache_salt") for body in bodies}) == 3
        before = len(bodies)
        headers = {"authorization": "Bearer a1", "x-trimtab-policy": "chat"}
        assert httpx.post(served.url + "/v1/chat/completions", json=chat("hi"), headers=headers).status_code == 200
        sent = warmed()[-1]
        assert len(warmed()) == before + 1
        prefix = [m for body in bodies if (m := body.get("messages")) and body.get("cache_salt") == sent["cache_salt"]]
        assert any(messages[:-1] == sent["messages"][:-1] for messages in prefix)
