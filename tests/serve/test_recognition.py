"""A head that comes again is recognised instead of parsed, and means what it would if it had been parsed."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from serve.config import Config, Server
from serve.engine.response_head import ResponseHead, recognisable
from serve.http.call import Call
from serve.http.gate import Gate
from serve.http.protocol import Protocol
from serve.http.requests import Requests
from serve.http.site import Site

HEAD = (
    b"POST /x HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\nAuthorization: Bearer sk-1\r\n\r\n"
)


def asked(body: bytes) -> bytes:
    return HEAD % len(body) + body


class Client(asyncio.Transport):
    """A connection's other end, which keeps what it is sent."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.sent, self.closed = b"", False
        self.protocol = Protocol(site)
        self.protocol.connection_made(self)

    def write(self, data: Any) -> None:
        self.sent += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    async def say(self, *pieces: bytes) -> bytes:
        """What is answered to these pieces, each of which comes by itself, before the connection is lost."""
        for piece in pieces:
            if not self.closed:
                self.protocol.data_received(piece)
                for _ in range(4):
                    await asyncio.sleep(0)
        self.protocol.connection_lost(None)
        await asyncio.sleep(0)
        return self.sent


async def echo(call: Call) -> None:
    body = await call.read(1000, json=False)
    call.reply(200, repr((call.path, call.query, sorted(call.headers), sorted(call.named.items()), body)).encode())


@pytest.fixture
def site() -> Site:
    gate = Gate(Config(Server(), {}, {}, {}))
    return Site({("POST", "/x"): echo, ("POST", "/y"): echo}, gate=lambda: gate)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What llhttp has been given."""
    given: list[bytes] = []
    parse = Requests._parse

    def noting(self: Requests, data: bytes) -> None:
        given.append(data)
        parse(self, data)

    monkeypatch.setattr(Requests, "_parse", noting)
    return given


async def by_llhttp_alone(site: Site, monkeypatch: pytest.MonkeyPatch, *pieces: bytes) -> bytes:
    with monkeypatch.context() as patch:
        patch.setattr("serve.http.requests.LEARN", 0)
        site.heads.clear()
        return await Client(site).say(*pieces)


async def test_only_the_first_of_requests_with_one_head_is_parsed(site: Site, parsed: list[bytes]) -> None:
    rows = [asked(b"{}"), asked(b""), asked(b"x" * 900), asked(b"{}")]
    sent = await Client(site).say(*rows)
    assert parsed == rows[:1]
    assert sent.count(b"HTTP/1.1 200 OK") == 4
    assert b"x" * 900 in sent
    assert sent.count(b"(b'content-length', b'900')") == 2


@pytest.mark.parametrize(
    "row",
    [
        asked(b"{}") + asked(b"{}"),
        asked(b"{}")[:-1],
        asked(b"{}")[:60],
        asked(b"{}") + b"\r\n",
        b"\r\n" + asked(b"{}"),
        asked(b"{}").replace(b"sk-1", b"sk-2"),
        asked(b"{}").replace(b"/x", b"/y"),
        asked(b"{}").replace(b"Length: 2", b"Length: +2"),
        asked(b"{}").replace(b"Length: 2", b"Length:  2"),
        asked(b"{}").replace(b"Length: 2", b"Length: "),
        asked(b"{}").replace(b"Length: 2", b"Length: 2\r\nTransfer-Encoding: chunked"),
        asked(b"{}").replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
)
async def test_what_is_not_just_like_it_is_parsed(
    site: Site, row: bytes, parsed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = (asked(b"{}"), asked(b"[]"), row, asked(b"[1]"))
    said = await Client(site).say(*rows)
    assert row in parsed
    assert said == await by_llhttp_alone(site, monkeypatch, *rows)


async def test_a_length_with_a_zero_before_it_means_what_llhttp_says(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = (asked(b"{}"), asked(b"{}").replace(b"Length: 2", b"Length: 02"), asked(b"[1]"))
    assert await Client(site).say(*rows) == await by_llhttp_alone(site, monkeypatch, *rows)


async def test_a_head_is_recognised_over_another_connection(
    site: Site, parsed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, other = asked(b"{}"), asked(b"[1]").replace(b"sk-1", b"sk-2")
    for row in (first, other):
        await Client(site).say(row)
    rows = (asked(b"[2]"), asked(b"[3]"), other)
    said = await Client(site).say(*rows)
    assert parsed == [first, other, other]
    assert said == await by_llhttp_alone(site, monkeypatch, *rows)


async def test_no_more_than_a_few_heads_are_kept(site: Site) -> None:
    for i in range(100):
        await Client(site).say(asked(b"{}").replace(b"sk-1", b"sk-%d" % i))
    assert len(site.heads) == 16


async def test_any_byte_changed_means_what_llhttp_says(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random(1)
    for _ in range(150):
        row = bytearray(asked(b"{}"))
        row[dice.randrange(len(row))] = dice.randrange(256)
        site.heads.clear()
        rows = (asked(b"{}"), bytes(row), asked(b"[1]"))
        assert await Client(site).say(*rows) == await by_llhttp_alone(site, monkeypatch, *rows), bytes(row)


async def test_a_reload_has_heads_judged_again() -> None:
    gates = [Gate(Config(Server(), {}, {}, {}))]
    site = Site({("POST", "/x"): echo}, gate=lambda: gates[-1])
    client = Client(site)
    row = asked(b"{}").replace(b"localhost", b"elsewhere")
    gates.append(Gate(Config(Server(hosts=("elsewhere",)), {}, {}, {})))
    client.protocol.data_received(row)
    for _ in range(4):
        await asyncio.sleep(0)
    gates.append(Gate(Config(Server(), {}, {}, {})))
    sent = await client.say(row)
    assert [part[:3] for part in sent.split(b"HTTP/1.1 ")[1:]] == [b"200", b"403"]


async def test_nothing_is_recognised_once_the_connection_is_to_close(site: Site) -> None:
    client = Client(site)
    last = asked(b"{}").replace(b"Accept: */*", b"Connection: close")
    sent = await client.say(asked(b"{}"), asked(b"{}"), last + asked(b"{}"), asked(b"{}"))
    assert sent.count(b"HTTP/1.1 200") == 3
    assert client.closed


def test_an_engines_head_is_recognised_with_its_new_length() -> None:
    raw = b"HTTP/1.1 200 OK\r\ndate: now\r\ncontent-type: application/json\r\ncontent-length: 2\r\nx-a: 1\r\n\r\n"
    pairs = [(b"date", b"now"), (b"content-type", b"application/json"), (b"content-length", b"2"), (b"x-a", b"1")]
    known = recognisable(ResponseHead(200, pairs), raw + b"{}")
    assert known is not None
    found = known.read(raw.replace(b": 2", b": 11") + b'{"a": null}')
    assert found is not None
    assert found[1] == b'{"a": null}'
    assert b"content-length" not in found[0].names  # which was another's
    assert found[0].passed == [(b"content-type", b"application/json"), (b"x-a", b"1")]
    assert known.read(raw.replace(b": 2", b": 3") + b"{}") is None
    assert known.read(raw.replace(b"now", b"new") + b"{}") is None
    assert recognisable(ResponseHead(500, pairs), raw.replace(b"200", b"500")) is None
    coded = [*pairs[:2], (b"transfer-encoding", b"chunked"), *pairs[2:]]
    assert recognisable(ResponseHead(200, coded), raw) is None
