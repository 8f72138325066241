"""The protocol beside another one: the same bytes to uvicorn (by its public API) and to us get the same answers."""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
import uvicorn

from serve.http.listener import Listener
from serve.http.site import Site

LAST = b"GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
# Of another server's own, or of ours, or as long as it happens to be.
OWN = {b"date", b"server", b"x-content-type-options", b"connection"}
HEAD = b"POST /x?y=%41 HTTP/1.1\r\nhost: a\r\n"


class Answer(NamedTuple):
    """A response as it came; of a refusal only the status counts, since every server has words of its own."""

    status: int
    headers: frozenset[tuple[bytes, bytes]]
    body: bytes


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Tells what was asked, in a body whose length is known (/x) or is not (/chunks)."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    told = {name: scope[name] for name in ("method", "path", "http_version")}
    told |= {"query": scope["query_string"].decode(), "raw": scope["raw_path"].decode(), "body": body.hex()}
    told["headers"] = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
    answer = json.dumps(told).encode()
    headers = [(b"X-Two", b"1"), (b"x-two", b"2")]
    if scope["path"] != "/chunks":
        headers.append((b"content-length", b"%d" % len(answer)))
    await send({"type": "http.response.start", "status": 201, "headers": headers})
    await send({"type": "http.response.body", "body": answer[:20], "more_body": True})
    await send({"type": "http.response.body", "body": answer[20:]})


@asynccontextmanager
async def both() -> AsyncIterator[tuple[int, int]]:
    """The ports of uvicorn and of our server, before the same application."""
    settings = uvicorn.Config(echo, http="httptools", ws="none", lifespan="off", log_config=None, proxy_headers=False)
    theirs, ours = uvicorn.Server(settings), Listener(Site({}, echo), drain_s=1)
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        running = asyncio.create_task(theirs.serve([one]))
        await ours.start([other])
        while not theirs.started:
            await asyncio.sleep(0.01)
        yield one.getsockname()[1], other.getsockname()[1]
        theirs.should_exit = True
        await asyncio.gather(running, ours.stop())


async def said(port: int, pieces: list[bytes]) -> list[Answer]:
    """What a server answers to these pieces before it closes."""
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        got = b""
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                if len(pieces) > 1:
                    await asyncio.sleep(0)
            got = await reader.read()
        except ConnectionResetError:  # it closed while we wrote
            pass
        finally:
            writer.close()
    return list(answers(got))


def answers(data: bytes) -> Iterator[Answer]:
    """The responses in these bytes, all of which must be whole."""
    while data:
        top, end, data = data.partition(b"\r\n\r\n")
        assert end, top
        line, *rest = top.split(b"\r\n")
        status = int(line.split(b" ")[1])
        pairs = [(name.lower(), value) for name, value in (row.split(b": ", 1) for row in rest)]
        named = dict(pairs)
        if b"transfer-encoding" in named:
            whole = re.match(rb"(?:([0-9a-f]+)\r\n(?s:.*?)\r\n)*?0\r\n\r\n", data)
            assert whole, data
            body, data = chunks(data[: whole.end()]), data[whole.end() :]
        else:
            size = 0 if status < 200 else int(named[b"content-length"])
            if data.startswith(b"HTTP/1.1 ") and size:  # the answer to a HEAD
                size = 0
            body, data = data[:size], data[size:]
            assert len(body) == size
        told = frozenset(pair for pair in pairs if pair[0] not in OWN)
        yield Answer(status, frozenset(), b"") if status == 400 else Answer(status, told, body)


def chunks(data: bytes) -> bytes:
    out = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        out, data = out + data[: int(size, 16)], data[int(size, 16) + 2 :]
    return out


SMUGGLED = {
    "both lengths": HEAD + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + LAST,
    "both lengths, the other order": HEAD + b"transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n" + LAST,
    "two lengths": HEAD + b"content-length: 2\r\ncontent-length: 3\r\n\r\nabc" + LAST,
    "a length twice": HEAD + b"content-length: 2\r\ncontent-length: 2\r\n\r\nab" + LAST,
    "a list of lengths": HEAD + b"content-length: 2, 2\r\n\r\nab" + LAST,
    "a length with a sign": HEAD + b"content-length: +2\r\n\r\nab" + LAST,
    "a length below zero": HEAD + b"content-length: -2\r\n\r\nab" + LAST,
    "a length in hexadecimal": HEAD + b"content-length: 0x2\r\n\r\nab" + LAST,
    "an empty length": HEAD + b"content-length: \r\n\r\n" + LAST,
    "a length beyond 64 bits": HEAD + b"content-length: 99999999999999999999999\r\n\r\nab" + LAST,
    "an unknown coding": HEAD + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n" + LAST,
    "chunked is not last": HEAD + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n" + LAST,
    "chunked twice": HEAD + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + LAST,
    "chunked in capitals": HEAD + b"Transfer-Encoding: CHUNKED\r\n\r\n1\r\na\r\n0\r\n\r\n" + LAST,
    "a tab before chunked": HEAD + b"transfer-encoding:\tchunked\r\n\r\n1\r\na\r\n0\r\n\r\n" + LAST,
    "a vertical tab before chunked": HEAD + b"transfer-encoding: \x0bchunked\r\n\r\n1\r\na\r\n0\r\n\r\n" + LAST,
    "a space before the colon": HEAD + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n" + LAST,
    "an extension of a chunk": HEAD + b'transfer-encoding: chunked\r\n\r\n1;a=b;c="d"\r\na\r\n0;x\r\n\r\n' + LAST,
    "a line feed in an extension": HEAD + b"transfer-encoding: chunked\r\n\r\n1;a\nb\r\na\r\n0\r\n\r\n" + LAST,
    "a chunk that is too long": HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n" + LAST,
    "a size with a sign": HEAD + b"transfer-encoding: chunked\r\n\r\n+1\r\na\r\n0\r\n\r\n" + LAST,
    "a size with 0x": HEAD + b"transfer-encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n" + LAST,
    "a size with a space behind it": HEAD + b"transfer-encoding: chunked\r\n\r\n1 \r\na\r\n0\r\n\r\n" + LAST,
    "a size beyond 64 bits": HEAD + b"transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\na\r\n0\r\n\r\n" + LAST,
    "chunks by line feeds": HEAD + b"transfer-encoding: chunked\r\n\r\n1\na\n0\n\n" + LAST,
    "a length with zeros before it": HEAD + b"content-length: 0002\r\n\r\nab" + LAST,
    "a length with blanks behind it": HEAD + b"content-length: 2 \t\r\n\r\nab" + LAST,
    "a length with a blank in it": HEAD + b"content-length: 1 2\r\n\r\nab" + LAST,
    "a length with an underscore": HEAD + b"content-length: 0_2\r\n\r\nab" + LAST,
    "a length in other digits": HEAD + "content-length: \u0662\r\n\r\nab".encode() + LAST,
    "a folded length": HEAD + b"content-length:\r\n 2\r\n\r\nab" + LAST,
    "a length by another name": HEAD + b"content_length: 2\r\n\r\n" + LAST,
    "a length that is a connection's own": HEAD + b"connection: content-length\r\ncontent-length: 2\r\n\r\nab" + LAST,
    "no coding": HEAD + b"transfer-encoding: \r\n\r\n" + LAST,
    "no coding, but a length": HEAD + b"transfer-encoding: \r\ncontent-length: 2\r\n\r\nab" + LAST,
    "identity": HEAD + b"transfer-encoding: identity\r\n\r\n" + LAST,
    "identity, then chunked": HEAD
    + b"transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    + LAST,
    "chunked with a parameter": HEAD + b"transfer-encoding: chunked;q=1\r\n\r\n0\r\n\r\n" + LAST,
    "chunked in quotes": HEAD + b'transfer-encoding: "chunked"\r\n\r\n0\r\n\r\n' + LAST,
    "chunked and a comma": HEAD + b"transfer-encoding: chunked,\r\n\r\n0\r\n\r\n" + LAST,
    "a length of zero beside chunks": HEAD + b"content-length: 0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + LAST,
    "chunks in HTTP/1.0": b"POST /x HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
    "a chunk without a size": HEAD + b"transfer-encoding: chunked\r\n\r\n\r\na\r\n0\r\n\r\n" + LAST,
    "a size with zeros": HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"0" * 40 + b"1\r\na\r\n0\r\n\r\n" + LAST,
    "a size with an underscore": HEAD + b"transfer-encoding: chunked\r\n\r\n0_1\r\na\r\n0\r\n\r\n" + LAST,
    "a line feed behind a chunk": HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\na\n0\r\n\r\n" + LAST,
    "a carriage return behind a size": HEAD + b"transfer-encoding: chunked\r\n\r\n1\ra\r\n0\r\n\r\n" + LAST,
    "a line's end in a quoted extension": HEAD
    + b'transfer-encoding: chunked\r\n\r\n1;a="\r\n"\r\na\r\n0\r\n\r\n'
    + LAST,
    "a coding as a trailer": HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\ntransfer-encoding: chunked\r\n\r\n" + LAST,
    "a folded trailer": HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\nx: 1\r\n 2\r\n\r\n" + LAST,
    "a name with a blank": HEAD + b"x y: 1\r\n\r\n" + LAST,
    "a name beyond ASCII": HEAD + b"x\xe4: 1\r\n\r\n" + LAST,
    "a control character": HEAD + b"x: \x01\r\n\r\n" + LAST,
    "a line feed within a value": HEAD + b"x: a\nb: c\r\n\r\n" + LAST,
    "a head's end by line feeds": HEAD + b"x: 1\n\n" + LAST,
    "HTTP/1.2": b"GET /x HTTP/1.2\r\nhost: a\r\n\r\n" + LAST,
    "HTTP/3.0": b"GET /x HTTP/3.0\r\nhost: a\r\n\r\n" + LAST,
    "two blanks before the target": b"GET  /x HTTP/1.1\r\nhost: a\r\n\r\n" + LAST,
    "a target that is relative": b"GET x HTTP/1.1\r\nhost: a\r\n\r\n" + LAST,
    "a target that is an authority": b"GET a:80 HTTP/1.1\r\nhost: a\r\n\r\n" + LAST,
    "a target with a port that is none": b"GET http://a:99999/x HTTP/1.1\r\nhost: a\r\n\r\n" + LAST,
    "a target with a zero byte": b"GET /a\x00 HTTP/1.1\r\nhost: a\r\n\r\n" + LAST,
    "a target with encoded controls": b"GET /a%00%0d%0ab%zz% HTTP/1.1\r\nhost: a\r\n\r\n" + LAST,
    "close and keep-alive": HEAD + b"connection: close, keep-alive\r\n\r\n" + LAST,
    "close in a second header": HEAD + b"connection: keep-alive\r\nconnection: CLOSE\r\n\r\n" + LAST,
    "nearly close": HEAD + b"connection: closed\r\n\r\n" + LAST,
    "TLS": bytes.fromhex("16030100f4010000f00303") + bytes(64),
    "trailers": HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-t: 1\r\ncontent-length: 9\r\n\r\n" + LAST,
    "a folded header": HEAD + b"x-a: 1\r\n 2\r\n\r\n" + LAST,
    "a folded coding": HEAD + b"transfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + LAST,
    "a folded first header": b"GET /x HTTP/1.1\r\n host: a\r\n\r\n" + LAST,
    "heads by line feeds": b"GET /x HTTP/1.1\nhost: a\n\n" + LAST,
    "a carriage return alone": HEAD + b"x-a: 1\rx-b: 2\r\n\r\n" + LAST,
    "a zero byte": HEAD + b"x-a: 1\x002\r\n\r\n" + LAST,
    "a header without a name": HEAD + b": 1\r\n\r\n" + LAST,
    "a header without a colon": HEAD + b"x-a\r\n\r\n" + LAST,
    "bytes beyond ASCII": HEAD + b"x-a: \xe4\xff\r\n\r\n" + LAST,
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + LAST,
    "an unknown method": b"BREW /x HTTP/1.1\r\nhost: a\r\n\r\n" + LAST,
    "a method in small letters": b"get /x HTTP/1.1\r\nhost: a\r\n\r\n" + LAST,
    "a space in the target": b"GET /x y HTTP/1.1\r\nhost: a\r\n\r\n" + LAST,
    "a whole URL": b"GET http://b:81/x?y HTTP/1.1\r\nhost: a\r\n\r\n" + LAST,
    "an asterisk": b"OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n" + LAST,
    "blank lines first": b"\r\n\r\n" + HEAD + b"content-length: 2\r\n\r\nab" + LAST,
    "a body of a GET": b"GET /x HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nab" + LAST,
    "a head": b"HEAD /x HTTP/1.1\r\nhost: a\r\n\r\n" + LAST,
    "HTTP/1.0": b"GET /x HTTP/1.0\r\n\r\n",
    "HTTP/1.0 with a body": b"POST /x HTTP/1.0\r\ncontent-length: 2\r\n\r\nab",
    "more after the last": LAST + LAST,
    "no HTTP after the last": LAST + b"\x00\x01\r\n\r\n",
}


def generated(number: int) -> list[bytes]:
    """Requests that are well formed, in a row, cut anywhere."""
    dice, out = random.Random(number), b""
    for _ in range(dice.randint(1, 4)):
        method = dice.choice([b"GET", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS"])
        target = dice.choice([b"/x", b"/chunks", b"/x?a=b&c", b"/%7Ea/%2f", b"/a//b;c", b"/x#f", b"//h/p"])
        out += b"%s %s HTTP/1.1\r\nHost: a\r\n" % (method, target)
        for name in dice.sample([b"x-a", b"X-B", b"accept", b"cookie", b"x-a"], dice.randint(0, 5)):
            out += b"%s:%s%s\r\n" % (name, dice.choice([b" ", b"", b"\t "]), dice.choice([b"", b"1", b"a,b", b"a  b "]))
        body = dice.randbytes(dice.choice([0, 1, 5, 300]))
        framing = dice.choice(["none", "length", "chunks"])
        if framing == "length":
            out += b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        elif framing == "chunks":
            cut = dice.randint(0, len(body))
            parts = b"".join(b"%X\r\n%s\r\n" % (len(part), part) for part in (body[:cut], body[cut:]) if part)
            out += b"Transfer-Encoding: chunked\r\n\r\n%s0\r\n\r\n" % parts
        else:
            out += b"\r\n"
    out += LAST
    cuts = sorted(dice.sample(range(len(out)), dice.randint(0, 3)))
    return [out[a:b] for a, b in zip([0, *cuts], [*cuts, len(out)], strict=True)]


async def alike(cases: dict[str, list[bytes]], check: Callable[[str, list[Answer], list[Answer]], Any]) -> None:
    async with both() as (theirs, ours):
        for name, pieces in cases.items():
            work: list[Awaitable[list[Answer]]] = [said(theirs, pieces), said(ours, pieces)]
            check(name, *await asyncio.gather(*work))


async def test_what_could_smuggle_a_request_is_read_or_refused_as_uvicorn_does() -> None:
    wrong = {}

    def check(name: str, theirs: list[Answer], ours: list[Answer]) -> None:
        if theirs != ours:
            wrong[name] = (theirs, ours)

    await alike({name: [data] for name, data in SMUGGLED.items()}, check)
    assert not wrong


@pytest.mark.parametrize("start", [0, 60, 120])
async def test_rows_of_requests_cut_anywhere_are_answered_as_by_uvicorn(start: int) -> None:
    def check(name: str, theirs: list[Answer], ours: list[Answer]) -> None:
        assert theirs == ours, name
        assert ours[-1].status == 201

    await alike({str(number): generated(number) for number in range(start, start + 60)}, check)


REFUSED = {
    "HTTP/2.0": b"GET /x HTTP/2.0\r\nhost: a\r\n\r\n",
    "HTTP/0.9": b"GET /x HTTP/0.9\r\n\r\n",
    "no version": b"GET /x\r\n\r\n",
    "no host": b"GET /x HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /x HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
    "a host twice": b"GET /x HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n",
    "a length with thousands of zeros": HEAD + b"content-length: " + b"0" * 5000 + b"2\r\n\r\nab",
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_uvicorn_lets_through_is_refused(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """RFC 9112, 3.2, and what Python makes no number of."""

    def check(_: str, theirs: list[Answer], ours: list[Answer]) -> None:
        assert theirs[0].status == 201
        assert [answer.status for answer in ours] == [400]

    await alike({name: [REFUSED[name] + LAST]}, check)
    assert not [row for row in caplog.records if row.name.startswith("trimtab")]
