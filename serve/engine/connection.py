"""One HTTP/1.1 connection to an engine: a request out, its response in, then perhaps the next.

llhttp (by httptools) reads what comes; nothing here knows of pools, retries or what an error means to a client. A
general client costs several times as much a request, most of it for what a relay must not do (cookies, redirects,
decompression, proxies).
"""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from serve.engine.response_head import Known, ResponseHead, recognisable, shared
from serve.http.pace import PIECE, Pace
from serve.http.recognition import LEARN

READ = 2**16  # stop reading when so much waits for a slow client
_HEAD = 2**16  # bytes that a response's head may take
_IDLE_S = 50.0  # an unused connection is kept so long: a new one costs as much as a request; balancers close at 60
_LARGE = 2**16  # a body from here on is not copied behind its head
_BOUNDED = (b"content-length", b"transfer-encoding")
_NOTHING = memoryview(b"")
_TICK_S = 5.0


class Closed(ConnectionError):
    """The connection closed, in an orderly way, before the response was complete."""


class Malformed(Exception):
    """What came was not HTTP."""


class Listener(Protocol):
    """Whoever asked: told of the response in the event loop's own callbacks."""

    def head(self, head: ResponseHead) -> None:
        """The response's head is in."""

    def piece(self, data: bytes) -> None:
        """What one read from the socket brought of the body."""

    def end(self, error: Exception | None) -> None:
        """The body's end; with an OSError or Malformed where it broke off."""


class Connection(asyncio.Protocol):
    """Owns the socket. `spare` is called when it can take another request, `lost` when it never will."""

    def __init__(
        self, timeout_s: float, spare: Callable[[Connection], None], lost: Callable[[Connection], None], pace: Pace
    ) -> None:
        self._loop, self._pace = asyncio.get_running_loop(), pace
        self._timeout_s, self._spare, self._lost = timeout_s, spare, lost
        self._parts: list[bytes] = []  # of the body, from one read
        self.on_body = self._parts.append  # which the parser takes when it is made, so `_parts` stays this list
        self._own = 0  # of the parts, those that came before the answer was complete
        self._parser = httptools.HttpResponseParser(self)
        self._listener: Listener | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes, self._head_size, self._headed, self._complete = 0, 0, False, False
        self._until_close, self._keep = False, True
        self._heard, self._paused = self._loop.time(), False
        self.silent = True  # of the response now awaited, not a byte has come
        self.taken = True  # the engine has all of the request, for all we know
        self.closed = False
        self._known: Known | None = None  # the head that nearly all its responses have
        self._learn, self._first = LEARN, b""  # heads still to be remembered; the first bytes of the response
        self._rest, self._full = _NOTHING, False  # of a large body, what is not sent; the engine is behind
        self._timer: asyncio.TimerHandle | None = None

    # -- asking

    def ask(self, head: bytes, body: bytes | None, listener: Listener) -> None:
        """Send a request; `listener` hears the rest."""
        self._listener, self._headers, self._head_bytes, self._head_size = listener, [], 0, 0
        self._headed = self._complete = self._until_close = False
        self.silent, self.taken, self._heard = True, True, self._loop.time()
        if body and len(body) > PIECE:
            self._rest = memoryview(body)
            self._transport.write(head)
            self._send_piece()
        elif body and len(body) > _LARGE:
            self._transport.writelines((head, body))
        else:
            self._transport.write(head + body if body else head)

    def _send_piece(self) -> None:
        """Send a piece of a large body; the next one when it has its turn, and the engine has taken this one."""
        if not self._rest or self.closed or self._full:
            return
        piece, self._rest = self._rest[:PIECE], self._rest[PIECE:]
        self._transport.write(piece)
        if not self._rest:
            self._rest = _NOTHING  # an empty view would hold the body for as long as the connection is kept
        elif not self._full:
            self._pace.soon(self._send_piece)

    def abort(self, error: Exception | None = None) -> None:
        """Close at once, whatever is still on its way; the listener hears `error`."""
        self._finish(error or ConnectionAbortedError("aborted"))
        self.closed = True
        self._transport.abort()

    def pause(self) -> None:
        """Stop reading from the socket until `resume`."""
        if not self._paused and not self.closed:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on; the silence meanwhile was ours."""
        if self._paused:
            self._paused, self._heard = False, self._loop.time()
            if not self.closed:
                self._transport.resume_reading()

    # -- what the event loop says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport, and begin to watch for silence."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance
        self._timer = self._loop.call_later(min(_TICK_S, self._timeout_s), self._tick)

    def data_received(self, data: bytes) -> None:
        """Parse what came; data that nobody asked for ends the connection."""
        if self._listener is None:  # nobody has asked for anything
            return self.abort()
        self._heard = self._loop.time()
        if not self._headed and self._begins(data):
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return self.abort(Malformed("it changes the protocol"))
        except httptools.HttpParserError as error:
            self._hand_over()
            if not self._complete:
                return self.abort(Malformed(str(error)))
            self._keep = False  # the answer is whole; what stands behind it is nobody's
        if not self._headed and self._head_bytes > _HEAD:
            return self.abort(Malformed("the head is too long"))
        if self._parts:
            self._hand_over()
        if self._complete:
            self._finish(None)

    def _begins(self, data: bytes) -> bool:
        """Look at data that comes before the head is complete; whether it is a whole answer whose head is known."""
        assert self._listener is not None
        first, self.silent = self.silent, False
        if first and self._known is not None and (known := self._known.read(data)) is not None:
            self._learn, self._headed, self._complete, self._keep = LEARN, True, True, True
            self._listener.head(known[0])
            self._listener.piece(known[1])
            self._finish(None)
            return True
        self._first = data if first else b""
        self._head_bytes += len(data)
        return False

    def pause_writing(self) -> None:
        """The engine is behind."""
        self._full = True

    def resume_writing(self) -> None:
        """It has caught up."""
        self._full = False
        if self._rest:
            self._pace.soon(self._send_piece)

    def eof_received(self) -> None:  # under TLS uvloop does not say it: then the request counts as taken
        """The engine closes its side: see whether the request was taken at all."""
        if self._listener is not None and self.silent and (self._rest or _untaken(self._transport)):
            self.taken = False

    def connection_lost(self, error: Exception | None) -> None:
        """Tell whoever listens how the connection ended."""
        self.closed, self._rest = True, _NOTHING
        if error is not None:  # a reset, as a kernel sends for what has not been read
            self.taken = False
        self._lost(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._headed and self._until_close and error is None:
            self._finish(None)
        else:
            self._finish(error or Closed("closed"))

    def _tick(self) -> None:
        """Look at the clock: one timer for a connection's life costs less than one for each wait."""
        limit = self._timeout_s if self._listener is not None else _IDLE_S
        left = self._heard + limit - self._loop.time()
        if left > 0 or self._paused:
            again = min(_TICK_S, self._timeout_s, left if left > 0 else _TICK_S)
            self._timer = self._loop.call_later(max(again, 0.001), self._tick)
            return
        self._timer = None
        self.abort(TimeoutError("silence"))

    # -- what the parser says

    def on_message_begin(self) -> None:
        """A second answer to one request means that the connection cannot be used again."""
        if self._complete:  # it says more than it was asked
            self._keep = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header; trailers are dropped."""
        if not self._headed:  # trailers are not passed on
            self._headers.append((name.lower(), value))
            self._head_size += len(name) + len(value)

    def on_headers_complete(self) -> None:
        """Hand over status and headers, unless they are too large or informational."""
        status = self._parser.get_status_code()
        if self._complete or self._listener is None or self._head_size > _HEAD:
            return
        if status < 100:
            return self.abort(Malformed("its status is below 100"))
        if status < 200:
            self._headers = []
            return
        self._headed, self._keep = True, self._parser.should_keep_alive()  # which the parser forgets at the end
        head = shared(self._first, status, self._headers)
        self._until_close = head.names.isdisjoint(_BOUNDED)
        if self._first and self._learn and self._keep:
            self._learn -= 1
            self._known = recognisable(head, self._first) or self._known
        self._listener.head(head)

    def on_message_complete(self) -> None:
        """The answer is whole."""
        if self._headed and not self._complete:
            self._complete, self._own = True, len(self._parts)

    # -- passing it on

    def _hand_over(self) -> None:
        parts = self._parts
        if self._complete:
            del parts[self._own :]  # of another answer that nobody has asked for
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        if data and self._listener is not None:
            self._listener.piece(data)

    def _finish(self, error: Exception | None) -> None:
        listener, self._listener = self._listener, None
        if listener is None:
            return
        if error is None and self._complete:
            self._heard = self._loop.time()
            if self._rest or self._transport.get_write_buffer_size():
                self.closed = True  # an engine that refuses a body may never read the rest
                self._transport.abort()
            elif self.closed or not self._keep:
                self.closed = True
                self._transport.close()
            else:
                self.resume()
                self._spare(self)
        listener.end(error)


def _untaken(transport: asyncio.Transport) -> int:
    """Bytes that were sent and that the other end's kernel has not acknowledged.

    An engine that closes an idle connection has not acknowledged the request that crosses this on its way. One that
    closes upon a request that it has not read resets the connection. What is left has read it.
    """
    sent = transport.get_extra_info("socket").fileno()
    return int(struct.unpack("i", fcntl.ioctl(sent, termios.TIOCOUTQ, bytes(4)))[0])
