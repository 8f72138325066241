"""What a caller might send to make a policy hold less: refused, or without effect."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serve.conftest import in_process
from tests.upstream import FakeUpstream

CONFIG = """
[server]
policy = "safe"
[engine.main]
url = "{url}"
[policy.safe]
stages = ["urial"]
render = "chat"
[policy.base]
stages = ["urial"]
render = "base"
"""
RESPONSE = {"id": "resp_1", "object": "response", "status": "completed", "output": [], "usage": None}
MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "stop_reason": "end_turn"}
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"


@pytest.fixture
def engine() -> Iterator[FakeUpstream]:
    """An engine with all three APIs."""
    with FakeUpstream() as upstream:
        upstream.others[RESPONSES] = lambda r: (200, RESPONSE) if "model" in r.json else (400, {"error": {}})
        upstream.others[MESSAGES] = lambda r: (200, MESSAGE) if "model" in r.json else (400, {"error": {}})
        yield upstream


@pytest.fixture
async def http(engine: FakeUpstream, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        in_process(CONFIG.format(url=engine.url), tmp_path) as url,
        httpx.AsyncClient(verify=False, base_url=url, timeout=60) as client,
    ):
        yield client


def asked(engine: FakeUpstream) -> list[dict[str, Any]]:
    """The bodies that reached the engine, without the empty questions whether it has a path."""
    return [r.json for r in engine.posts if r.body != b"{}"]


def body(path: str, **more: Any) -> dict[str, Any]:
    said = [{"role": "user", "content": "hi"}]
    return {"model": "echo", "max_tokens": 9, "input" if path == RESPONSES else "messages": said, **more}


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
@pytest.mark.parametrize(
    "more",
    [
        {"extra_body": {"messages": []}}, {"extra_body": {"Input": "x"}}, {"extra_body": {"chat_template": "x"}},
        {"extra_body": "x"}, {"extra_body": {"extra_body": {}}}, {"fallbacks": [{"model": "x", "messages": []}]},
        {"extra_headers": {"x-trimtab-policy": "raw"}}, {"transforms": ["middle-out"]}, {"n_keep": 0},
        {"previous_input_messages": [{"role": "user", "content": "x"}]},
    ],
)  # fmt: skip
async def test_a_field_that_rewrites_the_request_behind_us_is_refused(
    http: httpx.AsyncClient, engine: FakeUpstream, path: str, more: dict[str, Any]
) -> None:
    answer = await http.post(path, json=body(path, **more))
    assert answer.status_code == 400
    assert next(iter(more)) in answer.text
    assert not asked(engine)


async def test_an_engines_own_extras_and_empty_ones_pass(http: httpx.AsyncClient, engine: FakeUpstream) -> None:
    more: dict[str, Any] = {"extra_body": {"google": {"thinking_config": {}}}, "fallbacks": [], "transforms": []}
    assert (await http.post(CHAT, json=body(CHAT, **more))).status_code == 200
    assert more.items() <= asked(engine)[-1].items()


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
@pytest.mark.parametrize("role", ["User", "USER", " user", "Assistant", "System"])
async def test_a_role_in_another_case_is_refused(
    http: httpx.AsyncClient, engine: FakeUpstream, path: str, role: str
) -> None:
    said = {"input" if path == RESPONSES else "messages": [{"role": role, "content": "hi"}]}
    answer = await http.post(path, json=body(path) | said)
    assert answer.status_code == 400
    assert repr(role) in answer.text
    assert not asked(engine)


@pytest.mark.parametrize("where", ["messages", "system"])
async def test_so_is_the_key_of_a_block(http: httpx.AsyncClient, engine: FakeUpstream, where: str) -> None:
    blocks = [{"type": "text", "text": "a", "Text": "b"}]
    more = {"system": blocks} if where == "system" else {"messages": [{"role": "user", "content": blocks}]}
    answer = await http.post(MESSAGES, json=body(MESSAGES) | more)
    assert (answer.status_code, "'Text'" in answer.text) == (400, True)
    assert not asked(engine)


async def test_a_policys_text_is_not_truncated_by_the_client(http: httpx.AsyncClient, engine: FakeUpstream) -> None:
    assert (await http.post(RESPONSES, json=body(RESPONSES, truncation="auto"))).status_code == 200
    assert "truncation" not in asked(engine)[-1]
    headers = {"x-trimtab-policy": "raw"}
    assert (await http.post(RESPONSES, json=body(RESPONSES, truncation="auto"), headers=headers)).status_code == 200
    assert asked(engine)[-1]["truncation"] == "auto"


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES, "/v1/embeddings"])
async def test_two_policy_headers_are_refused(http: httpx.AsyncClient, engine: FakeUpstream, path: str) -> None:
    headers = [("X-Trimtab-Policy", "raw"), ("x-trimtab-POLICY", "safe"), ("content-type", "application/json")]
    answer = await http.post(path, content=json.dumps(body(path)), headers=headers)
    assert (answer.status_code, "X-Trimtab-Policy" in answer.text) == (400, True)
    assert not asked(engine)


@pytest.mark.parametrize(
    ("path", "more"),
    [
        (CHAT, {"prompt": "x"}), (CHAT, {"input": "x"}), (RESPONSES, {"messages": []}), (MESSAGES, {"prompt": "x"}),
        (MESSAGES, {"input": []}), (CHAT, {"prompt": [1, 2]}), (RESPONSES, {"prompt": "x"}),
    ],
)  # fmt: skip
async def test_a_second_conversation_beside_the_aligned_one_is_refused(
    http: httpx.AsyncClient, engine: FakeUpstream, path: str, more: dict[str, Any]
) -> None:
    answer = await http.post(path, json=body(path, **more))
    assert (answer.status_code, next(iter(more)) in answer.text) == (400, True)
    assert not asked(engine)


@pytest.mark.parametrize("more", [{"input": "x"}, {"messages": []}, {"template": "x"}])
async def test_so_is_one_beside_a_prompt(http: httpx.AsyncClient, engine: FakeUpstream, more: dict[str, Any]) -> None:
    answer = await http.post(
        "/v1/completions", json={"model": "echo", "prompt": "hi"} | more, headers={"x-trimtab-policy": "base"}
    )
    assert (answer.status_code, next(iter(more)) in answer.text) == (400, True)
    assert not asked(engine)


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
async def test_oddly_placed_system_texts_do_not_displace_the_policys(
    http: httpx.AsyncClient, engine: FakeUpstream, path: str
) -> None:
    name = "input" if path == RESPONSES else "messages"
    system = {"role": "system", "content": "S"}
    user = {"role": "user", "content": "hi"}
    for said in ([system, user], [system, system, user], [user, system], [user, {"role": "assistant", "content": "A"}]):
        for more in (
            {},
            {"system": "S"} if path == MESSAGES else {},
            {"instructions": "S"} if path == RESPONSES else {},
        ):
            answer = await http.post(path, json=body(path) | {name: said} | more)
            assert answer.status_code == 200
            assert answer.headers["x-trimtab-applied"] == "urial=applied(3)"
            sent = asked(engine)[-1]
            first = sent.get("instructions") or sent.get("system") or sent[name][0]["content"]
            assert len(str(first)) > 200


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions/", "//v1/chat/completions", "/v1/Chat/completions", "/v1/responses/compact",
        "/v1/completions/", "/chat/completions", "/v1/engines/echo/completions", "/v1/responses/a%2f..%2fb",
        "/v1/responses/a/b", "/v1/conversations", "/v1/batches", "/v1/messages/batches", "/v1/files", "/api/chat",
        "/api/generate", "/completion", "/tokenize", "/v1/chat/completions;x=1",
    ],
)  # fmt: skip
async def test_no_other_path_or_method_reaches_the_engine(
    http: httpx.AsyncClient, engine: FakeUpstream, path: str
) -> None:
    url = httpx.URL(http.base_url).copy_with(raw_path=path.encode())
    for method in ("POST", "PUT", "PATCH", "GET", "DELETE"):
        answer = await http.request(method, url, json=body(CHAT))
        assert answer.status_code in (400, 404, 405)
    assert not asked(engine)


@pytest.mark.parametrize("path", ["/v1/chat%2Fcompletions", "/v1/%63hat/completions"])
async def test_an_escaped_path_is_aligned_as_the_plain_one(http: httpx.AsyncClient, path: str) -> None:
    url = httpx.URL(http.base_url).copy_with(raw_path=path.encode())
    assert (await http.post(url, json=body(CHAT))).headers["x-trimtab-applied"] == "urial=applied(3)"


TENANTS = """
[engine.main]
url = "{url}"
{passes}
[policy.chat]
stages = ["urial"]
render = "chat"
[server]
policy = "chat"
[[key]]
id = "a"
sha256 = "{a}"
tenant = "{first}"
[[key]]
id = "b"
sha256 = "{b}"
tenant = "{second}"
"""
STORED = [
    {"previous_response_id": "resp_of_a"}, {"conversation": "conv_of_a"}, {"conversation": {"id": "conv_of_a"}},
    {"input": [{"type": "item_reference", "id": "msg_of_a"}]}, {"input": [{"id": "msg_of_a"}]},
    {"input": [{"role": "user", "content": "hi"}, {"type": "item_reference", "x": 1.5, "id": "msg_of_a"}]},
]  # fmt: skip


@contextlib.asynccontextmanager
async def tenants(
    engine: FakeUpstream, folder: Path, *, first: str = "A", second: str = "B", passes: str = ""
) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the key of the second tenant."""
    a, b = (hashlib.sha256(name).hexdigest() for name in (b"key-a", b"key-b"))
    file = TENANTS.format(url=engine.url, a=a, b=b, first=first, second=second, passes=passes)
    async with (
        in_process(file, folder) as url,
        httpx.AsyncClient(verify=False, base_url=url, timeout=60, headers={"authorization": "Bearer key-b"}) as client,
    ):
        yield client


async def test_a_tenant_reaches_no_response_that_an_engine_stored_for_another(
    engine: FakeUpstream, tmp_path: Path
) -> None:
    async with tenants(engine, tmp_path) as http:
        for more in STORED:
            for path in (RESPONSES, f"{RESPONSES}/input_tokens"):
                answer = await http.post(path, json=body(RESPONSES) | more)
                assert (answer.status_code, answer.json()["error"]["code"]) == (400, "field_not_passed")
                assert "fields_pass" in answer.text
        for method, rest in (("GET", ""), ("GET", "/input_items"), ("DELETE", ""), ("POST", "/cancel")):
            answer = await http.request(method, f"{RESPONSES}/resp_of_a{rest}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "field_not_passed")
        assert not [r for r in engine.requests if r.body != b"{}" and r.path.startswith(RESPONSES)]
        assert (await http.post(RESPONSES, json=body(RESPONSES))).status_code == 200


@pytest.mark.parametrize(
    "how",
    [{"first": "B"}, {"passes": 'fields_pass = ["previous_response_id", "conversation"]'}],
    ids=["one", "setting"],
)
async def test_stored_responses_are_reached_within_a_tenant_or_by_setting(
    engine: FakeUpstream, tmp_path: Path, how: dict[str, str]
) -> None:
    engine.others[f"{RESPONSES}/resp_1"] = lambda record: (200, RESPONSE)
    async with tenants(engine, tmp_path, **how) as http:
        for more in STORED[:4]:
            assert (await http.post(RESPONSES, json=body(RESPONSES) | more)).status_code == 200
        assert (await http.get(f"{RESPONSES}/resp_1")).status_code == 200


def plain(content: bytes, *headers: str, version: str = "1.1", last: bool = True) -> bytes:
    ending = ["Connection: close"] if last else []
    head = [f"POST {CHAT} HTTP/{version}", "Host: 127.0.0.1", *ending, *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + content


async def said(url: str, data: bytes) -> bytes:
    """All that a server answers on one connection until it closes it."""
    where = httpx.URL(url)
    reader, writer = await asyncio.open_connection(where.host, where.port)
    try:
        writer.write(data)
        async with asyncio.timeout(60):
            return await reader.read()
    finally:
        writer.close()


CHAT_BODY = json.dumps(body(CHAT)).encode()
KIND = "Content-Type: application/json"
CHUNKED = b"%x\r\n%s\r\n0\r\n" % (len(CHAT_BODY), CHAT_BODY)
TWICE = gzip.compress(gzip.compress(CHAT_BODY))
LENGTH = f"Content-Length: {len(CHAT_BODY)}"
WIRES = {
    "HTTP/1.0": plain(CHAT_BODY, KIND, LENGTH, version="1.0"),
    "two in a row": plain(CHAT_BODY, KIND, LENGTH, last=False) + plain(CHAT_BODY, KIND, LENGTH),
    "a trailer": plain(CHUNKED + b"X-Trimtab-Policy: raw\r\n\r\n", KIND, "Transfer-Encoding: chunked"),
    "a folded header": plain(CHAT_BODY, KIND, "X-A: b\r\n X-Trimtab-Policy: raw", LENGTH),
    "a blank before the colon": plain(CHAT_BODY, KIND, "X-Trimtab-Policy : raw", LENGTH),
    "two lengths": plain(CHAT_BODY, KIND, LENGTH, "Content-Length: 5"),
    "length and chunks": plain(CHUNKED + b"\r\n", KIND, LENGTH, "Transfer-Encoding: chunked"),
    "two types": plain(CHAT_BODY, "Content-Type: text/plain", KIND, LENGTH),
    "two codings": plain(CHAT_BODY, KIND, "Content-Encoding: identity", "Content-Encoding: gzip", LENGTH),
    "gzip twice": plain(TWICE, KIND, "Content-Encoding: gzip, gzip", f"Content-Length: {len(TWICE)}"),
    "gzip in gzip": plain(TWICE, KIND, "Content-Encoding: gzip", f"Content-Length: {len(TWICE)}"),
    "an underscore": plain(CHAT_BODY, KIND, "X_Trimtab_Policy: raw", LENGTH),
    "an absolute target": plain(CHAT_BODY, KIND, LENGTH).replace(b"POST /", b"POST http://127.0.0.1/"),
    "another method by a header": plain(CHAT_BODY, KIND, "X-HTTP-Method-Override: GET", LENGTH),
    "UTF-16": plain(CHAT_BODY.decode().encode("utf-16"), KIND, f"Content-Length: {2 * len(CHAT_BODY) + 2}"),
    "two marks": plain(b"\xef\xbb\xbf" * 2 + CHAT_BODY, KIND, f"Content-Length: {len(CHAT_BODY) + 6}"),
}  # fmt: skip


@pytest.mark.parametrize("name", WIRES)
async def test_a_request_that_is_odd_on_the_wire_is_aligned_or_not_sent(
    http: httpx.AsyncClient, engine: FakeUpstream, name: str
) -> None:
    answer = await said(str(http.base_url), WIRES[name])
    for sent in asked(engine):
        assert len(sent["messages"]) > 1
    assert answer.count(b"urial=applied(3)") == len(asked(engine))
    assert asked(engine) or b" 400 " in answer or b" 415 " in answer


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES, "/v1/completions", f"{MESSAGES}/count_tokens"])
async def test_a_form_is_no_json(http: httpx.AsyncClient, engine: FakeUpstream, path: str) -> None:
    for more in ({"data": {"model": "echo", "prompt": "x"}}, {"files": {"messages": (None, "[]")}}):
        assert (await http.post(path, **more)).status_code == 415  # type: ignore[arg-type]
    assert not asked(engine)


async def test_an_audio_path_takes_json_and_forms_under_a_policy_alike(
    http: httpx.AsyncClient, engine: FakeUpstream
) -> None:
    path = "/v1/audio/transcriptions"
    for kind in ("application/json", "application/json; a=b", "multipart/form-data; boundary=x", "text/plain", ""):
        data = (
            b'{"model":"echo"}'
            if "x" not in kind
            else b'--x\r\nContent-Disposition: form-data; name="m"\r\n\r\n1\r\n--x--'
        )
        answer = await http.post(path, content=data, headers={"content-type": kind} if kind else {})
        assert answer.status_code in (400, 415)
    assert not engine.posts


async def test_a_query_chooses_nothing(http: httpx.AsyncClient, engine: FakeUpstream) -> None:
    answer = await http.post(f"{CHAT}?policy=raw&trimtab=%7B%7D&X-Trimtab-Policy=raw", json=body(CHAT))
    assert answer.headers["x-trimtab-applied"] == "urial=applied(3)"
