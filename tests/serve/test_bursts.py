"""Of many requests that come at once, the first is answered before the last is begun; and what one write can carry."""

from __future__ import annotations

import asyncio
from typing import Any

from serve.http.call import Call
from serve.http.protocol import Protocol
from serve.http.site import Site

ASKED = b"POST /x HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class Client(asyncio.Transport):
    """A connection's other end, which keeps each write."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False
        self.protocol = Protocol(site)
        self.protocol.connection_made(self)

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def turn() -> None:
    await asyncio.sleep(0)


async def test_a_burst_begins_in_turns_that_grow_and_leaves_none_out() -> None:
    begun: list[Call] = []

    async def line(call: Call) -> None:
        begun.append(call)
        call.reply(200, b"{}")

    site = Site({("POST", "/x"): line})
    clients = [Client(site) for _ in range(64)]
    for client in clients:
        client.protocol.data_received(ASKED)
    counts = []
    while len(begun) < 64:
        before = len(begun)
        await turn()
        counts.append(len(begun) - before)
    assert [count for count in counts if count] == [16, 20, 25, 3]
    await turn()
    assert all(client.writes[0].startswith(b"HTTP/1.1 200") for client in clients)
    for client in clients:  # a connection that has been answered waits for its turn as a new one does
        client.protocol.data_received(ASKED)
    for _ in range(12):
        await turn()
    assert [len(client.writes) for client in clients] == [2] * 64
    for client in clients:
        client.protocol.connection_lost(None)


async def test_who_leaves_while_it_waits_for_its_turn_is_not_answered() -> None:
    begun = 0

    async def line(call: Call) -> None:
        nonlocal begun
        begun += 1
        call.reply(200, b"{}")

    site = Site({("POST", "/x"): line})
    clients = [Client(site) for _ in range(20)]
    for client in clients:
        client.protocol.data_received(ASKED)
    for client in clients[10:]:
        client.protocol.connection_lost(None)
    for _ in range(6):
        await turn()
    assert begun == 10
    assert all(client.protocol.task is None for client in clients[10:])
    for client in clients[:10]:
        client.protocol.connection_lost(None)
    for _ in range(3):
        await turn()
    assert not site.tasks


async def test_requests_behind_another_on_a_waiting_connection_are_answered_in_order() -> None:
    async def line(call: Call) -> None:
        call.reply(200, await call.read(100))

    site = Site({("POST", "/x"): line})
    others, client = [Client(site) for _ in range(20)], Client(site)
    for other in others:
        other.protocol.data_received(ASKED)
    client.protocol.data_received(ASKED)
    client.protocol.data_received(ASKED.replace(b"{}", b"[]") + ASKED.replace(b"{}", b"12"))
    for _ in range(12):
        await turn()
    assert [part[-2:] for part in b"".join(client.writes).split(b"HTTP/1.1 200")[1:]] == [b"{}", b"[]", b"12"]
    for each in (*others, client):
        each.protocol.connection_lost(None)


async def test_a_streams_head_goes_out_with_what_follows_it_at_once_and_never_waits() -> None:
    go = asyncio.Event()

    async def line(call: Call) -> None:
        call.start(200, [(b"content-type", b"text/event-stream")], events=True)
        if call.query:
            call.feed(b"data: 1\n\n")
        await go.wait()
        call.end(b"data: 2\n\n")

    site = Site({("POST", "/x"): line})
    one, other = Client(site), Client(site)
    one.protocol.data_received(ASKED.replace(b"/x", b"/x?now"))
    other.protocol.data_received(ASKED)
    for _ in range(3):
        await turn()
    assert len(one.writes) == 1
    assert one.writes[0].endswith(b"\r\n\r\n9\r\ndata: 1\n\n\r\n")
    assert len(other.writes) == 1
    assert other.writes[0].endswith(b"\r\n\r\n")
    go.set()
    for _ in range(3):
        await turn()
    for client in (one, other):
        assert client.writes[1:] == [b"9\r\ndata: 2\n\n\r\n0\r\n\r\n"]
        client.protocol.connection_lost(None)


async def test_a_head_is_out_before_an_answer_breaks_off() -> None:
    async def line(call: Call) -> None:
        call.start(200, [(b"content-type", b"text/plain")])

    client = Client(Site({("POST", "/x"): line}))
    client.protocol.data_received(ASKED)
    for _ in range(3):
        await turn()
    assert client.closed
    assert b"".join(client.writes).startswith(b"HTTP/1.1 200")
    client.protocol.connection_lost(None)
