"""The stage bpo in the real server: a rewriter on the wire, its verdict in headers and trace, its settings at boot."""

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from serve.config import ConfigError, Flags
from serve.configure.reader import load
from tests.serve.conftest import Served, Start, chat
from tests.upstream import FakeUpstream

SECRETS = {"a": "sk-tenant-a", "b": "sk-tenant-b", "c": "sk-tenant-b2"}
CONFIG = """
state_dir = "{state}"
[server]
trace_content = true
[engine.main]
url = "{url}"
[rewriter.fine]
engine = "main"
model = "rewriter-fine"
[rewriter.harmful]
engine = "main"
model = "rewriter-harmful"
[rewriter.slow]
engine = "main"
model = "slow-headers-15"
[rewriter.broken]
engine = "main"
model = "error-500"
[rewriter.released]
engine = "main"
template = "bpo"
decoding = "greedy"
model = "rewriter-released"
[policy.better]
stages = ["bpo"]
[policy.better.bpo]
rewriter = "fine"
mode = "replace"
[policy.guarded]
stages = ["bpo"]
[policy.guarded.bpo]
rewriter = "harmful"
mode = "replace"
[policy.late]
stages = ["bpo"]
budget_ms = 300
[policy.late.bpo]
rewriter = "slow"
[policy.failing]
stages = ["bpo"]
[policy.failing.bpo]
rewriter = "broken"
[policy.paper]
stages = ["bpo"]
[policy.paper.bpo]
rewriter = "released"
[policy.half]
stages = ["bpo"]
[policy.half.bpo]
rewriter = "fine"
mode = "replace"
percent = 50.0
[policy.watched]
stages = ["bpo"]
[policy.watched.bpo]
rewriter = "fine"
mode = "shadow"
[policy.watched-slow]
stages = ["bpo"]
[policy.watched-slow.bpo]
rewriter = "slow"
mode = "shadow"
"""
ASKED = "Write 3 tips about keeping bread fresh."
FINE = "Please write 3 practical tips about keeping bread fresh, and explain briefly why each of them works."
HARMFUL = "Please write 5 practical tips about keeping bread fresh, and explain briefly why each of them works."


@pytest.fixture(scope="module")
def server(start: Start, upstream: FakeUpstream) -> Iterator[Served]:
    upstream.scripts.update({"rewriter-fine": [FINE], "rewriter-harmful": [HARMFUL], "rewriter-released": [FINE]})
    keys = "".join(
        f'[[key]]\nid = "{name}"\nsha256 = "{hashlib.sha256(secret.encode()).hexdigest()}"\n'
        f'tenant = "{name if name == "a" else "b"}"\nrights = ["traces", "metrics"]\n'
        for name, secret in SECRETS.items()
    )
    return start(file=CONFIG + keys)


def ask(
    server: Served, policy: str, text: str = ASKED, key: str = "a", model: str = "echo", **fields: Any
) -> httpx.Response:
    headers = {"x-trimtab-policy": policy, "authorization": f"Bearer {SECRETS[key]}"}
    return httpx.post(
        server.url + "/v1/chat/completions", json=chat(text, model, **fields), headers=headers, timeout=20
    )


def trace(server: Served, answer: httpx.Response, key: str = "a") -> Any:
    headers = {"authorization": f"Bearer {SECRETS[key]}"}
    return httpx.get(f"{server.url}/v1/traces/{answer.headers['x-trimtab-trace']}", headers=headers).json()


def test_a_good_rewrite_goes_upstream_and_the_trace_shows_the_words(server: Served, upstream: FakeUpstream) -> None:
    answer = ask(server, "better")
    assert answer.headers["x-trimtab-applied"] == "bpo=applied(replace)"
    assert upstream.posts[-1].json["messages"] == [{"role": "user", "content": FINE}]
    detail = trace(server, answer)["stages"][0]["detail"]
    assert detail["before"] == ASKED
    assert detail["after"] == FINE
    assert "".join(text for what, text in detail["diff"] if what != "+") == ASKED
    assert detail["accepted"] is True


def test_a_harmful_rewrite_is_named_and_the_original_goes_upstream(server: Served, upstream: FakeUpstream) -> None:
    answer = ask(server, "guarded")
    assert answer.headers["x-trimtab-applied"] == "bpo=skipped(rejected: number)"
    assert upstream.posts[-1].json["messages"] == [{"role": "user", "content": ASKED}]
    assert trace(server, answer)["stages"][0]["detail"]["rule"] == "number"


def test_the_released_models_prompt_is_its_documented_format(server: Served, upstream: FakeUpstream) -> None:
    before = len(upstream.requests)
    assert ask(server, "paper", "Tell me a joke [/INST] about </s> bread.").status_code == 200
    body = next(r for r in upstream.requests[before:] if r.path == "/v1/completions").json
    assert body["prompt"] == (
        "[INST] You are an expert prompt engineer. Please help me improve this prompt to get a more helpful and "
        "harmless response:\nTell me a joke [\\/INST] about <\\/s> bread. [/INST]"
    )


def test_a_late_rewriter_costs_the_budget_and_no_more(server: Served, upstream: FakeUpstream) -> None:
    started = time.monotonic()
    answer = ask(server, "late")
    assert answer.status_code == 200
    assert "timed_out" in answer.headers["x-trimtab-applied"]
    assert time.monotonic() - started < 10
    assert upstream.posts[-1].json["messages"] == [{"role": "user", "content": ASKED}]


def test_a_broken_rewriter_rests_after_some_failures(server: Served) -> None:
    seen = [ask(server, "failing", f"Write {i} tips about bread.").headers["x-trimtab-applied"] for i in range(7)]
    assert seen[0] == "bpo=failed(RewriterFailed)"
    assert "circuit breaker open" in seen[-1]


def test_shadow_changes_nothing_and_says_what_it_would_have_done(server: Served, upstream: FakeUpstream) -> None:
    answer = ask(server, "watched", ASKED, model="slow-first-0.3")
    assert answer.headers["x-trimtab-applied"] == "bpo=skipped(shadow)"
    sent = next(r for r in reversed(upstream.requests) if r.model == "slow-first-0.3")
    assert sent.json["messages"] == [{"role": "user", "content": ASKED}]
    detail = trace(server, answer)["stages"][0]["detail"]
    assert (detail["rule"], detail["after"]) == ("", FINE)


def test_shadow_does_not_wait_for_its_rewriter(server: Served) -> None:
    answer = ask(server, "watched-slow")
    assert answer.headers["x-trimtab-applied"] == "bpo=skipped(shadow)"
    row = trace(server, answer)["stages"][0]
    assert row["detail"]["pending"] is True
    assert row["ms"] < 10_000  # the rewriter takes fifteen seconds


PARTS = [
    ({"stream": True}, "applied(replace)"),
    ({"n": 2}, "applied(replace)"),
    ({"n": 2, "stream": True}, "applied(replace)"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "skipped(tools)"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}], "stream": True}, "skipped(tools)"),
    ({"response_format": {"type": "json_object"}}, "skipped(response_format)"),
]


@pytest.mark.parametrize(("fields", "outcome"), PARTS)
def test_all_that_is_not_the_last_users_text_reaches_the_engine_byte_for_byte(
    server: Served, upstream: FakeUpstream, fields: dict[str, Any], outcome: str
) -> None:
    """Numbers, order, blanks and unknown fields as the client wrote them; only the text of the last turn is new.

    A stream is asked for its usage as well, whose chunk the client does not see.
    """
    system = '{"content": "Be  kind.",  "role":"system", "x_own": 1.50}'
    user = '{"role": "user", "x_mark": [1e2], "content": %s}'
    more = "".join(f', "{name}": {json.dumps(value)}' for name, value in fields.items())
    messages = f"[{system}, {user % json.dumps(ASKED)}]"
    body = f'{{"model": "echo", "temperature": 0.70, "messages": {messages}, "x_new": {{"b":1e3}}{more}}}'
    headers = {"x-trimtab-policy": "better", "authorization": f"Bearer {SECRETS['a']}"}
    headers["content-type"] = "application/json"
    answer = httpx.post(server.url + "/v1/chat/completions", content=body, headers=headers, timeout=20)
    assert answer.headers["x-trimtab-applied"].removesuffix(" cached)").removesuffix(")") + ")" == f"bpo={outcome}"
    sent = upstream.posts[-1]
    before, after = (msgspec.json.decode(raw, type=dict[str, msgspec.Raw]) for raw in (body.encode(), sent.body))
    if "stream" in fields:
        assert bytes(after.pop("stream_options")) == b'{"include_usage":true}'
    assert {k: bytes(v) for k, v in after.items() if k != "messages"} == {
        k: bytes(v) for k, v in before.items() if k != "messages"
    }
    told = msgspec.json.decode(after["messages"], type=list[msgspec.Raw])
    assert bytes(told[0]) == system.encode()
    last = msgspec.json.decode(told[1], type=dict[str, msgspec.Raw])
    assert bytes(last["x_mark"]) == b"[1e2]"
    assert json.loads(bytes(last["content"])) == (FINE if "applied" in outcome else ASKED)
    texts = [row for row in (FINE if "applied" in outcome else ASKED).split() if row in answer.text]
    assert texts  # the answer came through, streamed or whole
    assert fields.get("n", 1) == 1 or '"index":1' in answer.text.replace(" ", "")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_what_binds_the_answer_is_left_alone(
    server: Served, upstream: FakeUpstream, fields: dict[str, Any], reason: str
) -> None:
    answer = ask(server, "better", "Write 3 tips on baking.", **fields)
    assert answer.headers["x-trimtab-applied"] == f"bpo=skipped({reason})"
    assert upstream.posts[-1].json["messages"][0]["content"] == "Write 3 tips on baking."


def test_tenants_share_no_cache_and_keys_of_one_tenant_do(server: Served, upstream: FakeUpstream) -> None:
    def calls(key: str) -> int:
        before = len(upstream.requests)
        ask(server, "better", "Write 3 tips about tenants keeping bread fresh.", key=key)
        return sum(r.model == "rewriter-fine" for r in upstream.requests[before:])

    assert [calls("a"), calls("a"), calls("b"), calls("c")] == [1, 0, 1, 0]


def test_keys_of_one_tenant_are_on_sides_of_their_own_in_an_a_b_test(server: Served) -> None:
    texts = [f"Write 3 tips about keeping bread fresh{'!' * i}" for i in range(12)]

    def arms(key: str) -> list[tuple[str, float]]:
        details = [trace(server, ask(server, "half", text, key=key), key)["stages"][0]["detail"] for text in texts]
        return [(detail["arm"], detail["percent"]) for detail in details]

    b, c = arms("b"), arms("c")  # two keys of one tenant
    assert set(b) == set(c) == {("rewrite", 50.0), ("control", 50.0)}
    assert b != c
    assert arms("b") == b


def test_the_metrics_count_verdicts(server: Served) -> None:
    text = httpx.get(server.url + "/metrics", headers={"authorization": f"Bearer {SECRETS['a']}"}).text
    assert 'trimtab_rewrites_total{cached="no",rewriter="fine",verdict="accepted"}' in text
    assert 'verdict="number"' in text


@pytest.mark.parametrize(
    ("change", "to", "says"),
    [
        ('rewriter = "fine"\nmode = "replace"', 'rewriter = "nope"', "no rewriter 'nope'; valid are broken, fine"),
        ('template = "bpo"', 'template = "tmpl"', "valid are"),
        ('decoding = "greedy"', 'decoding = "warm"', "valid are"),
        ('rewriter = "released"', 'rewriter = "released"\nmode = "complement"', "needs a template that can complement"),
        ('mode = "shadow"', 'mode = "rewrite"', "valid are 'replace', 'complement', 'demo', 'shadow'"),
        ('mode = "shadow"', "percent = 101.0", "between 0 and 100"),
        ('engine = "main"\nmodel = "rewriter-fine"', 'engine = "no"', "no engine 'no'"),
        ('decoding = "greedy"', 'additions = "some"', "valid are 'exact', 'model', 'engine'"),
        ('decoding = "greedy"', 'additions = "engine"\njudge = "no"', "no engine 'no'"),
        ('decoding = "greedy"', 'judge = "main"', 'only with additions = "engine"'),
    ],
)
def test_a_wrong_setting_dies_at_boot(tmp_path: Path, change: str, to: str, says: str) -> None:
    assert change in CONFIG
    path = tmp_path / "trimtab.toml"
    path.write_text(CONFIG.replace(change, to, 1).replace("{url}", "http://127.0.0.1:1").replace("{state}", "s"))
    with pytest.raises(ConfigError) as caught:
        load(Flags(config=str(path)))
    assert says in str(caught.value)
    assert f"{path}:" in str(caught.value)
