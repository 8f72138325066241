"""What belongs to one tenant reaches no other through a policy that reads it."""

from __future__ import annotations

import hashlib
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
