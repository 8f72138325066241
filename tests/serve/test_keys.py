"""Who may do what: keys, tenants, rights, and what never leaves or enters."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from serve.chat.keys import ANYBODY, identify
from serve.config import Key
from serve.errors import Forbidden, Unauthorized
from tests.serve.conftest import SECRETS, Served, chat
from tests.upstream import FakeUpstream

PATH = "/v1/chat/completions"


@pytest.fixture
async def http(keyed: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(verify=False, base_url=keyed.url, timeout=10) as client:
        yield client


def by(name: str, **more: str) -> dict[str, str]:
    return {"authorization": f"Bearer {SECRETS[name]}", **more}


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer wrong", "Basic c2stdGVzdDo=", SECRETS["house"], f"Token {SECRETS['house']}",
     f"Bearer {SECRETS['house']}x", f"Bearer {SECRETS['house'][:-1]}", "Bearer \xff\xfe"],
)  # fmt: skip
async def test_without_a_right_key_nothing_reaches_the_engine(
    http: httpx.AsyncClient, upstream: FakeUpstream, header: str | None
) -> None:
    before = len(upstream.requests)
    headers: list[Any] = [] if header is None else [(b"authorization", header.encode("latin-1"))]
    for method, path in (
        ("POST", PATH), ("POST", "/v1/completions"), ("POST", "/v1/embeddings"), ("GET", "/v1/models"),
        ("GET", "/v1/policies"), ("GET", "/v1/traces"), ("GET", "/v1/traces/x"), ("GET", "/v1/key"),
        ("GET", "/v1/indexes"), ("GET", "/v1/feedback"), ("POST", "/v1/feedback"), ("DELETE", "/v1/feedback/x"),
        ("GET", "/metrics"), ("POST", "/v1/explain"),
    ):  # fmt: skip
        answer = await http.request(method, path, json=chat() if method == "POST" else None, headers=headers)
        assert answer.status_code == 401, path
        assert answer.json()["error"]["type"] == "authentication_error"
        assert answer.headers["www-authenticate"] == "Bearer"
    assert not [r for r in upstream.requests[before:] if r.method == "POST"]


async def test_a_body_is_not_even_read_without_a_key(keyed: Served) -> None:
    host, port = keyed.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as sock:
        sock.sendall(f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n".encode())
        assert sock.recv(100).startswith(b"HTTP/1.1 401")


async def test_health_needs_no_key(http: httpx.AsyncClient) -> None:
    assert (await http.get("/healthz")).json() == {"status": "ok"}
    assert (await http.get("/readyz")).status_code in (200, 503)  # one of its engines is dead


async def test_the_scheme_is_case_blind_and_blanks_around_the_key_do_no_harm(http: httpx.AsyncClient) -> None:
    for header in (f"bearer {SECRETS['house']}", f"BEARER  {SECRETS['house']}"):
        assert (await http.post(PATH, json=chat(), headers={"authorization": header})).status_code == 200


async def test_a_key_uses_its_policies_and_no_other(http: httpx.AsyncClient) -> None:
    async def status(key: str, policy: str | None) -> int:
        headers = by(key) if policy is None else by(key, **{"x-trimtab-policy": policy})
        return (await http.post(PATH, json=chat(), headers=headers)).status_code

    assert [await status("house", p) for p in ("raw", "chat", "base")] == [200, 200, 200]
    assert [await status("guest", p) for p in ("raw", "chat", "base", None)] == [403, 200, 403, 200]
    # No list of policies: all but raw, which is a right. The server's default is raw, so it has to name one.
    assert [await status("bare", p) for p in ("raw", "chat", "base", None)] == [403, 200, 200, 403]
    refused = await http.post(PATH, json=chat(), headers=by("guest", **{"x-trimtab-policy": "base"}))
    assert refused.json()["error"]["message"] == "this key may not use the policy 'base'; it may use chat"
    for trick in (chat(trimtab={"policy": "raw"}), chat(model="gpt-base")):
        assert (await http.post(PATH, json=trick, headers=by("guest"))).status_code == 403
    default = await http.post(PATH, json=chat(), headers=by("guest"))
    assert default.headers["x-trimtab-policy"] == "chat"


async def test_an_unknown_policy_lists_only_what_the_key_may_use(http: httpx.AsyncClient) -> None:
    answer = await http.post(PATH, json=chat(), headers=by("guest", **{"x-trimtab-policy": "nice"}))
    assert answer.json()["error"]["message"] == "no policy 'nice'; valid are chat"
    rows = (await http.get("/v1/policies", headers=by("guest"))).json()["data"]
    assert [row["id"] for row in rows] == ["chat"]
    models = (await http.get("/v1/models", headers=by("guest"))).json()["data"]
    assert "gpt-aligned" in {row["id"] for row in models}
    assert "gpt-base" not in {row["id"] for row in models}


async def test_relayed_paths_and_rights_are_held_apart(http: httpx.AsyncClient) -> None:
    body = {"model": "echo", "input": "x", "prompt": "x"}
    for path in ("/v1/completions", "/v1/embeddings"):
        assert (await http.post(path, json=body, headers=by("house"))).status_code == 200
        answer = await http.post(path, json=body, headers=by("guest"))
        refusal = (403, "missing_right") if path == "/v1/embeddings" else (400, "policy_not_applicable")
        assert (answer.status_code, answer.json()["error"]["code"]) == refusal
    for path, method in (("/metrics", "GET"), ("/v1/explain", "POST")):
        assert (await http.request(method, path, json=chat(), headers=by("house"))).status_code == 200
        assert (await http.request(method, path, json=chat(), headers=by("guest"))).status_code == 403
    kept = await http.post(PATH, json=chat(trimtab={"explain": True}), headers=by("guest"))
    assert kept.json()["error"]["message"] == "this key lacks the right 'explain'"


async def test_a_trace_is_its_tenants_only(http: httpx.AsyncClient) -> None:
    answer = await http.post(PATH, json=chat(), headers=by("guest"))
    trace = f"/v1/traces/{answer.headers['x-trimtab-trace']}"
    assert (await http.get(trace, headers=by("guest"))).status_code == 200
    assert (await http.get(trace, headers=by("house"))).status_code == 404
    assert (await http.get(trace, headers=by("bare"))).json()["error"]["code"] == "missing_right"


async def test_the_clients_key_stays_here_and_the_engines_own_is_sent(
    http: httpx.AsyncClient, upstream: FakeUpstream
) -> None:
    own = "Bearer sk-upstream-secret"
    for policy, expected in (("raw", None), ("base", None), ("keyed", own), ("keyed-base", own)):
        model = f"stream-{len(upstream.requests)}"
        await http.post(
            PATH, json=chat(model=model), headers=by("house", **{"x-trimtab-policy": policy, "api-key": "k"})
        )
        arrived = next(r for r in upstream.requests if r.model == model)
        assert arrived.header("authorization") == expected
        assert not any(secret in str(arrived.headers) + arrived.body.decode() for secret in SECRETS.values())


async def test_without_keys_here_or_there_the_clients_own_goes_to_the_engine(
    served: Served, upstream: FakeUpstream
) -> None:
    async with httpx.AsyncClient(verify=False, base_url=served.url) as http:
        model = f"stream-{len(upstream.requests)}"
        await http.post(PATH, json=chat(model=model), headers={"authorization": "Bearer sk-mine"})
        await http.get("/v1/models", headers={"authorization": "Bearer sk-mine"})
    assert next(r for r in upstream.requests if r.model == model).header("authorization") == "Bearer sk-mine"
    assert any(r.method == "GET" and r.header("authorization") == "Bearer sk-mine" for r in upstream.requests)


@pytest.mark.parametrize(
    "path",
    ["/load_lora_adapter", "/v1/load_lora_adapter", "/reset", "/v1/../reset", "//v1/models", "/v1//models",
     "/v1/%2e%2e/reset", "/v1/models/%2e%2e/%2e%2e/reset", "/v1/models/../../reset", "/health", "/tokenize",
     "/v1/chat/completions/../../../reset",
     "/v1/chat/completions%00", "/v1/chat%2Fcompletions%2F", "/sleep", "/v1/fine_tuning/jobs", "/v1/files"],
)  # fmt: skip
def test_an_engines_administrative_paths_are_out_of_reach(keyed: Served, upstream: FakeUpstream, path: str) -> None:
    host, port = keyed.url.removeprefix("http://").split(":")
    for method in ("POST", "GET"):
        before = len(upstream.requests)
        with socket.create_connection((host, int(port)), timeout=5) as sock:
            sock.sendall(
                f"{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {SECRETS['house']}\r\n"
                "content-length: 2\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{}".encode()
            )
            status = sock.recv(100).split()[1]
        assert status in (b"404", b"405", b"400"), path
        # At most the list of models was asked for, which is what /v1/models/NAME means.
        assert {r.path for r in upstream.requests[before:]} <= {"/v1/models"}


async def test_no_key_is_in_logs_or_traces(keyed: Served, http: httpx.AsyncClient) -> None:
    last = ""
    for policy in ("raw", "keyed", "dead", "base"):
        body = chat(model="die-mid-stream-2" if policy == "raw" else "echo", stream=True)
        answer = await http.post(PATH, json=body, headers=by("house", **{"x-trimtab-policy": policy}))
        last = str((await http.get(f"/v1/traces/{answer.headers['x-trimtab-trace']}", headers=by("house"))).json())
        assert "sk-" not in last
    await http.post(PATH, content=b"{", headers=by("house", **{"content-type": "application/json"}))
    await http.post(PATH, json=chat(), headers={"authorization": "Bearer sk-wrong-key"})
    keyed.wait_for("engine dead")
    said = "\n".join(keyed.said)
    assert not [secret for secret in (*SECRETS.values(), "sk-upstream-secret", "sk-wrong-key") if secret in said]
    assert "hello there" not in said


# ---------------------------------------------------------------- the pure part


def test_identify_compares_the_bytes_of_the_header() -> None:
    secret = "schlüssel"
    key = Key("k", hashlib.sha256(secret.encode()).hexdigest(), tenant="t")
    assert identify([key], "Bearer " + secret.encode().decode("latin-1")).tenant == "t"
    with pytest.raises(Unauthorized):
        identify([key], "Bearer schlussel")
    assert identify([], None) is ANYBODY


def test_raw_is_a_right_or_a_policy() -> None:
    digest = hashlib.sha256(b"x").hexdigest()
    for key, allowed in (
        (Key("a", digest, rights=("raw",)), True), (Key("a", digest, policies=("raw",)), True),
        (Key("a", digest, policies=("chat",)), False), (Key("a", digest), False),
    ):  # fmt: skip
        who = identify([key], "Bearer x")
        assert who.may_use("raw") is allowed
        if not allowed:
            with pytest.raises(Forbidden):
                who.require("raw")
        else:
            who.require("raw")
