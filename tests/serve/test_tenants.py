"""What belongs to one tenant reaches no other through a policy that reads it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import httpx
import pytest

from serve.chat.keys import Caller
from serve.config import ConfigError, Flags
from serve.configure.reader import load
from tests.serve.conftest import Start, chat
from tests.upstream import FakeUpstream

pytest.importorskip("faiss", reason="needs trimtab[retrieval]")
INDEXES = """
state_dir = "{state}"
[engine.main]
url = "{url}"
[index.law]
embedder = "none"
[index.acme]
embedder = "none"
tenant = "acme"
[index.bolt]
embedder = "none"
tenant = "bolt"
[policy.shared]
stages = ["opo"]
render = "chat"
opo = { index = ["law"] }
[policy.secret]
stages = ["opo"]
render = "chat"
opo = { index = ["acme", "law"] }
[policy.pinned]
stages = ["opo"]
render = "chat"
opo = { index = ["law"], pinned = ["acme/creed"] }
"""
RIGHTS = 'rights = ["principles", "explain", "traces"]\n'


def key(tenant: str, more: str = RIGHTS) -> str:
    digest = hashlib.sha256(f"sk-{tenant}".encode()).hexdigest()
    return f'[[key]]\nid = "{tenant}"\nsha256 = "{digest}"\n{more}'


def read(tmp_path: Path, text: str) -> dict[str, Caller]:
    file = tmp_path / "t.toml"
    file.write_text(text.replace("{state}", str(tmp_path)).replace("{url}", "http://x"))
    return {it.id: Caller(it.tenant, it) for it in load(Flags(config=str(file)), {}).keys}


def test_a_policy_inherits_the_tenant_of_its_indexes(tmp_path: Path) -> None:
    callers = read(tmp_path, INDEXES + key("acme") + key("bolt"))
    for policy, acme, bolt in (("shared", True, True), ("secret", True, False), ("pinned", True, False),
                               ("urial", True, True), ("raw", False, False)):  # fmt: skip
        assert (callers["acme"].may_use(policy), callers["bolt"].may_use(policy)) == (acme, bolt), policy


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (key("bolt", 'policies = ["secret"]\n'), r"key.policies: key 'bolt' of tenant 'bolt' may not use 'secret'"),
        (key("bolt", 'policy = "pinned"\n'), "key.policy: key 'bolt' may not use its own default 'pinned'"),
        ('[policy.both]\nstages = ["opo"]\nopo = { index = ["acme", "bolt"] }\n' + key("acme"),
         "policy.both: no key may use it: it reads indexes of acme, bolt"),
    ],
)  # fmt: skip
def test_what_no_key_may_have_is_refused_at_boot(tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"t.toml:\d+: {message}"):
        read(tmp_path, INDEXES + more)


def test_without_keys_there_is_one_caller_and_everything_is_theirs(tmp_path: Path) -> None:
    both = '[policy.both]\nstages = ["opo"]\nopo = { index = ["acme", "bolt"] }\n'
    assert read(tmp_path, INDEXES + both) == {}


def test_another_tenants_rules_reach_no_prompt_and_no_explanation(start: Start, upstream: FakeUpstream) -> None:
    served = start(file=INDEXES + key("acme") + key("bolt"))
    rule = {"index": "acme", "principles": [{"id": "creed", "text": "Zebras graze at dawn."}]}

    def post(who: str, path: str, body: object, policy: str = "") -> httpx.Response:
        headers = {"authorization": f"Bearer sk-{who}", **({"x-trimtab-policy": policy} if policy else {})}
        return httpx.post(served.url + path, json=body, headers=headers, timeout=20)

    assert post("acme", "/v1/principles", rule).status_code == 200
    asked = chat("When do zebras graze?")
    for policy in ("secret", "pinned"):
        assert "Zebras graze at dawn" in post("acme", "/v1/explain", asked, policy).text
        before = len(upstream.requests)
        for path in ("/v1/explain", "/v1/chat/completions"):
            answer = post("bolt", path, asked, policy)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "policy_not_allowed")
            assert "creed" not in answer.text
            assert policy not in answer.json()["error"]["message"].partition("it may use")[2]
        assert not [r for r in upstream.requests[before:] if r.method == "POST"]
    rows = httpx.get(served.url + "/v1/policies", headers={"authorization": "Bearer sk-bolt"}).json()["data"]
    assert not {"secret", "pinned"} & {row["id"] for row in rows}


async def test_what_one_tenant_has_asked_is_no_quicker_for_another(tmp_path: Path) -> None:
    """Else the milliseconds in its own trace tell a tenant what another has asked."""
    from retrieval.passage import Passage
    from retrieval.search.index import Index

    with Index.open(tmp_path / "law", create=True, embedder="none") as index:
        index.add([Passage("a", "Zebras graze at dawn.")])
        searched: list[str] = []
        lexical = index.backend.lexical

        def counting(view: object, query: str, k: int, exact: bool = False) -> object:
            searched.append(query)
            return lexical(view, query, k, exact)

        index.backend.lexical = counting  # type: ignore[method-assign, assignment]
        for owner, expected in (("acme", 1), ("acme", 1), ("bolt", 2), ("bolt", 2), ("acme", 2)):
            assert [hit.id for hit in await index.asearch("zebras", 1, owner=owner)] == ["a"]
            assert len(searched) == expected


BPO = """
state_dir = "{state}"
[server]
cache_salt = "tenant"
[engine.main]
url = "{url}"
kind = "vllm"
warm_up = false
[rewriter.house]
engine = "main"
model = "MODEL"
[policy.better]
stages = ["bpo"]
render = "chat"
bpo = { rewriter = "house" }
"""


def rewritten(url: str, who: str, path: str, text: str) -> httpx.Response:
    headers = {"authorization": f"Bearer sk-{who}", "x-trimtab-policy": "better"}
    return httpx.post(url + path, json=chat(text), headers=headers, timeout=20)


def test_an_explanation_keeps_tenants_apart_at_the_rewriter_too(start: Start, upstream: FakeUpstream) -> None:
    served = start(file=BPO.replace("MODEL", "echo") + key("acme") + key("bolt"))
    salts = set()
    for who in ("acme", "bolt"):
        before = len(upstream.requests)
        assert rewritten(served.url, who, "/v1/explain", f"What do zebras of {who} eat?").status_code == 200
        sent = [r.body.decode() for r in upstream.requests[before:] if r.method == "POST"]
        assert len(sent) == 1
        salts.add(json.loads(sent[0]).get("cache_salt"))
    assert len(salts) == 2
    assert None not in salts


def test_prompts_that_a_rewriter_refuses_close_it_for_nobody(start: Start, upstream: FakeUpstream) -> None:
    served = start(file=BPO.replace("MODEL", "error-400") + key("acme") + key("bolt"))
    for number in range(8):
        answer = rewritten(served.url, "acme", "/v1/chat/completions", f"Where do zebras sleep, number {number}?")
        assert answer.headers["x-trimtab-applied"] == "bpo=failed(RewriterRefused)"
    answer = rewritten(served.url, "bolt", "/v1/chat/completions", "Where do zebras sleep?")
    assert answer.headers["x-trimtab-applied"] == "bpo=failed(RewriterRefused)"


def test_one_tenants_failures_close_the_rewriter_for_that_tenant_only(start: Start, upstream: FakeUpstream) -> None:
    served = start(file=BPO.replace("MODEL", "error-500") + key("acme") + key("bolt"))
    seen = [
        rewritten(served.url, "acme", "/v1/chat/completions", f"Where do zebras sleep, number {number}?")
        for number in range(7)
    ]
    assert "circuit breaker open" in seen[-1].headers["x-trimtab-applied"]
    answer = rewritten(served.url, "bolt", "/v1/chat/completions", "Where do zebras sleep?")
    assert answer.headers["x-trimtab-applied"] == "bpo=failed(RewriterFailed)"
