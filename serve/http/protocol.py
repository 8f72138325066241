"""A client's connection: HTTP/1.1, bounded in time and in size, its requests answered in turn.

A request for one of the site's lines becomes a `Call`; every other goes to the ASGI application as a `Cycle`. One task
a connection answers its requests one after another: a task for each would cost more than reading the request does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import cast

from serve.errors import BadRequest
from serve.http.asgi import Cycle, scope
from serve.http.body import LARGE
from serve.http.call import Call
from serve.http.clock import Clock
from serve.http.exchange import Exchange
from serve.http.request import RequestHead, refusing
from serve.http.requests import Requests
from serve.http.site import Site

_PIPELINED = 256  # requests that wait on a connection; those behind them are left unanswered, and it closes
_HEAD_S = 30.0  # for a request's head to be complete
_LINGER_S = 10.0  # for a client that is still sending to take the answer that it gets instead
STUCK_S = 120.0  # a client that takes nothing for so long has left, and only the network does not know yet


class Protocol(asyncio.Protocol):
    """One client's connection.

    `due` are the exchanges whose answers are not complete, in the order of their requests: the first of them is being
    answered.
    """

    transport: asyncio.Transport
    full = False

    def __init__(self, site: Site) -> None:
        self._site, self._loop, self.pace = site, asyncio.get_running_loop(), site.pace
        self.requests = Requests(site, self)
        self.clock = Clock(self._loop)
        self.due: deque[Exchange] = deque()
        self.task: asyncio.Task[None] | None = None
        self._parked: asyncio.Future[None] | None = None  # the task waits for the next request
        self._writable: asyncio.Event | None = None
        self._paused = self._lost = False
        self._waits = False  # for its turn to answer
        self._overflowed = False  # more requests came at once than are answered

    # -- what the event loop says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Give the client a bounded time for its first head."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance
        self._site.connections.add(self)
        self.clock.wait(_HEAD_S, self.transport, heads=True)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request that is being answered that its client has left, and forget those behind it."""
        self._lost = True
        self.clock.stop()
        self._site.connections.discard(self)
        self.requests.stop()
        waiting = list(self.due)
        self.due.clear()
        for exchange in waiting:
            exchange.leave()
        self.resume_writing()
        self._unpark()

    def data_received(self, data: bytes) -> None:
        """Read what has come, and have it answered."""
        self.requests.feed(data)
        if self.due:
            self.clock.pause()
            if not self._waits and (self._parked is not None or self.task is None):
                self._waits = True
                self._site.turns.soon(self._go)
        elif self.requests.begun and not self.clock.heads:  # most heads come in one piece, and need no clock
            self.clock.wait(_HEAD_S, self.transport, heads=True)

    def pause_writing(self) -> None:
        """The client is behind."""
        self.full = True
        self._writable = self._writable or asyncio.Event()
        self._writable.clear()

    def resume_writing(self) -> None:
        """It has caught up, or has left."""
        self.full = False
        if self._writable is not None:
            self._writable.set()

    async def drain(self) -> bool:
        """Wait until the client has taken enough to be sent more. One that takes nothing is dropped: then False."""
        if self.full and self._writable is not None:
            try:
                async with asyncio.timeout(STUCK_S):
                    await self._writable.wait()
            except TimeoutError:
                self.transport.abort()
                return False
        return True

    # -- what comes

    def begin(self, head: RequestHead, url: bytes, digits: bytes = b"") -> Exchange:
        """Have a request answered in its turn. `digits`: its Content-Length, where the head is another's like it."""
        exchange: Exchange
        if head.line is not None:
            exchange = Call(self, head.line, head, digits)
            exchange.shape = self._site.shape
        else:
            if head.expect:  # refused, it may send its body or its next request
                head.keep = False
            exchange = Cycle(self, self._site.app, scope(head, url, self.transport), head, self._site.shape)
        self.due.append(exchange)
        if len(self.due) > 1:  # pipelined
            self.pause_reading()
            # A read of 256 KiB holds thousands, each of which costs more than its bytes.
            if len(self.due) >= _PIPELINED:
                exchange.keep_alive, self.requests.last, self._overflowed = False, True, True
        return exchange

    def hand_over(self, head: RequestHead, data: bytes) -> bool:
        """Hand the connection to another process, where this is the only request on it and its body is large."""
        hand_over, length = self._site.hand_over, head.named.get(b"content-length")
        if hand_over is None or length is None or int(length) < LARGE or head.line is None:
            return False
        transport = self.transport
        if self.due or transport.get_write_buffer_size():
            return False
        if not hand_over(transport.get_extra_info("socket").fileno(), data):
            return False
        transport.abort()  # of our descriptor: the other process has one of its own
        return True

    def complete(self) -> None:
        """Read on, to see the client leave, unless requests wait."""
        if len(self.due) < 2:
            self.resume_reading()

    def refuse(self, why: str, broken: Exchange | None) -> None:
        """Refuse what is no HTTP, after the answers that are still due."""
        error, nothing = BadRequest(why, code="invalid_http"), RequestHead(None, "", b"", [], {}, ())
        nothing.keep = False
        refusal = Call(self, refusing(error), nothing)
        refusal.more_body, refusal.shape = False, self._site.shape
        if broken is not None:  # what is no HTTP is the rest of its body
            if broken.started or broken.ended:
                return self.transport.close()
            self.due.remove(broken)
            broken.leave()
        if self.due:
            self.due.append(refusal)
        elif not self.transport.is_closing():
            refusal.fail(error)

    def pause_reading(self) -> None:
        """Stop reading from the socket."""
        if not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on from the socket."""
        if self._paused:
            self._paused = False
            self.transport.resume_reading()

    # -- answering

    def _go(self) -> None:
        """Answer what has come."""
        self._waits = False
        if self._parked is not None:
            self._unpark()
        elif self.task is None and self.due:
            self._start()

    def _start(self) -> None:
        self.task = self._loop.create_task(self._answer())
        self._site.tasks.add(self.task)
        self.task.add_done_callback(self._site.tasks.discard)

    async def _answer(self) -> None:
        """Answer one request after the other, until the connection is lost."""
        try:
            while not self._lost:
                if self.due:
                    if self.full:  # answers that it does not take would pile up here
                        if not await self.drain():
                            return
                        continue  # the queue may have changed meanwhile
                    exchange = self.due[0]
                    await exchange.run()
                    if not exchange.ended:
                        return  # it broke off, and the connection with it
                    del exchange  # an idle connection holds nothing of what it has answered
                else:
                    self._parked = self._loop.create_future()
                    await self._parked
        finally:
            self.task = None
            self.requests.stop()
            self.due.clear()

    def _unpark(self) -> None:
        parked, self._parked = self._parked, None
        if parked is not None and not parked.done():
            parked.set_result(None)

    def answered(self, exchange: Exchange) -> None:
        """The answer has been written to its end: close the connection or go on to the next request."""
        if self.due and self.due[0] is exchange:
            self.due.popleft()
        if not exchange.keep_alive:
            self._hang_up(unread=exchange.more_body or self._overflowed)
        if len(self.due) < 2 and not self.transport.is_closing():
            self.resume_reading()
            if exchange.keep_alive and not self.due:
                begun = self.requests.begun
                self.clock.wait(_HEAD_S if begun else self._site.keep_alive_s, self.transport, heads=begun)

    def _hang_up(self, *, unread: bool) -> None:
        """Close; where something is `unread` only later, since a reset would take the answer from who still sends."""
        self.requests.stop()
        self.due.clear()
        if not unread:
            return self.clock.close(self.transport, self._site.keep_alive_s)
        if self.transport.can_write_eof():  # TLS cannot be closed by halves
            self.transport.write_eof()
        self.clock.wait(_LINGER_S, self.transport)

    def shutdown(self) -> None:
        """The server stops: close, at once or after the answer that is due."""
        if self.due:
            self.due[-1].keep_alive, self.requests.last = False, True
        else:
            self.transport.close()
