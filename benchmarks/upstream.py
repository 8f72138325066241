"""python benchmarks/upstream.py --port 9100 --chunks 100 --interval-ms 10: an engine that costs next to nothing.

Every generation is the numbers "0,", "1,"… one a chunk, the first at once and each next `--interval-ms` later, on
/v1/chat/completions and /v1/completions; whole where the request does not stream. What it does not cover: everything
that an engine checks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import cast

import uvloop


def event(value: object) -> bytes:
    data = b"data: %s\n\n" % (value if isinstance(value, bytes) else json.dumps(value).encode())
    return b"%x\r\n%s\r\n" % (len(data), data)


def response(kind: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n%s" % (kind, len(body), body)


class Answers:
    """All bytes that this engine ever sends, made once."""

    def __init__(self, chat: bool, chunks: int) -> None:
        name = ("chatcmpl-" if chat else "cmpl-") + "benchmark0001"
        kind = (
            "chat.completion.chunk" if chat else "text_completion",
            "chat.completion" if chat else "text_completion",
        )
        head = {"id": name, "object": kind[0], "created": 1, "model": "bench"}

        def piece(text: str, finish: str | None) -> bytes:
            part = {"delta": {"content": text} if text else {}} if chat else {"text": text}
            return event(head | {"choices": [{"index": 0, **part, "logprobs": None, "finish_reason": finish}]})

        self.head = (
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        role = event(head | {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}) if chat else b""
        self.chunks = [piece(f"{i},", None) for i in range(chunks)]
        self.chunks[0] = role + self.chunks[0]
        self.end = piece("", "stop") + event(b"[DONE]") + b"0\r\n\r\n"
        text = "".join(f"{i}," for i in range(chunks))
        part = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        usage = {"prompt_tokens": 9, "completion_tokens": chunks, "total_tokens": 9 + chunks}
        whole = head | {"object": kind[1], "choices": [{"index": 0, **part, "finish_reason": "stop"}], "usage": usage}
        self.whole = response(b"application/json", json.dumps(whole).encode())


class Connection(asyncio.Protocol):
    """One keep-alive connection: parses just enough to know where a request ends and whether it streams."""

    def __init__(self, chat: Answers, text: Answers, interval_s: float) -> None:
        self.chat, self.text, self.interval_s = chat, text, interval_s
        self.loop = asyncio.get_running_loop()
        self.buffer = b""
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        head = self.buffer[:end].lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 : head.index(b"\r\n", at)]) if at >= 0 else 0
        if len(self.buffer) < end + length:
            return
        body, self.buffer = self.buffer[end : end + length], self.buffer[end + length :]
        path = head.split(b" ", 2)[1]
        if path == b"/v1/models":
            model = {"id": "bench", "object": "model", "created": 1, "owned_by": "bench", "max_model_len": 8192}
            listing = json.dumps({"object": "list", "data": [model]}).encode()
            return self.transport.write(response(b"application/json", listing))
        if not path.startswith((b"/v1/chat", b"/v1/completions")):
            return self.transport.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
        answers = self.chat if path.startswith(b"/v1/chat") else self.text
        if b'"stream":true' not in body.replace(b" ", b""):
            return self.transport.write(answers.whole)
        self.transport.write(answers.head)
        self.stream(answers, 0, self.loop.time())

    def stream(self, answers: Answers, number: int, started: float) -> None:
        """Chunk `number` now, the next one at its time since the start (delays do not add up)."""
        while True:
            self.transport.write(answers.chunks[number])
            number += 1
            if number == len(answers.chunks):
                return self.transport.write(answers.end)
            due = started + number * self.interval_s
            if self.interval_s and due > self.loop.time():
                self.timer = self.loop.call_at(due, self.stream, answers, number, started)
                return


async def serve(port: int, chunks: int, interval_ms: float) -> None:
    chat, text = Answers(True, chunks), Answers(False, chunks)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(chat, text, interval_ms / 1000), "127.0.0.1", port, backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=9100)
    parser.add_argument("--chunks", type=int, default=100)
    parser.add_argument("--interval-ms", type=float, default=10)
    arguments = parser.parse_args()
    uvloop.run(serve(arguments.port, arguments.chunks, arguments.interval_ms))
