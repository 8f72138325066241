"""python benchmarks/load.py http://127.0.0.1:8000 --streams 200 --chunks 100: streams at once, in one lean process.

Opens all connections, then asks on each of them for a chat completion that counts, and prints one line of JSON:
seconds to the first number of every stream, to the end of all of them, and what was lost, reordered or broken. It only
keeps bytes and times while the streams run and reads them afterwards, so as not to be what is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import cast
from urllib.parse import urlsplit

import uvloop


def unchunked(raw: bytes) -> bytes:
    """Raises ValueError where the last chunk is missing."""
    body, at = [], 0
    while size := int(raw[at : (end := raw.index(b"\r\n", at))], 16):
        body.append(raw[end + 2 : end + 2 + size])
        at = end + 4 + size
    return b"".join(body)


class Stream(asyncio.Protocol):
    """One request and its raw response."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.raw: list[bytes] = []
        self.tail = b""
        self.began = self.first = 0.0
        self.ended: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance

    def start(self) -> None:
        self.began = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.raw.append(data)
        if not self.first and b'"0,' in (self.tail + data if self.tail else data):
            self.first = time.perf_counter()
        self.tail = data[-5:] if len(data) >= 5 else (self.tail + data)[-5:]
        if self.tail == b"0\r\n\r\n" and not self.ended.done():
            self.ended.set_result(time.perf_counter())

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():  # a server may end a body so; `numbers` knows whether it was whole
            self.ended.set_result(time.perf_counter())

    def numbers(self) -> list[int]:
        """The numbers that arrived, in order; raises ValueError where the response is not a whole stream."""
        head, _, rest = b"".join(self.raw).partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise ValueError(head.split(b"\r\n")[0].decode() + " " + rest[:200].decode())
        body = unchunked(rest) if b"\r\ntransfer-encoding: chunked" in head.lower() else rest
        events = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ")]
        if not events or events[-1].strip() != b"[DONE]":
            raise ValueError("no [DONE]")
        choices = [choice for event in events[:-1] for choice in json.loads(event).get("choices", ())]
        text = "".join(c.get("text") or c.get("delta", {}).get("content") or "" for c in choices)
        return [int(number) for number in text.split(",")[:-1]]


async def load(
    url: str, streams: int, chunks: int, ramp_ms: float, headers: list[str], model: str
) -> dict[str, object]:
    """One round; every stream gets a connection of its own, opened before the clock runs."""
    where = urlsplit(url)
    host, port = where.hostname or "127.0.0.1", where.port or 80
    messages = [{"role": "user", "content": "Count, please. " + "Take your time. " * 20}]
    body = json.dumps({"model": model, "stream": True, "max_tokens": 4 * chunks, "messages": messages}).encode()
    lines = ["POST /v1/chat/completions HTTP/1.1", f"host: {where.netloc}", "content-type: application/json", *headers]
    request = "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body
    loop = asyncio.get_running_loop()
    opened = [(await loop.create_connection(lambda: Stream(request), host, port))[1] for _ in range(streams)]
    await asyncio.sleep(0.1)
    began = loop.time()
    for index, stream in enumerate(opened):
        loop.call_at(began + ramp_ms / 1000 * index / streams, stream.start)
    ends = await asyncio.gather(*[stream.ended for stream in opened])
    lost = reordered = 0
    broken: list[str] = []
    for stream in opened:
        stream.transport.close()
        try:
            numbers = stream.numbers()
        except ValueError as error:
            broken.append(str(error))
            continue
        lost += chunks - len(set(numbers) & set(range(chunks)))
        reordered += numbers != sorted(numbers)
    return {
        "first_s": [stream.first - stream.began for stream in opened if stream.first],
        "total_s": max(ends) - min(stream.began for stream in opened),
        "cpu_s": time.process_time(),
        "lost": lost,
        "reordered": reordered,
        "broken": broken,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--chunks", type=int, default=100)
    parser.add_argument("--ramp-ms", type=float, default=0, help="spread the starts over so long; 0: all at once")
    parser.add_argument("--header", action="append", default=[], help='"Name: value"')
    parser.add_argument("--model", default="bench", help="see upstream.py for what it can ask for")
    given = parser.parse_args()
    asked = load(given.url, given.streams, given.chunks, given.ramp_ms, given.header, given.model)
    print(json.dumps(uvloop.run(asked)))
