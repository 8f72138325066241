"""What llhttp (httptools) makes of the bytes on a connection: heads, judged, and the pieces of bodies."""

from __future__ import annotations

import logging
from typing import Protocol

import httptools

from serve.http.exchange import HIGH_WATER, Exchange
from serve.http.gate import Gate
from serve.http.recognition import LEARN
from serve.http.request import Known, RequestHead, Unanswerable, judged, recognisable
from serve.http.site import Site

log = logging.getLogger("trimtab.http")

_OFFER = (b"upgrade", b"connection", b"http2-settings")
_HEAD_BYTES = 2**17  # of a request that are not its body; a chunked body's frame gets as much again as its bytes allow
_UNREADABLE = (httptools.HttpParserError, UnicodeDecodeError)


class Handler(Protocol):
    """Who answers the requests: the connection."""

    def begin(self, head: RequestHead, url: bytes, digits: bytes = b"") -> Exchange:
        """A head has been read, or recognised as another's with this Content-Length. Returns who takes the body."""

    def hand_over(self, head: RequestHead, data: bytes) -> bool:
        """Hand a request, of which `data` has been read, to another process, if it belongs there; then read no more."""

    def complete(self) -> None:
        """The body is whole."""

    def pause_reading(self) -> None:
        """Stop reading from the socket: more of a body has come than has been read of it."""

    def refuse(self, why: str, broken: Exchange | None) -> None:
        """What comes is no HTTP; where it is the rest of a body, of this exchange. Nothing more is read."""


class Requests:
    """Reads one connection.

    `receiving` is the exchange whose body is still to come, though its answer may be complete; `begun` says that a head
    has come in part, `last` that no request after this one is read.
    """

    receiving: Exchange | None = None
    begun = last = False

    def __init__(self, site: Site, handler: Handler) -> None:
        self._site, self._handler = site, handler
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)
        self._url, self._headers, self._data = b"", list[tuple[bytes, bytes]](), b""
        self._known: Known | None = None  # the head that nearly all its requests have
        self._fresh = True  # not a request has come
        self._learn, self._messages = LEARN, 0  # heads still to be remembered; requests that begin in `_data`
        self._between = False  # `_data` begins where a request does
        self._outside = self._inside = 0  # bytes of the request now read, without and within its body

    def stop(self) -> None:
        """Discard all further input."""
        self._parser = self._known = self.receiving = None
        self._fresh = self.begun = False

    def feed(self, data: bytes) -> None:
        """Read what has come."""
        if self._fresh:
            self._fresh = False
            gate = self._gate()
            self._known = next((known for known in self._site.heads if known.read(data, gate)), None)
        if self._known is None or not self.recognised(data):
            self._parse(data)

    def recognised(self, data: bytes) -> bool:
        """Whether `data` is one whole request whose head has come before; it has begun then."""
        if self._known is None or self.receiving is not None or self.begun or self.last:
            return False
        found = self._known.read(data, self._gate())
        if found is None:
            return False
        self._learn = LEARN
        head, digits, body = found
        exchange = self._handler.begin(head, b"", digits)
        exchange.body, exchange.more_body = body, False
        return True

    def _parse(self, data: bytes) -> None:
        if self._parser is None:
            return
        self._outside += len(data)
        self._data, self._messages = data, 0
        self._between = self.receiving is None and not self.begun
        offered = -1  # where in `data` another protocol would begin
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            offered = offer.args[0]
        except httptools.HttpParserError as error:
            self._malformed(error)
        if offered >= 0:  # not within the handler, where it would be the context of what is raised next
            self._without_offer(offered)
        self._data = b""
        # Sixteen bytes around each of the body's are more than the smallest chunks need.
        if self._outside > _HEAD_BYTES + 16 * self._inside:
            self._refuse("The request's head is too large.")

    def _gate(self) -> Gate | None:
        return None if self._site.gate is None else self._site.gate()

    # -- what the parser says

    def on_message_begin(self) -> None:
        """Count anew for the next request."""
        self._outside = self._inside = 0
        self._messages += 1
        self.begun, self._url, self._headers = True, b"", []

    def on_url(self, url: bytes) -> None:
        """A piece of the request's target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header. Trailers, which come after the body, are dropped: what they could say has been decided by then."""
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Judge the head, and have the request begin."""
        self.begun, parser = False, self._parser
        if parser is None or self.last or parser.should_upgrade():
            return  # a request that nobody answers; or it comes again, without the offer
        headers, self._headers = self._headers, []
        head = judged(self._site, parser, self._url, headers)
        if self._between and self._messages == 1 and self._handler.hand_over(head, self._data):
            return self.stop()
        self.last = not head.keep
        if self._messages == 1 and self._learn and head.keep:
            self._learn -= 1
            known = recognisable(head, self._gate(), self._url, self._data)
            if known is not None:
                self._known = known
                self._site.remember(known)
        self.receiving = self._handler.begin(head, self._url)

    def on_body(self, body: bytes) -> None:
        """Count a piece of the body, and pass it on."""
        self._outside -= len(body)
        self._inside += len(body)
        if self.receiving is not None and not self.receiving.ended and self.receiving.take(body) > HIGH_WATER:
            self._handler.pause_reading()

    def on_message_complete(self) -> None:
        """The body is whole, unless what follows is to be read again."""
        if self.receiving is not None:
            self.receiving.end_body()
            self.receiving = None
            self._handler.complete()

    # -- what is no request for us

    def _without_offer(self, at: int) -> None:
        """Read a request again without its offer of another protocol, which is declined by answering (RFC 9110, 7.8).

        Java's client offers HTTP/2 with each first request, and llhttp takes the body for that protocol's.
        """
        if self._parser is None:
            return
        rest, headers = self._data[at:], [pair for pair in self._headers if pair[0] not in _OFFER]
        if len(headers) == len(self._headers):  # CONNECT
            return self._refuse("This is no tunnel.")
        options = b",".join([value for name, value in self._headers if name == b"connection"]).split(b",")
        if kept := [option for option in options if option.strip().lower() not in (b"", *_OFFER)]:
            headers.append((b"connection", b",".join(kept)))  # it may ask for the connection's end, too
        head = b"".join(b"%s: %s\r\n" % pair for pair in headers)
        line = b"%s %s HTTP/%s\r\n" % (self._parser.get_method(), self._url, self._parser.get_http_version().encode())
        self._parser = httptools.HttpRequestParser(self)
        self._parse(b"%s%s\r\n%s" % (line, head, rest))

    def _malformed(self, error: httptools.HttpParserError) -> None:
        if self.last and self.receiving is None:
            return self.stop()  # what stands behind the last request is nobody's
        if isinstance(error.__context__, Unanswerable):
            return self._refuse(str(error.__context__))
        if isinstance(error, httptools.HttpParserCallbackError) and not isinstance(error.__context__, _UNREADABLE):
            log.error("a bug in reading a request", exc_info=error)
        self._refuse("Invalid HTTP request received.")

    def _refuse(self, why: str) -> None:
        if self._parser is not None:
            broken = self.receiving
            self.stop()
            self._handler.refuse(why, broken)
