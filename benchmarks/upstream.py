"""python benchmarks/upstream.py --port 9100 --chunks 100 --interval-ms 10: an engine that costs next to nothing.

Every generation is the numbers "0,", "1,"… one a chunk, the first at once and each next `--interval-ms` later, on
/v1/chat/completions and /v1/completions; whole, `--reply-ms` after the request, where the request does not stream. The
request's model may ask for something else:

    every-MS       the chunks MS milliseconds apart
    after-MS       nothing at all for MS milliseconds, then the answer
    first-MS       a stream's headers at once, its first chunk MS milliseconds later
    dies-N         a stream whose connection breaks after N chunks; a whole answer breaks within its body
    status-CODE    an error in the words of an engine
    rewriter       `REWRITE`, for a stage that asks for a rewrite of `QUESTION`

GET /counts says how many generations and rewrites were asked for, and how many ended because the asker left.
What it does not cover: everything that an engine checks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from functools import partial
from typing import cast

import uvloop

QUESTION = "How do I sharpen the blades of a hedge trimmer, and how often should it be done in the summer months?"
REWRITE = (
    "How do I sharpen the blades of a hedge trimmer, and how often should it be done in the summer months? Please "
    "explain it step by step, and name the tools that I need."
)
_MODEL = re.compile(rb'"model"\s*:\s*"([^"]*)"')
_STREAM = re.compile(rb'"stream"\s*:\s*true')
_WISH = re.compile(rb"(every|after|first|dies|status)-(\d+)$")


def event(value: object) -> bytes:
    data = b"data: %s\n\n" % (value if isinstance(value, bytes) else json.dumps(value).encode())
    return b"%x\r\n%s\r\n" % (len(data), data)


def response(body: bytes, status: bytes = b"200 OK") -> bytes:
    head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
    return head + body


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
        usage = {"prompt_tokens": 9, "completion_tokens": chunks, "total_tokens": 9 + chunks}

        def whole(text: str) -> bytes:
            part = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            choices = [{"index": 0, **part, "finish_reason": "stop"}]
            return response(json.dumps(head | {"object": kind[1], "choices": choices, "usage": usage}).encode())

        self.whole = whole("".join(f"{i}," for i in range(chunks)))
        self.rewrite = whole(REWRITE)


class Engine:
    """What all its connections share. `left` counts askers that went before their answer's end."""

    def __init__(self, chunks: int, interval_s: float, reply_s: float) -> None:
        self.chat, self.text = Answers(True, chunks), Answers(False, chunks)
        self.interval_s, self.reply_s = interval_s, reply_s
        self.asked = self.rewrites = self.left = self.open = 0


class Connection(asyncio.Protocol):
    """One keep-alive connection: parses just enough to know where a request ends and what it wishes."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.loop = asyncio.get_running_loop()
        self.buffer = bytearray()
        self.timer: asyncio.TimerHandle | None = None
        self.busy = False  # an answer has begun, or is due

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance
        self.engine.open += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.engine.open -= 1
        self.engine.left += self.busy
        if self.timer is not None:
            self.timer.cancel()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        head = bytes(self.buffer[:end]).lower()
        at = head.find(b"content-length:")
        length = int(head[at + 15 : head.index(b"\r\n", at)]) if at >= 0 else 0
        if len(self.buffer) < end + length:
            return
        body = bytes(self.buffer[end : end + length])
        del self.buffer[: end + length]
        path = head.split(b" ", 2)[1]
        if path.startswith((b"/v1/chat", b"/v1/completions")):
            self.generate(self.engine.chat if path.startswith(b"/v1/chat") else self.engine.text, body)
        elif path == b"/v1/models":
            model = {"id": "bench", "object": "model", "created": 1, "owned_by": "bench", "max_model_len": 8192}
            self.transport.write(response(json.dumps({"object": "list", "data": [model]}).encode()))
        elif path == b"/health":
            self.transport.write(response(b"{}"))
        elif path == b"/counts":
            counts = {name: getattr(self.engine, name) for name in ("asked", "rewrites", "left", "open")}
            self.transport.write(response(json.dumps(counts).encode()))
        else:
            self.transport.write(response(b"{}", b"404 Not Found"))

    def generate(self, answers: Answers, body: bytes) -> None:
        model = found[1] if (found := _MODEL.search(body)) else b""
        self.engine.asked += model != b"rewriter"
        self.engine.rewrites += model == b"rewriter"
        wish, number = (found[1], int(found[2])) if (found := _WISH.search(model)) else (b"", 0)
        if wish == b"status":
            message = {"error": {"message": "as was asked for", "type": "server_error", "code": number}}
            return self.transport.write(response(json.dumps(message).encode(), b"%d Asked For" % number))
        wait_s = number / 1000 if wish == b"after" else 0.0
        if _STREAM.search(body):
            interval_s = number / 1000 if wish == b"every" else self.engine.interval_s
            first_s, dies = number / 1000 if wish == b"first" else 0.0, number if wish == b"dies" else -1
            answer = partial(self.begin, answers, interval_s, first_s, dies)
        else:
            whole = answers.rewrite if model == b"rewriter" else answers.whole
            answer = partial(self.reply, whole[: len(whole) // 2] if wish == b"dies" else whole, wish == b"dies")
            wait_s = wait_s or self.engine.reply_s
        if not wait_s:
            return answer()
        self.busy = True
        self.timer = self.loop.call_later(wait_s, answer)

    def reply(self, whole: bytes, dies: bool) -> None:
        self.busy = False
        self.transport.write(whole)
        if dies:
            self.transport.close()

    def begin(self, answers: Answers, interval_s: float, first_s: float, dies: int) -> None:
        self.busy = True
        self.transport.write(answers.head)
        go = partial(self.stream, answers, 0, self.loop.time() + first_s, interval_s, dies)
        if first_s:
            self.timer = self.loop.call_later(first_s, go)
        else:
            go()

    def stream(self, answers: Answers, number: int, started: float, interval_s: float, dies: int) -> None:
        """Chunk `number` now, the next one at its time since the start (delays do not add up)."""
        while True:
            if number == dies:
                self.busy = False
                return self.transport.close()
            self.transport.write(answers.chunks[number])
            number += 1
            if number == len(answers.chunks):
                self.busy = False
                return self.transport.write(answers.end)
            due = started + number * interval_s
            if interval_s and due > self.loop.time():
                self.timer = self.loop.call_at(due, self.stream, answers, number, started, interval_s, dies)
                return


async def serve(port: int, chunks: int, interval_ms: float, reply_ms: float) -> None:
    engine = Engine(chunks, interval_ms / 1000, reply_ms / 1000)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(engine), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=9100)
    parser.add_argument("--chunks", type=int, default=100)
    parser.add_argument("--interval-ms", type=float, default=10)
    parser.add_argument("--reply-ms", type=float, default=0, help="what an answer that is no stream takes")
    arguments = parser.parse_args()
    uvloop.run(serve(arguments.port, arguments.chunks, arguments.interval_ms, arguments.reply_ms))
