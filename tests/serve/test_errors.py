"""Every way for a request to go wrong: OpenAI's shape, the right status, and never a clean end that is none."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from serve.dialects import openai as shape
from serve.errors import ApiError, UpstreamFailed
from tests.serve.conftest import Served, Start, chat, events
from tests.upstream import FakeUpstream

PATH = "/v1/chat/completions"
JSON = {"content-type": "application/json"}
POLICIES = ("raw", "chat", "base")


def error(answer: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """The error of an answer, whose shape and status are checked."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    if code is not None:
        assert body["error"]["code"] == code
    return dict(body["error"])


# ---------------------------------------------------------------- the client's mistakes

MESSAGES = b'"messages":[{"role":"user","content":"hi"}]'
BODIES: dict[str, tuple[bytes, str | None, str]] = {  # name -> body, code, a word of the message
    "empty": (b"", "invalid_json", "JSON object"),
    "not json": (b"{", "invalid_json", "JSON object"),
    "a list": (b"[]", "invalid_json", "JSON object"),
    "a string": (b'"x"', "invalid_json", "JSON object"),
    "trailing": (b"{" + MESSAGES + b"} {}", "invalid_json", "JSON object"),
    "nan": (b'{"temperature":NaN,' + MESSAGES + b"}", "invalid_json", "JSON object"),
    "not utf-8": (b'{"model":"\xff",' + MESSAGES + b"}", "invalid_json", "JSON object"),
    "utf-16": (("{" + MESSAGES.decode() + "}").encode("utf-16"), "invalid_json", "JSON object"),
    "key is no string": (b"{1:2}", "invalid_json", "JSON object"),
    "same field twice": (b'{"n":1,' + MESSAGES + b',"n":9}', "duplicate_field", 'duplicate field "n"'),
    "same field escaped": (b'{"n":1,' + MESSAGES + b',"\\u006e":1}', "duplicate_field", 'duplicate field "n"'),
    "two trimtabs": (b'{"trimtab":{},' + MESSAGES + b',"trimtab":{}}', "duplicate_field", "trimtab"),
    "no messages": (b'{"model":"echo"}', None, "messages is missing"),
    "null messages": (b'{"messages":null}', None, "messages is missing"),
    "no message": (b'{"messages":[]}', None, "messages is empty"),
    "messages no list": (b'{"messages":"hi"}', None, "messages must be a list"),
    "message no object": (b'{"messages":["hi"]}', None, "messages[0]"),
    "role no string": (b'{"messages":[{"role":5,"content":"hi"}]}', None, "role"),
    "huge number in content": (b'{"messages":[{"role":"user","content":[{"x":1e999}]}]}', None, "messages[0]"),
    "model no string": (b'{"model":5,' + MESSAGES + b"}", None, "model must be a string"),
    "stream no boolean": (b'{"stream":"yes",' + MESSAGES + b"}", None, "stream must be a boolean"),
    "n zero": (b'{"n":0,' + MESSAGES + b"}", None, "n must be between 1 and 4"),
    "n huge": (b'{"n":1' + b"0" * 400 + b"," + MESSAGES + b"}", None, "n must be between 1 and 4"),
    "n a number with a point": (b'{"n":1.5,' + MESSAGES + b"}", None, "n must be an integer"),
    "best_of huge": (b'{"best_of":500,' + MESSAGES + b"}", None, "best_of must be between 1 and 4"),
    "n true": (b'{"n":true,' + MESSAGES + b"}", None, "n must be an integer"),
    "n out of any range": (b'{"n":1e999,' + MESSAGES + b"}", None, "n: "),
    "deep": (b'{"x":' + b"[" * 65 + b"]" * 65 + b"," + MESSAGES + b"}", "too_deep", "deeper than 64"),
    "deep and wrong": (b'{"messages":[{"y":' + b'{"a":' * 70 + b"1" + b"}" * 73, "invalid_json", ""),
    "a bomb": (b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "too_deep", "deep"),
    "an open bomb": (b"[" * 100_000, None, ""),
    "a bomb of objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "too_deep", "deep"),
    "trimtab no object": (b'{"trimtab":"raw",' + MESSAGES + b"}", None, "trimtab must be an object"),
    "trimtab unknown": (b'{"trimtab":{"polizy":"raw"},' + MESSAGES + b"}", None, "valid are policy, region"),
    "trimtab policy no string": (b'{"trimtab":{"policy":5},' + MESSAGES + b"}", None, "policy must be a string"),
    "trimtab date no date": (b'{"trimtab":{"date":"20260301"},' + MESSAGES + b"}", None, "a date like 2026-01-31"),
    "trimtab skip no list": (b'{"trimtab":{"skip":"urial"},' + MESSAGES + b"}", None, "skip must be a list"),
    "trimtab explain no boolean": (b'{"trimtab":{"explain":"yes"},' + MESSAGES + b"}", None, "must be a boolean"),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
async def test_a_body_that_is_wrong_is_a_400_that_says_how(
    http: httpx.AsyncClient, upstream: FakeUpstream, name: str
) -> None:
    body, code, word = BODIES[name]
    before = len(upstream.requests)
    answer = await http.post(PATH, content=body, headers={**JSON, "x-trimtab-policy": "chat"})
    assert word in error(answer, 400, code)["message"]
    assert not [r for r in upstream.requests[before:] if r.method == "POST"]


BASE_ONLY: dict[str, tuple[dict[str, Any], str]] = {
    "tools": ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    "forced tool": ({"tool_choice": "required"}, "tool_choice"),
    "image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "image_url",
    ),
    "tool result": ({"messages": [{"role": "tool", "tool_call_id": "1", "content": "x"}]}, "messages[0]"),
    "only a system message": ({"messages": [{"role": "system", "content": "x"}]}, "no turn"),
    "audio out": ({"modalities": ["text", "audio"], "audio": {"voice": "x"}}, "modalities"),
    "echo": ({"echo": True}, "echo"),
    "a prompt of its own": ({"prompt": "## Question"}, "prompt"),
    "prompt logprobs": ({"prompt_logprobs": 1}, "prompt_logprobs"),
    "max_tokens zero": ({"max_tokens": 0}, "max_tokens must be at least 1"),
    "max_tokens text": ({"max_tokens": "9"}, "max_tokens must be an integer"),
    "stop of numbers": ({"stop": [5]}, "stop must be"),
    "logprobs a number": ({"logprobs": 5}, "logprobs must be a boolean"),
    "top_logprobs too many": ({"logprobs": True, "top_logprobs": 21}, "between 0 and 20"),
    "stream_options no object": ({"stream": True, "stream_options": True}, "stream_options must be an object"),
}


@pytest.mark.parametrize("name", BASE_ONLY)
async def test_what_a_base_prompt_has_no_place_for_is_named(http: httpx.AsyncClient, name: str) -> None:
    fields, word = BASE_ONLY[name]
    answer = await http.post(PATH, json={**chat(), **fields}, headers={"x-trimtab-policy": "base"})
    assert word in error(answer, 400)["message"]


@pytest.mark.parametrize("name", ["max_tokens zero", "stop of numbers", "logprobs a number", "max_tokens text"])
async def test_the_chat_render_leaves_the_judgement_of_odd_values_to_the_engine(
    http: httpx.AsyncClient, upstream: FakeUpstream, name: str
) -> None:
    body = {**chat(model="error-418"), **BASE_ONLY[name][0]}
    for policy in ("raw", "chat"):
        assert error(await http.post(PATH, json=body, headers={"x-trimtab-policy": policy}), 418)["code"] == "fake_418"


async def test_a_body_that_is_too_large_is_a_413(http: httpx.AsyncClient) -> None:
    big = b'{"x":"' + b"x" * 2_000_000 + b'"}'
    error(await http.post(PATH, content=big, headers=JSON), 413, "body_too_large")

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(big), 65536):
            yield big[at : at + 65536]

    error(await http.post(PATH, content=pieces(), headers=JSON), 413, "body_too_large")
    error(await http.post("/v1/embeddings", content=big, headers=JSON), 413, "body_too_large")
    error(await http.post("/v1/explain", content=big, headers=JSON), 413, "body_too_large")
    assert (await http.post(PATH, json=chat())).status_code == 200


async def test_an_unknown_coding_and_another_media_type_are_a_415(http: httpx.AsyncClient) -> None:
    body = json.dumps(chat()).encode()
    packed = await http.post(PATH, content=body, headers={**JSON, "content-encoding": "br"})
    error(packed, 415, "content_encoding")
    for path in (PATH, "/v1/completions"):
        for kind in ("text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"):
            error(await http.post(path, content=body, headers={"content-type": kind}), 415, "content_type")
    assert (await http.post(PATH, content=body, headers={"content-type": "Application/JSON; charset=utf-8"})).is_success


CHUNKED = b"POST /v1/explain HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n2"
FLOODS = {
    "one header": (b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-a: ", b"a" * 65536),
    "many headers": (b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n", b"x-a: b\r\n" * 8192),
    "a path": (b"GET /", b"a" * 65536),
    "a trailer": (CHUNKED + b"\r\n{}\r\n0\r\nx-a: ", b"a" * 65536),
    "an extension": (CHUNKED + b";a=", b"a" * 65536),
}


@pytest.mark.parametrize("name", FLOODS)
def test_no_head_or_trailer_can_fill_the_memory(served: Served, name: str) -> None:
    start, more = FLOODS[name]
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as sock:
        sock.sendall(start)
        with pytest.raises(ConnectionError):  # noqa: PT012  some are sent before the server's word arrives
            for _ in range(200):
                sock.sendall(more)
                time.sleep(0.01)
    assert httpx.get(f"{served.url}/healthz", verify=False).is_success


GOOD = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
NO_HTTP = {
    "words": b"hello there\r\n\r\n",
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "two framings": b"POST /healthz HTTP/1.1\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST /healthz HTTP/1.1\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcde",
    "bare newlines": b"GET /healthz HTTP/1.1\nhost: localhost\n\n",
    "a folded header": b"GET /healthz HTTP/1.1\r\nx-a: b\r\n c\r\n\r\n",
    "a path beyond ascii": b"GET /\xff HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "a broken chunk": CHUNKED + b"\r\n{}zz",
}


@pytest.mark.parametrize("before", [b"", GOOD, GOOD * 2], ids=len)
@pytest.mark.parametrize("name", NO_HTTP)
def test_what_is_no_http_is_refused_in_its_turn(served: Served, name: str, before: bytes) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as sock:
        sock.sendall(before + NO_HTTP[name])
        answer = b""
        while part := sock.recv(65536):
            answer += part
    *good, refused = answer.split(b"HTTP/1.1 ")[1:]
    assert [text[:3] for text in good] == [b"200"] * (len(before) // len(GOOD))
    head, _, body = refused.partition(b"\r\n\r\n")
    assert head.startswith(b"400 ")
    assert json.loads(body)["error"]["code"] == "invalid_http"


def test_who_is_still_sending_hears_why_the_connection_ends(served: Served) -> None:
    """A close upon what has not been read would be a reset, which takes the answer away."""
    host, port = served.url.removeprefix("http://").split(":")
    length = 2**23
    head = f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    head += f"connection: close\r\ncontent-length: {length}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=5) as sock:
        sock.sendall(head.encode() + bytes(length))
        answer = b""
        while part := sock.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"body_too_large" in answer


async def test_health_is_told_to_who_wants_no_body(http: httpx.AsyncClient) -> None:
    answer, whole = await http.head("/healthz"), await http.get("/healthz")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == whole.headers["content-length"]
    assert (await http.head("/readyz")).status_code in (200, 503)


async def test_a_body_in_the_smallest_chunks_is_no_flood(http: httpx.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for byte in json.dumps(chat("x" * 2_000)).encode():
            yield bytes([byte])

    assert (await http.post(PATH, content=pieces(), headers=JSON)).status_code == 200


async def test_an_unknown_policy_is_a_404_with_the_valid_names(http: httpx.AsyncClient) -> None:
    for answer in (
        await http.post(PATH, json=chat(), headers={"x-trimtab-policy": "nice"}),
        await http.post(PATH, json=chat(trimtab={"policy": "nice"})),
    ):
        message = error(answer, 404, "policy_not_found")["message"]
        assert "'nice'" in message
        for name in ("raw", "chat", "base", "urial"):
            assert name in message


async def test_unknown_paths_and_wrong_methods_are_openai_shaped(http: httpx.AsyncClient) -> None:
    error(await http.get("/v1/nothing"), 404, "path_not_found")
    error(await http.post("/v1", json={}), 404, "path_not_found")
    error(await http.post(PATH + "/", json=chat()), 404, "path_not_found")
    for method, path in (("GET", PATH), ("DELETE", "/v1/embeddings"), ("POST", "/v1/models"), ("PUT", "/readyz")):
        answer = await http.request(method, path)
        error(answer, 405, "method_not_allowed")
        assert answer.headers["allow"]


async def test_openai_raises_its_own_exception_for_each_status(client: AsyncOpenAI) -> None:
    ask: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
    for model, kind in (("error-400", openai.BadRequestError), ("error-404", openai.NotFoundError),
                        ("error-429", openai.RateLimitError), ("error-500", openai.InternalServerError)):  # fmt: skip
        with pytest.raises(kind) as caught:
            await client.chat.completions.create(model=model, **ask)
        assert "made up error" in str(caught.value)


# ---------------------------------------------------------------- what an engine can't do


async def test_what_an_engine_does_not_support_is_refused_by_name(http: httpx.AsyncClient) -> None:
    uses: dict[str, Any] = {
        "n": {"n": 2}, "logprobs": {"logprobs": True}, "response_format": {"response_format": {"type": "json_object"}},
        "tool_choice": {"tool_choice": "required"},
        "images": {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "audio": {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
    }  # fmt: skip
    for feature, fields in uses.items():
        told = error(
            await http.post(PATH, json={**chat(), **fields}, headers={"x-trimtab-policy": "raw-hf"}), 400, "unsupported"
        )
        assert told["message"] == f"engine 'hf' (transformers) does not support '{feature}'"
        assert told["param"] == feature
    narrow = await http.post(PATH, json=chat(seed=1, logprobs=True), headers={"x-trimtab-policy": "raw-narrow"})
    assert "'narrow' (its configuration) does not support 'logprobs'" in error(narrow, 400)["message"]
    image = await http.post(PATH, json={**chat(), **uses["images"]}, headers={"x-trimtab-policy": "raw-narrow"})
    assert "does not support 'images'" in error(image, 400)["message"]


async def test_numbers_that_no_computer_holds_are_never_a_500(http: httpx.AsyncClient) -> None:
    for field in ("tools", "response_format", "presence_penalty", "temperature"):
        body = b'{"' + field.encode() + b'":[1e999],' + MESSAGES + b"}"
        for policy in ("raw-hf", "base-hf"):
            answer = await http.post(PATH, content=body, headers={**JSON, "x-trimtab-policy": policy})
            assert answer.status_code in (200, 400)  # left to the engine, or refused: as long as it is decided


# ---------------------------------------------------------------- the engine's failures


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("stream", [False, True])
async def test_an_engines_own_errors_pass_with_status_body_and_retry_after(
    http: httpx.AsyncClient, policy: str, stream: bool
) -> None:
    for status in (400, 401, 404, 413, 422, 429, 500, 503):
        answer = await http.post(
            PATH, json=chat(model=f"error-{status}", stream=stream), headers={"x-trimtab-policy": policy}
        )
        told = error(answer, status, f"fake_{status}")
        assert told["message"] == f"made up error {status}"
        assert answer.headers.get("retry-after") == ("7" if status == 429 else None)
        assert answer.headers["x-trimtab-policy"] == policy
        assert answer.headers["x-trimtab-trace"]
    for status in (400, 502):
        page = await http.post(
            PATH, json=chat(model=f"error-html-{status}", stream=stream), headers={"x-trimtab-policy": policy}
        )
        assert page.status_code == status
        assert page.headers["content-type"] == "text/html"
        assert page.text == f"<html><h1>{status} gateway</h1></html>"


async def test_an_engine_that_nobody_answers_for_is_a_502(http: httpx.AsyncClient) -> None:
    for policy in ("dead", "dead-base"):
        for stream in (False, True):
            answer = await http.post(PATH, json=chat(stream=stream), headers={"x-trimtab-policy": policy})
            told = error(answer, 502, "upstream_failed")
            assert told["message"] == "engine 'dead' at http://127.0.0.1:1: The engine cannot be reached."


async def test_an_engine_that_says_nothing_is_a_504(keyed: Served) -> None:
    from tests.serve.conftest import SECRETS

    headers = {"authorization": f"Bearer {SECRETS['house']}"}
    async with httpx.AsyncClient(verify=False, base_url=keyed.url, timeout=10, headers=headers) as http:
        for policy in ("raw", "base"):
            answer = await http.post(PATH, json=chat(model="slow-headers-5"), headers={"x-trimtab-policy": policy})
            error(answer, 504, "upstream_timeout")
        # Headers are out when the first token is late: the error is an event then.
        answer = await http.post(
            PATH, json=chat(model="slow-first-5", stream=True), headers={"x-trimtab-policy": "raw"}
        )
        assert answer.status_code == 200
        assert events(answer.text)[-1]["error"]["code"] == "upstream_timeout"


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "model", ["die-mid-stream-3", "reset-mid-stream-3", "close-without-done-3", "error-mid-stream-3"]
)
async def test_a_stream_that_breaks_never_looks_like_a_clean_end(
    http: httpx.AsyncClient, client: AsyncOpenAI, policy: str, model: str
) -> None:
    answer = await http.post(PATH, json=chat(model=model, stream=True), headers={"x-trimtab-policy": policy})
    assert answer.status_code == 200
    rows = events(answer.text)
    errors = [row for row in rows if row != "[DONE]" and "error" in row]
    assert len(errors) == 1
    assert "".join(c["delta"].get("content") or "" for r in rows if "choices" in r for c in r["choices"]).startswith(
        "0 1 2"
    )
    assert not any(c["finish_reason"] for r in rows if "choices" in r for c in r["choices"])
    if model == "error-mid-stream-3" and policy != "base":
        assert rows[-2:] == [errors[0], "[DONE]"]  # the engine's own words, passed on
    else:
        assert rows[-1] is errors[0]
        assert "[DONE]" not in rows
    with pytest.raises(openai.APIError):
        async for _ in await client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "x"}],
            stream=True,
            extra_headers={"x-trimtab-policy": policy},
        ):
            pass


@pytest.mark.parametrize("policy", POLICIES)
async def test_an_answer_that_breaks_off_is_a_502(http: httpx.AsyncClient, policy: str) -> None:
    for model in ("die-mid-stream-3", "reset-mid-stream-3"):
        answer = await http.post(PATH, json=chat(model=model), headers={"x-trimtab-policy": policy})
        error(answer, 502, "upstream_failed")


# ---------------------------------------------------------------- engines that break the protocol


class Rude:
    """An engine that answers every request with given bytes, and closes."""

    def __init__(self) -> None:
        self.answer = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        await reader.readexactly(int(length[0].split(b":")[1]) if length else 0)
        writer.write(self.answer)
        await writer.drain()
        writer.close()

    def says(
        self, body: bytes, kind: str = "application/json", status: str = "200 OK", extra: str = "", short: int = 0
    ) -> None:
        head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body) + short}\r\n{extra}\r\n"
        self.answer = head.encode() + body


@pytest.fixture(scope="module")
def behind(start: Start) -> tuple[int, Served]:
    """A server before an engine on a port that each test opens anew."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    more = f'[engine.rude]\nurl = "http://127.0.0.1:{port}"\nkey_env = "RUDE_KEY"\n'
    more += '[policy.rude]\nengine = "rude"\nstages = []\nrender = "chat"\n'
    more += '[policy.rude-base]\nengine = "rude"\nrender = "base"\n'
    more += f'[engine.rude-hf]\nurl = "http://127.0.0.1:{port}"\nkind = "transformers"\n'
    more += '[policy.rude-hf]\nengine = "rude-hf"\nstages = []\nrender = "chat"\n'
    return port, start(more=more, env={"RUDE_KEY": "sk-rude"})


@pytest.fixture
async def rude(behind: tuple[int, Served]) -> AsyncIterator[Rude]:
    it = Rude()
    async with await asyncio.start_server(it.serve, "127.0.0.1", behind[0]):
        yield it


async def ask(behind: tuple[int, Served], policy: str, **fields: Any) -> httpx.Response:
    async with httpx.AsyncClient(verify=False, base_url=behind[1].url, timeout=10) as http:
        return await http.post(PATH, json=chat(**fields), headers={"x-trimtab-policy": policy})


COMPLETION = b'{"choices":[{"index":0,"text":"fine","finish_reason":"stop"}]'
BROKEN: dict[str, bytes] = {
    "no json": b"<html>200</html>",
    "a list": b"[]",
    "no choices": b"{}",
    "a choice too many": b'{"choices":[{"index":7,"text":"x","finish_reason":"stop"}]}',
    "text a number": b'{"choices":[{"index":0,"text":5,"finish_reason":"stop"}]}',
    "logprobs a number": b'{"choices":[{"index":0,"text":"x","finish_reason":"stop","logprobs":5}]}',
    "logprobs of numbers": b'{"choices":[{"index":0,"text":"x","finish_reason":"stop","logprobs":{"tokens":[1]}}]}',
    "logprobs of text": b'{"choices":[{"text":"x","logprobs":{"tokens":["x"],"token_logprobs":["y"]}}]}',
    "an error": b'{"error":{"message":"boom"}}',
    "no end": b'{"choices":[{"index":0,"text":"x","finish_reason":null}]}',
    "aborted": b'{"choices":[{"index":0,"text":"x","finish_reason":"abort"}]}',
    "not utf-8": b'{"choices":[{"index":0,"text":"\xff","finish_reason":"stop"}]}',
    "usage a list": COMPLETION + b',"usage":[]}',
    "deep": b'{"choices":' + b"[" * 5000,
    "a deep usage": COMPLETION + b',"usage":' + b"[" * 5000,
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
async def test_a_completion_that_is_none_is_a_502(behind: tuple[int, Served], rude: Rude, name: str) -> None:
    rude.says(BROKEN[name])
    error(await ask(behind, "rude-base", logprobs=True), 502, "upstream_failed")
    streamed = await ask(behind, "rude-base", stream=True)
    assert "error" in events(streamed.text)[-1]
    rude.says(b"data: " + BROKEN[name] + b"\n\ndata: [DONE]\n\n", "text/event-stream")
    streamed = await ask(behind, "rude-base", stream=True)
    assert "error" in events(streamed.text)[-1]
    assert "[DONE]" not in events(streamed.text)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_nested_deeply_passes_as_it_is(behind: tuple[int, Served], rude: Rude, stream: bool) -> None:
    body = COMPLETION + b',"usage":' + b"[" * 5000 + b"]" * 5000 + b"}"
    events = b"data: " + body + b"\n\ndata: [DONE]\n\n"
    rude.says(events if stream else body, "text/event-stream" if stream else "application/json")
    answer = await ask(behind, "rude", stream=stream)
    assert (answer.status_code, answer.content) == (200, events if stream else body)


async def test_usage_that_is_odd_does_no_harm(behind: tuple[int, Served], rude: Rude) -> None:
    for usage in (
        b"null",
        b'{"completion_tokens":-5}',
        b'{"completion_tokens":' + b"9" * 40 + b"}",
        b'{"prompt_tokens":true}',
    ):
        rude.says(COMPLETION + b',"usage":' + usage + b"}")
        assert (await ask(behind, "rude-base")).json()["choices"][0]["message"]["content"] == "fine"
        assert (await ask(behind, "rude")).status_code == 200


async def test_events_in_any_legal_spelling_are_understood(behind: tuple[int, Served], rude: Rude) -> None:
    first, last = (
        b'{"choices":[{"index":0,"text":"a } { b"}]}',
        b'{"choices":[{"index":0,"text":"","finish_reason":"stop"}]}',
    )
    split = first.index(b"[")
    for stream in (
        b"data:" + first + b"\n\ndata:" + last + b"\n\ndata:[DONE]\n\n",
        b": hello\r\n\r\ndata: "
        + first
        + b"\r\n\r\nevent: x\r\nid: 1\r\ndata: "
        + last
        + b"\r\n\r\ndata: [DONE]\r\n\r\n",
        b"data: " + first[:split] + b"\ndata: " + first[split:] + b"\n\ndata: " + last + b"\n\ndata: [DONE]",
        b"data: " + first + b"\n\ndata: " + last,  # no [DONE], no last newline
        b"\xef\xbb\xbfdata: " + first + b"\n\ndata: " + last + b"\n\ndata: [DONE]\n\n",
    ):
        rude.says(stream, "text/event-stream; charset=utf-8")
        whole = await ask(behind, "rude-base")
        assert whole.json()["choices"][0]["message"]["content"] == "a } { b"
        assert events((await ask(behind, "rude-base", stream=True)).text)[-1] == "[DONE]"


async def test_a_whole_completion_in_answer_to_a_stream_is_streamed(behind: tuple[int, Served], rude: Rude) -> None:
    rude.says(COMPLETION + b',"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}')
    rows = events((await ask(behind, "rude-base", stream=True)).text)
    assert rows[-1] == "[DONE]"
    assert "".join(c["delta"].get("content", "") for r in rows[:-1] for c in r["choices"]) == "fine"


async def test_an_error_never_lands_inside_an_event_that_broke_off(behind: tuple[int, Served], rude: Rude) -> None:
    rude.says(
        b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\ndata: {"choices":[{"ind',
        "text/event-stream",
        short=9,
    )
    answer = await ask(behind, "rude", stream=True)
    last = answer.text.rstrip("\n").rsplit("\n\n", 1)[1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "upstream_failed"


async def test_finish_and_usage_are_read_from_events_not_from_their_text(
    behind: tuple[int, Served], rude: Rude
) -> None:
    lie = json.dumps(
        {
            "choices": [
                {"index": 0, "delta": {"content": '"finish_reason":"stop","usage":{"a":"}"'}, "finish_reason": None}
            ]
        }
    )
    rude.says(f"data: {lie}\n\n".encode(), "text/event-stream")
    answer = await ask(behind, "rude", stream=True)
    assert events(answer.text)[-1]["error"]["message"].endswith("the stream ended before its answer did")


async def test_redirects_and_words_on_our_key_stay_here(behind: tuple[int, Served], rude: Rude) -> None:
    for policy in ("rude", "rude-base"):
        rude.says(b"", status="307 Temporary Redirect", extra="location: http://elsewhere.example/\r\n")
        answer = await ask(behind, policy)
        error(answer, 502)
        assert "location" not in answer.headers
        assert "elsewhere" not in answer.text
        rude.says(b'{"error":{"message":"Incorrect API key provided: sk-ru*e"}}', status="401 Unauthorized")
        answer = await ask(behind, policy)
        assert "refuses the API key" in error(answer, 502)["message"]
        assert "sk-ru" not in answer.text


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n"])
async def test_a_done_that_we_add_is_an_event_of_its_own(behind: tuple[int, Served], rude: Rude, end: bytes) -> None:
    last = b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'
    rude.says(b"data: " + last + end, "text/event-stream")
    answer = await ask(behind, "rude-hf", stream=True)
    assert events(answer.text) == [json.loads(last), "[DONE]"]
    assert "\n\ndata: [DONE]\n\n" in answer.text


@pytest.mark.parametrize("status", [600, 999])
async def test_a_status_that_is_none_is_a_502(behind: tuple[int, Served], rude: Rude, status: int) -> None:
    rude.says(b"{}", status=f"{status} Odd")
    for policy in ("rude", "rude-base"):
        assert str(status) in error(await ask(behind, policy), 502, "upstream_failed")["message"]


async def test_headers_of_an_engine_are_cleaned(behind: tuple[int, Served], rude: Rude) -> None:
    extra = (
        "set-cookie: a=b\r\nserver: rude\r\nx-trimtab-policy: forged\r\nX-Trimtab-Trace: forged\r\n"
        "connection: close, x-hop\r\nx-hop: 1\r\naccess-control-allow-origin: *\r\nx-ratelimit-remaining: 5\r\n"
    )
    rude.says(COMPLETION + b"}", extra=extra)
    for policy in ("rude", "rude-base"):
        headers = (await ask(behind, policy)).headers
        assert headers["x-trimtab-policy"] == policy
        assert "forged" not in str(headers)
        assert not {"set-cookie", "x-hop", "access-control-allow-origin"} & set(headers)
        assert headers.get("server") != "rude"
        assert headers["x-ratelimit-remaining"] == "5"


async def test_a_base_model_without_a_template_gets_a_hint_at_policies_that_work(
    behind: tuple[int, Served], rude: Rude
) -> None:
    rude.says(
        b'{"error":{"message":"As of transformers v4.44, default chat template is no longer allowed"}}',
        status="400 Bad Request",
    )
    told = error(await ask(behind, "rude"), 400, "no_chat_template")
    assert "(rude-base)" in told["message"]
    rude.says(
        b'{"error":{"message":"Chat template is passed with request, but not trusted"}}', status="400 Bad Request"
    )
    assert "not trusted" in (await ask(behind, "rude")).text


async def test_speech_that_breaks_off_does_not_end_cleanly(behind: tuple[int, Served], upstream: FakeUpstream) -> None:
    # The engine of the relayed paths is `main`, the fake: what it has not is a 404 of its own, passed on.
    async with httpx.AsyncClient(verify=False, base_url=behind[1].url, timeout=10) as http:
        assert (await http.post("/v1/audio/speech", json={"input": "x"})).json() == {"detail": "Not Found"}


# ---------------------------------------------------------------- the tree


def test_every_error_has_a_status_and_openais_shape() -> None:
    kinds = ApiError.__subclasses__()
    assert len(kinds) == 12
    for kind in [ApiError, *kinds]:
        made = kind('say "hi"\n')
        assert 400 <= made.status < 600
        assert json.loads(shape.error(made))["error"].keys() == {"message", "type", "param", "code"}
        assert shape.error_event(made).count(b"\n") == 2
        assert shape.error_event(made).endswith(b"\n\n")
    assert UpstreamFailed("late", timed_out=True).status == 504


@pytest.mark.parametrize("policy", ["rude", "rude-base"])
@pytest.mark.parametrize("status", ["400 Bad Request", "403 Forbidden", "500 Internal Server Error"])
async def test_an_engines_error_is_passed_on_without_this_servers_key(
    behind: tuple[int, Served], rude: Rude, policy: str, status: str
) -> None:
    rude.says(b'{"error":{"message":"Incorrect API key provided: sk-rude (you sent Bearer sk-rude)"}}', status=status)
    answer = await ask(behind, policy)
    assert answer.status_code == int(status[:3])
    assert "sk-rude" not in answer.text
    assert "Incorrect API key provided: ***" in answer.text


async def test_an_error_event_is_reported_without_this_servers_key(behind: tuple[int, Served], rude: Rude) -> None:
    rude.says(b'data: {"error":{"message":"no quota left for sk-rude"}}\n\n', "text/event-stream")
    answer = await ask(behind, "rude-base", stream=True)
    assert "no quota left for ***" in answer.text
    assert "sk-rude" not in answer.text


async def test_a_page_of_an_engines_has_no_power_here(behind: tuple[int, Served], rude: Rude) -> None:
    for kind, status in (("text/html", "502 Bad Gateway"), ("text/html", "200 OK"), ("image/svg+xml", "200 OK")):
        rude.says(b"<script>alert(1)</script>", kind, status, extra="x-content-type-options: none\r\n")
        answer = await ask(behind, "rude")
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
        assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
    rude.says(COMPLETION + b"}")
    assert "content-security-policy" not in (await ask(behind, "rude")).headers


async def test_every_answer_is_of_the_type_that_it_says(http: httpx.AsyncClient) -> None:
    for path in ("/", "/docs", "/openapi.json", "/healthz", "/readyz", "/v1/models", "/v1/none", "/metrics"):
        assert (await http.get(path)).headers.get_list("x-content-type-options") == ["nosniff"], path
    for policy in ("raw", "chat", "base", "none"):
        answer = await http.post(PATH, json=chat(), headers={"x-trimtab-policy": policy})
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"], policy
