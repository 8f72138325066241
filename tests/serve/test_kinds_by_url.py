"""llama-server, llama-cpp-python and Ollama by URL: known by what they list, asked for their context, and sent what
they understand. The answers are shaped as their documentation shows them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from serve.config import Engine, Server
from serve.dialects import wire
from serve.engine.features import FEATURES, of_kind
from serve.engine.live import LiveEngine
from serve.engine.relay import Relay
from serve.engine.upstream import UpstreamError
from serve.engine.window import learn_version, learn_window
from serve.errors import BadRequest

PATH = "/v1/chat/completions"
LLAMA_SERVER = {"id": "m.gguf", "object": "model", "owned_by": "llamacpp", "meta": {"n_ctx_train": 131072}}
OLLAMA = {"id": "llama3.2:latest", "object": "model", "created": 1730000000, "owned_by": "library"}
SHOWN = {
    "parameters": 'num_ctx                        8192\nstop                           "<|eot_id|>"',
    "model_info": {"general.architecture": "llama", "llama.context_length": 131072},
}


@asynccontextmanager
async def serving(answer: Callable[[str, bytes], bytes | None]) -> AsyncIterator[str]:
    """An HTTP server that answers (method and path, body) with JSON, or with 404 for None; its URL."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next((int(line[15:]) for line in head.lower().splitlines() if line.startswith("content-length:")), 0)
        body = answer(" ".join(head.split()[:2]), await reader.readexactly(length))
        status = "200 OK" if body is not None else "404 Not Found"
        writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(body or b'')}\r\nconnection: close\r\n\r\n".encode())
        writer.write(body or b"")
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def window(engine: LiveEngine) -> int | None:
    relay = Relay(connect_s=30, timeout_s=60)
    try:
        await learn_window(engine, relay, 60)
        await learn_version(engine, relay, 60)
    finally:
        await relay.close()
    return engine.context


def request(**fields: Any) -> wire.Request:
    return wire.parse(json.dumps({"messages": [{"role": "user", "content": "x"}], **fields}).encode(), Server())


@pytest.mark.parametrize(("row", "kind"), [(LLAMA_SERVER, "llama.cpp"), (OLLAMA, "ollama")])
def test_it_is_known_by_its_models(row: dict[str, Any], kind: str) -> None:
    engine = LiveEngine(Engine("main", url="http://x"))
    engine.learn([row])
    assert engine.kind == kind
    with pytest.raises(BadRequest, match=f"{kind}.*does not support 'n'"):
        engine.refuse(request(n=2), None)
    engine.refuse(request(seed=1, stop=["x"], temperature=0.5, presence_penalty=1, tools=[{}]), None)


# What a client sends -> the kinds whose engines would accept it and leave it out.
UNHEEDED: dict[str, tuple[Any, list[str]]] = {
    "top_k": (5, ["ollama"]),
    "min_p": (0.1, ["ollama"]),
    "repetition_penalty": (1.2, ["ollama"]),
    "ignore_eos": (True, ["ollama", "llama-cpp-python"]),
    "typical_p": (0.9, ["ollama", "vllm", "llama-cpp-python"]),
    "stop_token_ids": ([7], ["ollama", "llama.cpp", "llama-cpp-python"]),
    "structured_outputs": ({"json": {}}, ["ollama", "llama.cpp", "llama-cpp-python"]),
    "grammar": ('root ::= "a"', ["ollama", "vllm"]),
    "guided_json": ({"type": "object"}, ["ollama", "llama.cpp", "llama-cpp-python"]),
    "options": ({"num_ctx": 9}, ["ollama", "llama.cpp", "llama-cpp-python", "vllm"]),
    "verbosity": ("low", ["ollama", "llama.cpp", "llama-cpp-python", "vllm"]),
    "seed": (1, []),
    "stop": (["a", "b"], []),
    "user": ("u", []),
    "metadata": ({"a": "b"}, []),
    "service_tier": ("default", []),
    "stream_options": ({"include_usage": True}, []),
}


@pytest.mark.parametrize("field", UNHEEDED)
@pytest.mark.parametrize("kind", ["ollama", "llama.cpp", "llama-cpp-python", "vllm", "openai"])
def test_what_a_kind_would_ignore_is_refused_by_name(field: str, kind: str) -> None:
    value, ignoring = UNHEEDED[field]
    engine = LiveEngine(Engine("main", url="http://x", kind=kind))
    if kind not in ignoring:
        engine.refuse(request(**{field: value}), None, PATH)
        return
    with pytest.raises(BadRequest, match=f"{kind}.*{field}") as refused:
        engine.refuse(request(**{field: value}), None, PATH)
    assert refused.value.param == field


def test_values_that_ask_for_nothing_are_no_use_of_a_field() -> None:
    idle = {"top_k": -1, "min_p": 0, "repetition_penalty": 1.0, "options": {}, "stop_token_ids": [], "think": False}
    idle |= {"verbosity": "medium", "parallel_tool_calls": True}
    LiveEngine(Engine("main", url="http://x", kind="ollama")).refuse(request(**idle, guided_json=None), None, PATH)


@pytest.mark.parametrize(
    ("field", "nothing", "something"),
    [
        ("top_k", ["0", "-1", "0.00", "null"], ["1", "1.0", "-2"]),
        ("min_p", ["0", "0.00", "-0.0"], ["1", "-1", "0.5"]),
        ("repetition_penalty", ["1", "1.00", "1e0", "null"], ["0", "-1", "1.1", "true"]),
        ("typical_p", ["1", "1.000"], ["0", "0.9"]),
        ("mirostat", ["0"], ["1", "2"]),
        ("min_tokens", ["0"], ["1", "-1"]),
        ("dry_multiplier", ["0", "0.00"], ["1", "0.8"]),
        ("think", ["false", "null"], ["true", '"low"']),
        ("options", ["{ }", "null"], ['{"num_ctx":9}']),
        ("stop_token_ids", ["[ ]"], ["[0]"]),
    ],
)
def test_what_asks_for_nothing_is_known_by_field_and_by_value(
    field: str, nothing: list[str], something: list[str]
) -> None:
    engine = LiveEngine(Engine("main", url="http://x", kind="ollama"))
    for value in nothing:
        engine.refuse(wire.parse(f'{{"{field}": {value}}}'.encode(), Server()), None, PATH)
    for value in something:
        with pytest.raises(BadRequest, match=f"ignores '{field}'"):
            engine.refuse(wire.parse(f'{{"{field}": {value}}}'.encode(), Server()), None, PATH)


def test_the_first_ignored_field_of_a_client_is_named() -> None:
    engine = LiveEngine(Engine("main", url="http://x", kind="ollama"))
    names = ["think", "options", "min_p", "top_k", "grammar", "mirostat", "json_schema", "bad_words"]
    for order in (names, names[::-1]):
        with pytest.raises(BadRequest) as refused:
            engine.refuse(request(**dict.fromkeys(order, "x")), None, PATH)
        assert refused.value.param == order[0]


NAMED = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize("kind", ["ollama", "llama-cpp-python", "transformers"])
def test_parallel_tool_calls_are_refused_only_where_there_could_be_several(kind: str) -> None:
    passed = ("tools", "tool_choice")
    engine = LiveEngine(Engine("main", url="http://x", kind=kind, fields_pass=passed))
    one: dict[str, Any] = {"parallel_tool_calls": False}
    for idle in ({}, {"tools": []}, {"tools": [{}], "tool_choice": "none"}, {"tools": [{}], "tool_choice": NAMED}):
        engine.refuse(request(**one, **idle), None, PATH)
    for choice in ("auto", "required", None, {"type": "allowed_tools"}):
        with pytest.raises(BadRequest, match="parallel_tool_calls"):
            engine.refuse(request(**one, tools=[{}], tool_choice=choice), None, PATH)
    vllm = LiveEngine(Engine("main", url="http://x", kind="vllm"))
    vllm.refuse(request(**one, tools=[{}]), None, PATH)


def test_a_list_of_features_that_is_older_than_a_feature_does_not_exclude_it() -> None:
    engine = LiveEngine(Engine("main", url="http://x", kind="ollama", supports=("tools",)))
    engine.refuse(request(tools=[{}], parallel_tool_calls=False, verbosity="low"), None, PATH)
    with pytest.raises(BadRequest, match="'n'"):
        engine.refuse(request(n=2), None, PATH)


def test_a_feature_may_be_let_through() -> None:
    engine = LiveEngine(Engine("main", url="http://x", kind="vllm", fields_pass=("verbosity",)))
    engine.refuse(request(verbosity="low"), None, PATH)
    with pytest.raises(BadRequest, match="prediction"):
        engine.refuse(request(verbosity="low", prediction={"type": "content"}), None, PATH)


@pytest.mark.parametrize(
    ("version", "heeds"), [("0.11.2", True), ("0.12.0", False), ("0.32.0rc1", False), ("1.0", False), ("dev", True)]
)
async def test_vllm_is_asked_whether_it_still_has_guided_fields(version: str, heeds: bool) -> None:
    async with serving(lambda path, body: json.dumps({"version": version}).encode()) as url:
        engine = LiveEngine(Engine("main", url=url))
        engine.learn([{"id": "m", "owned_by": "vllm", "max_model_len": 9}])
        engine.refuse(request(guided_choice=["a"]), None, PATH)  # before it is known
        await window(engine)
    engine.update({"url": url})
    if heeds:
        engine.refuse(request(guided_choice=["a"]), None, PATH)
        return
    with pytest.raises(BadRequest, match="ignores 'guided_choice'"):
        engine.refuse(request(guided_choice=["a"]), None, PATH)


def test_an_engine_that_heeds_more_than_its_kind_is_sent_more() -> None:
    engine = LiveEngine(Engine("main", url="http://x", kind="ollama", fields_pass=("top_k",)))
    engine.refuse(request(top_k=5), None, PATH)
    engine = LiveEngine(Engine("main", url="http://x", kind="ollama", supports=tuple(FEATURES)))
    engine.refuse(request(top_k=5, verbosity="low"), None, PATH)


def test_an_engine_s_own_messages_have_fields_of_their_own() -> None:
    engine = LiveEngine(Engine("main", url="http://x", kind="ollama"))
    with pytest.raises(BadRequest, match="top_k"):
        engine.refuse(request(top_k=5), None, "/v1/messages")  # becomes a chat completion
    engine.learn_api("/v1/messages", present=True)
    engine.refuse(request(top_k=5), None, "/v1/messages")


async def test_llama_server_tells_its_context() -> None:
    props = {"default_generation_settings": {"n_ctx": 2048, "params": {}}, "total_slots": 1, "chat_template": "…"}
    async with serving(lambda path, body: json.dumps(props).encode() if path == "GET /props" else None) as url:
        assert await window(LiveEngine(Engine("main", url=url, kind="llama.cpp"))) == 2048
        assert await window(LiveEngine(Engine("main", url=f"{url}/v1", kind="llama.cpp", context=512))) == 512


@pytest.mark.parametrize(
    ("shown", "context"),
    [
        (SHOWN, 8192),
        ({**SHOWN, "parameters": ""}, 4096),
        ({"model_info": {"general.architecture": "bert", "bert.context_length": 512}}, 512),
        ({"license": "MIT"}, None),
    ],
)
async def test_ollama_is_asked_for_the_context_that_it_runs_the_model_with(
    shown: dict[str, Any], context: int | None
) -> None:
    asked = []

    def answer(path: str, body: bytes) -> bytes | None:
        asked.append((path, json.loads(body)))
        return json.dumps(shown).encode()

    async with serving(answer) as url:
        engine = LiveEngine(Engine("main", url=url, kind="ollama"))
        engine.learn([OLLAMA])
        assert await window(engine) == context
    assert asked == [("POST /api/show", {"model": "llama3.2:latest"})]


async def test_an_engine_without_such_a_path_keeps_its_context_unknown() -> None:
    async with serving(lambda path, body: None) as url:
        assert await window(LiveEngine(Engine("main", url=url, kind="llama.cpp"))) is None
    async with serving(lambda path, body: b"<html>") as url:
        with pytest.raises(UpstreamError):
            await window(LiveEngine(Engine("main", url=url, kind="ollama", model="m")))


def test_fields_go_under_the_names_that_a_kind_knows() -> None:
    sent = {"max_completion_tokens": 5, "logprobs": True, "repetition_penalty": 1.1, "min_tokens": 3}
    llama = LiveEngine(Engine("main", url="http://x", kind="llama.cpp"))
    assert llama.must_adapt(sent)
    assert llama.adapt(sent) == {"max_tokens": 5, "logprobs": True, "top_logprobs": 1, "repeat_penalty": 1.1}
    ollama = LiveEngine(Engine("main", url="http://x", kind="ollama"))
    assert ollama.adapt({"max_completion_tokens": 5}) == {"max_tokens": 5}
    own = LiveEngine(Engine("main", url="http://x", kind="onnx"))
    assert own.adapt(sent) == {"max_completion_tokens": 5, "logprobs": True, "repetition_penalty": 1.1}
    assert own.unknown(["top_k", "bad_words"]) == ["bad_words"]
    hf = LiveEngine(Engine("main", url="http://x", kind="transformers"))
    told = json.loads(hf.adapt({"logit_bias": {"7": -3}})["generation_config"])
    assert told["sequence_bias"] == [[[7], -3.0]]


def test_every_kind_lacks_only_features_that_there_are() -> None:
    for kind in ("vllm", "llama.cpp", "llama-cpp-python", "ollama", "onnx"):
        assert of_kind(kind) < set(FEATURES)
    assert of_kind("openai") == of_kind("") == set(FEATURES)
