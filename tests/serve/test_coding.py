"""Compressed bodies of clients and of engines, byte order marks, and surrogates without their other half."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from serve.config import Flags, Server
from serve.configure.reader import load
from serve.dialects import wire
from serve.dialects.surrogates import restore, shield
from serve.errors import BadRequest, TooLarge
from serve.http.body import expanded
from serve.http.coding import Decoder, Oversized, Spoilt, expand, measure
from serve.limits.turns import Turns
from tests.serve.bare import Serve, serving
from tests.serve.conftest import Start, chat, events
from tests.upstream import FakeUpstream

PATH = "/v1/chat/completions"


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


PACKED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "two members": ("gzip", lambda data: gzip.compress(data[:5]) + gzip.compress(data[5:])),
    "deflate": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    "zstd": ("zstd", zstandard.compress),
    "two frames": ("zstd", lambda data: zstandard.compress(data[:5]) + zstandard.compress(data[5:])),
}


@pytest.mark.parametrize("name", PACKED)
def test_every_coding_is_taken_off_whole_or_in_pieces(name: str) -> None:
    coding, pack = PACKED[name]
    data = bytes(range(256)) * 2000
    packed = pack(data)
    assert expand(coding, packed, len(data)) == data
    with pytest.raises(Oversized):
        expand(coding, packed, len(data) - 1)
    for size in (1, 7, 4096):
        decoder = Decoder(coding)
        out = [step for at in range(0, len(packed), size) for step in decoder.feed(packed[at : at + size])]
        assert b"".join(out) == data
        assert decoder.complete


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("size", [*range(2**16 - 2, 2**16 + 6), *range(2**17 - 2, 2**17 + 6)])
def test_a_body_that_just_exceeds_a_step_is_whole(name: str, size: int) -> None:
    """zlib may have taken all of its input when a step is full, and still have some bytes to put out."""
    coding, pack = PACKED[name]
    for data in (bytes(size), (b"ab" * size)[:size], (b'{"a":"bcd"},' * size)[:size]):
        assert expand(coding, pack(data), size) == data


@pytest.mark.parametrize("name", PACKED)
def test_damage_and_an_early_end_are_seen(name: str) -> None:
    coding, pack = PACKED[name]
    packed = pack(bytes(range(256)) * 2000)
    for broken in (packed[:-3], packed[: len(packed) // 2], b"", b"\xff\xff" + packed):
        with pytest.raises(Spoilt):
            expand(coding, broken, 10**9)


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_a_bomb_costs_no_more_than_the_limit(name: str) -> None:
    coding, pack = PACKED[name]
    bomb = pack(bytes(2**28))
    tracemalloc.start()
    with pytest.raises(Oversized):
        expand(coding, bomb, 2**20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24


@pytest.mark.parametrize("name", PACKED)
async def test_a_compressed_body_waits_for_as_much_room_as_it_takes(name: str) -> None:
    coding, pack = PACKED[name]
    asked: list[int] = []

    async def room(size: int) -> None:
        asked.append(size)

    small, large = bytes(range(256)) * 2000, bytes(range(256)) * 8000
    for data in (small, large):
        assert await expanded(coding, pack(data), 2**26, room) == data
    with pytest.raises(TooLarge):
        await expanded(coding, pack(large), len(large) - 1, room)
    with pytest.raises(BadRequest):
        await expanded(coding, pack(large)[:-5], 2**26, room)
    assert asked[:1] == [len(large)]
    assert max(asked) == len(large)


async def test_compressed_bodies_of_megabytes_have_their_turns_together() -> None:
    turns, data = Turns(32 * 2**20), bytes(2**21)
    for key in "ab":
        async with asyncio.timeout(60):
            assert await expanded("gzip", gzip.compress(data), 2**26, turns.turn(key).take) == data


@pytest.mark.parametrize("name", ["gzip", "zstd"])
def test_counting_a_bomb_costs_little_memory(name: str) -> None:
    coding, pack = PACKED[name]
    bomb = pack(bytes(2**26))
    tracemalloc.start()
    size = measure(coding, bomb, 2**27)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == 2**26
    assert peak < 2**22


def test_all_frames_are_counted() -> None:
    packed = zstandard.compress(b"ab" * 99) + zstandard.compress(b"") + zstandard.compress(bytes(2**18))
    assert measure("zstd", packed, 2**20) == len(expand("zstd", packed, 2**20)) == 198 + 2**18


# ---------------------------------------------------------------- clients


@pytest.mark.parametrize("policy", ["raw", "chat"])
@pytest.mark.parametrize("name", PACKED)
async def test_a_compressed_request_is_read(
    http: httpx.AsyncClient, upstream: FakeUpstream, name: str, policy: str
) -> None:
    coding, pack = PACKED[name]
    headers = {"content-type": "application/json", "content-encoding": coding, "x-trimtab-policy": policy}
    answer = await http.post(PATH, content=pack(json.dumps(chat("squeezed")).encode()), headers=headers)
    assert answer.json()["choices"][0]["message"]["content"] == "squeezed"
    assert upstream.posts[-1].header("content-encoding") is None


@pytest.mark.parametrize("name", ["gzip", "zstd"])
async def test_a_compressed_request_is_bounded_after_its_expansion(http: httpx.AsyncClient, name: str) -> None:
    coding, pack = PACKED[name]
    body = json.dumps(chat("x" * 2**21)).encode()  # the server takes a mebibyte
    headers = {"content-type": "application/json", "content-encoding": coding}
    for path in (PATH, "/v1/explain"):
        answer = await http.post(path, content=pack(body), headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


async def test_a_damaged_or_unknown_coding_is_refused_by_name(http: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    answer = await http.post(PATH, content=b"not gzip", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "content_encoding")
    answer = await http.post(PATH, content=b"x", headers={**headers, "content-encoding": "br"})
    assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "gzip, deflate, zstd")
    assert "gzip" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", [PATH, "/v1/explain"])
async def test_a_byte_order_mark_before_json_is_no_error(http: httpx.AsyncClient, path: str) -> None:
    body = b"\xef\xbb\xbf" + json.dumps(chat("marked")).encode()
    answer = await http.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_configuration_may_begin_with_a_byte_order_mark(tmp_path: Any, line_end: str) -> None:
    text = line_end.join(["[server]", "port = 9", "[engine.main]", 'url = "http://x"', ""])
    (path := tmp_path / "t.toml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load(Flags(config=str(path)), {}).server.port == 9


# ---------------------------------------------------------------- engines


def packing(name: str) -> Serve:
    """An engine that compresses whatever it says."""
    coding, pack = PACKED[name]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            found = re.search(rb"content-length: (\d+)", head)
            body = json.loads(await reader.readexactly(int(found[1])) if found else b"{}")
            kind, said = answer_of(body, head)
            packed = pack(said)
            lines = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-encoding: {coding}\r\n"
            writer.write(f"{lines}content-length: {len(packed)}\r\n\r\n".encode() + packed)

    return serve


def answer_of(body: dict[str, Any], head: bytes) -> tuple[str, bytes]:
    if head.startswith(b"GET"):
        return "application/json", b'{"data":[{"id":"packed"}]}'
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    chats = "messages" in body
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
    key = "delta" if body.get("stream") else "message"
    choice |= {key: {"role": "assistant", "content": "fine"}} if chats else {"text": "fine"}
    said = json.dumps({"id": "x", "object": "x", "created": 1, "model": "m", "choices": [choice], "usage": usage})
    if not body.get("stream"):
        return "application/json", said.encode()
    return "text/event-stream", f"data: {said}\n\ndata: [DONE]\n\n".encode()


@pytest.mark.parametrize("name", ["gzip", "deflate", "zstd"])
async def test_an_engine_that_compresses_unasked_is_read_counted_and_passed_on(start: Start, name: str) -> None:
    async with serving(packing(name)) as port:
        text = f'state_dir = "{{state}}"\n[engine.main]\nurl = "http://127.0.0.1:{port}"\n'
        text += '[policy.base]\nrender = "base"\n'
        trimtab = await asyncio.to_thread(lambda: start(file=text))
        await read_and_counted(trimtab.url)
        await asyncio.to_thread(trimtab.stop)  # and with it the connections to the engine


async def read_and_counted(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=20) as http:
        assert "packed" in [row["id"] for row in (await http.get("/v1/models")).json()["data"]]
        for policy in ("raw", "urial", "base"):
            for stream in (False, True):
                body = chat("hi", "m", stream=stream)
                answer = await http.post(PATH, json=body, headers={"x-trimtab-policy": policy})
                assert "content-encoding" not in answer.headers
                said = events(answer.text)[:-1] if stream else [answer.json()]
                parts = [it["choices"][0].get("delta") or it["choices"][0].get("message") or {} for it in said]
                assert "".join(part.get("content") or "" for part in parts) == "fine"
                trace = (await http.get(f"/v1/traces/{answer.headers['x-trimtab-trace']}")).json()
                assert trace["usage"]["total_tokens"] == 4


# ---------------------------------------------------------------- surrogates

LONE = r"cut \ud83d", r"\udc97 byte", r"\uD83D\uD83D\ude00", r"\\ud83d \\\ud83d", r"\ud83d\u0041", r"\ud83d\ude00"


@pytest.mark.parametrize("text", LONE)
@pytest.mark.parametrize("policy", ["raw", "chat"])
async def test_an_unpaired_surrogate_reaches_the_engine_as_it_was(
    http: httpx.AsyncClient, upstream: FakeUpstream, policy: str, text: str
) -> None:
    row = f'{{"role":"user","content":"{text}"}}'
    rows = f'{row},{{"role":"assistant","content":"k"}},{row}'
    body = f'{{"model":"stream-1","user":"{text}","{text}":1,"messages":[{rows}]}}'.encode()
    headers = {"content-type": "application/json", "x-trimtab-policy": policy}
    answer = await http.post(PATH, content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    sent = upstream.posts[-1]
    assert sent.json["messages"][-1]["content"] == json.loads(f'"{text}"')
    assert sent.json["user"] == json.loads(f'"{text}"')
    assert policy != "raw" or sent.body == body


@given(text=st.text(st.characters(categories=["Cs", "Ll"]), max_size=20))
def test_any_text_with_surrogates_survives(text: str) -> None:
    # A name of our own before it: the text alone may be a field that has a type, such as "n".
    body = json.dumps({"a": text, f"x_{text}": ["\\" + text]}).encode()
    shielded = shield(body)
    json.dumps(json.loads(shielded), ensure_ascii=False).encode()  # there is none left that UTF-8 could not hold
    assert restore(shielded) == body
    far = b" " * (2**18 - 20)  # so that a mark lies across two of the steps in which a large body is read
    assert restore(far + shielded) == far + body
    assert restore(wire.parse(body, Server()).body) == body
