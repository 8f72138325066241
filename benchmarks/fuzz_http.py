"""python benchmarks/fuzz_http.py [--seconds 600]: bytes of all kinds on a connection, guided by coverage (atheris).

Each input is cut into pieces and fed to the protocol as a socket would do it, pipelined requests and all. It holds that

- nothing raises, nothing is logged as a bug, and no task is left when the connection is lost;
- what is written is a row of whole HTTP responses, the last of which may break off only if the connection closes;
- requests are those that h11, another parser, reads: the same methods and bodies, as far as h11 takes them.

Needs atheris (pip install atheris), which is no dependency. Covered is serve.http, which is instrumented. What it does
not cover: llhttp itself, which is C; TLS; the lines behind the protocol.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import atheris
import h11

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
with atheris.instrument_imports(include=["serve.http"]):
    from serve.http.call import Call, ClientGone
    from serve.http.gate import Gate
    from serve.http.protocol import Protocol
    from serve.http.requests import Requests
    from serve.http.site import Site
from serve.config import Config, Server
from serve.errors import ApiError

LIMIT = 2000  # bytes of a body
SEEDS = [
    b"POST /v1/x HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
    b"POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    b"2;a=b\r\n{}\r\n0\r\nx: y\r\n\r\nGET /a HTTP/1.1\r\nhost: a\r\n\r\n",
    b"POST /v1/s HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-type: application/json\r\n"
    b"content-length: 4\r\n\r\n1234POST /v1/x HTTP/1.0\r\nconnection: keep-alive\r\ncontent-length: 0\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    b"OPTIONS /v1/x HTTP/1.1\r\nhost: a\r\norigin: http://b\r\naccess-control-request-method: POST\r\n\r\n",
    b"POST /v1/x HTTP/1.1\r\nhost: a\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n"
    b"http2-settings: AAM\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
]
MARK = b"~~"
SEEDS += [MARK.join([SEEDS[0], SEEDS[0], SEEDS[0].replace(b"2\r\n\r\n{}", b"3\r\n\r\n{ }")])]
_HEAD = re.compile(rb"HTTP/1\.1 (\d\d\d) [^\r\n]*\r\n((?:[!-9;-~]+:[^\r\n]*\r\n)*)\r\n")


class Finding(Exception):
    """Something that must not be."""


class Transport(asyncio.Transport):
    """A socket that takes everything."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.closed = bytearray(), False

    def write(self, data: Any) -> None:
        if not self.closed:
            self.written += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.closed = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in ("peername", "sockname") else default


class Reading(Requests):
    """The reader, with the requests that it has read: their methods and bodies."""

    def __init__(self, site: Site, protocol: Protocol) -> None:
        super().__init__(site, protocol)
        self.protocol, self.read, self._body = protocol, list[tuple[str, bytes]](), b""

    def on_body(self, body: bytes) -> None:
        self._body += body
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.receiving is not None:
            self.read.append((self._parser.get_method().decode(), self._body))  # type: ignore[union-attr]
        self._body = b""
        super().on_message_complete()

    def recognised(self, data: bytes) -> bool:
        if found := super().recognised(data):
            self.read.append(("POST", bytes(self.protocol.due[-1].body)))
        return found


class Bugs(logging.Handler):
    """What is logged as a bug."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(logging.Formatter().format(record))


class Target:
    """A server without sockets."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.bugs = Bugs()
        logging.getLogger().addHandler(self.bugs)
        self.loop.set_exception_handler(lambda _, context: self.bugs.seen.append(str(context)))
        gate = Gate(Config(Server(cors_origins=("http://b",), hosts=("a",)), {}, {}, {}))
        lines = {("POST", "/v1/x"): self._line, ("POST", "/v1/s"): self._stream}
        self.site = Site(lines, self._app, gate=lambda: gate)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more and len(body) <= LIMIT:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
        head = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": b"ok"})

    async def _body(self, call: Call) -> bytes | None:
        try:
            return await call.read(LIMIT)
        except ClientGone:
            return None
        except ApiError as error:
            call.fail(error)
            return None

    async def _line(self, call: Call) -> None:
        if (body := await self._body(call)) is not None:
            call.reply(200, b'{"size":%d}' % len(body))

    async def _stream(self, call: Call) -> None:
        if await self._body(call) is not None:
            call.start(200, [(b"content-type", b"text/event-stream")], events=True)
            for piece in (b"data: 1\n\n", b"data: [DONE]\n\n"):
                with contextlib.suppress(ClientGone):
                    await call.write(piece)
            call.end()

    def one(self, data: bytes) -> None:
        """An input: its first byte says where it is cut, every so many bytes or at `MARK`s, which are dropped."""
        cut, data = (data[0] % 61) + 1, data[1:]
        pieces = data.split(MARK) if cut > 50 else [data[at : at + cut] for at in range(0, len(data), cut)]
        data = b"".join(pieces)
        transport = Transport()
        read = self.loop.run_until_complete(self._drive(transport, pieces))
        if self.bugs.seen:
            raise Finding(self.bugs.seen[0])
        if b"HEAD" not in data:
            _check_written(bytes(transport.written), transport.closed)
        for mine, theirs in zip(read, _by_h11(data), strict=False):
            if mine != theirs:
                raise Finding(f"{mine} is {theirs} for h11")

    async def _drive(self, transport: Transport, pieces: list[bytes]) -> list[tuple[str, bytes]]:
        protocol = Protocol(self.site)
        protocol.requests = reading = Reading(self.site, protocol)
        protocol.connection_made(transport)
        for piece in pieces:
            if transport.closed:
                break
            protocol.data_received(piece)
            await asyncio.sleep(0)
        for _ in range(12):
            await asyncio.sleep(0)
        protocol.connection_lost(None)
        for _ in range(12):
            await asyncio.sleep(0)
        if left := asyncio.all_tasks() - {asyncio.current_task()}:
            raise Finding(f"tasks are left: {left}")
        return reading.read


def _check_written(written: bytes, closed: bool) -> None:
    """Raise Finding where it is no row of responses."""
    at = 0
    while at < len(written):
        head = _HEAD.match(written, at)
        if head is None:
            raise Finding(f"no head: {written[at : at + 200]!r}")
        at, names = head.end(), dict(line.lower().split(b": ", 1) for line in head[2].split(b"\r\n") if b": " in line)
        if head[1][:1] == b"1" or head[1] in (b"204", b"304"):
            continue
        if b"chunked" in names.get(b"transfer-encoding", b""):
            end = written.find(b"0\r\n\r\n", at)
            at = end + 5 if end >= 0 else len(written) + 1
        elif b"content-length" in names:
            at += int(names[b"content-length"])
        else:
            at = len(written)  # to the connection's end, as HTTP/1.0 has it
        if at > len(written) and not closed:
            raise Finding(f"broken off without a close: {written[-200:]!r}")


def _by_h11(data: bytes) -> list[tuple[str, bytes]]:
    """The requests that h11 reads in full, until it takes offence."""
    connection, found = h11.Connection(h11.SERVER), list[tuple[str, bytes]]()
    with contextlib.suppress(h11.ProtocolError):
        connection.receive_data(data)
        method, body = "", b""
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                method, body = event.method.decode(), b""
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                found.append((method, body))
                if connection.our_state is h11.SEND_RESPONSE:
                    connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                    connection.send(h11.EndOfMessage())
                connection.start_next_cycle()
            else:
                return found
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=600, help="to fuzz (default: %(default)s)")
    options = parser.parse_args()
    target = Target()
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(SEEDS):
            (Path(folder) / str(number)).write_bytes(b"\x3c" + seed)
            (Path(folder) / f"{number}-cut").write_bytes(b"\x06" + seed)
            (Path(folder) / f"{number}-marks").write_bytes(b"\x38" + seed)

        def one(data: bytes) -> None:
            if data:
                target.one(data)

        argv = [sys.argv[0], folder, f"-max_total_time={options.seconds}", "-max_len=2048", "-print_final_stats=1"]
        atheris.Setup(argv, one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
