"""python -m tests.upstream --port 9000: a fake engine on a real socket, which records what reaches it.

The **model name** chooses what it does; a name that it does not know behaves like `echo`.

    echo                   answers with the last user text, or with the last 64 characters of a completion's prompt
    stream-N               N numbered pieces: "0 ", "1 "…
    slow-stream-N-MS       the same, MS milliseconds apart
    slow-headers-S         S seconds before the headers, then echo
    slow-first-S           headers at once, S seconds before the first token, then echo
    huge-N                 an answer of N bytes
    tools                  calls every tool that the request offers, arguments streamed in pieces; echoes a tool result
    die-mid-stream-K       closes the connection after K pieces 5 ms apart, inside the body (stream or not)
    reset-mid-stream-K     the same with a TCP reset
    close-without-done-K   K pieces, then a clean end of the body without finish_reason and [DONE]
    error-mid-stream-K     K pieces, then an error event and [DONE], as vLLM does
    error-STATUS           an OpenAI-shaped error (429 with Retry-After)
    error-html-STATUS      a gateway's HTML page
    context-N              400 context_length_exceeded when the prompt has more than N characters, else echo
    max-stop-N             400 when more than N stop strings are sent, else echo
    no-system              400 for a system role or turns that do not alternate, as old Gemma templates do
    wants-reasoning        400 for an assistant message without reasoning_content, as DeepSeek does
    plain-N                400 for more than N messages, in words that say nothing
    strict                 400 for a reason that it does not give when stream_options are sent, else echo
    no-stream-options      400 when stream_options are sent, else echo
    torn-K                 echo, whose events arrive in pieces of K bytes, K milliseconds apart
    ping                   echo, with comment lines and CRLF between the events, as gateways do

Every answer honours n, stop, max_tokens, logprobs, stream_options.include_usage and the list forms of `prompt`, and
is shaped as vLLM and OpenAI shape it; `/v1/completions` without max_tokens echoes 16 tokens, as they do. A test that
needs certain pieces sets `upstream.scripts[model] = ["``", "`\\n", 0.1, "more"]`; numbers are pauses in seconds.
"""

from __future__ import annotations

import argparse
import array
import asyncio
import base64
import contextlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal

Piece = str | float
Window = Literal["headers", "first", "stream", "done"]
DEFAULT_MAX_TOKENS = 16  # of /v1/completions


@dataclass
class Recorded:
    """One request as it arrived, and how far its answer got. Times are `time.monotonic()`."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int  # which TCP connection, counted from 0
    at: float = field(default_factory=time.monotonic)
    window: Window = "headers"  # what the client waits for: headers, first token, rest of the stream, nothing
    sent: int = 0  # pieces of the answer
    aborted_at: float | None = None  # the client closed the connection before the answer was complete

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def model(self) -> str:
        return str(self.json.get("model", "")) if self.body.startswith(b"{") else ""

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


@dataclass
class Answer:
    """One choice: its pieces, when they come, and how they end."""

    pieces: Sequence[Piece]
    gap_s: float = 0.0
    first_s: float = 0.0
    tools: list[dict[str, Any]] = field(default_factory=list)
    finish: str = "stop"
    stop_reason: str | None = None
    end: Literal["clean", "die", "reset", "silent", "error"] = "clean"
    limited: bool = False  # the default max_tokens applies

    @property
    def texts(self) -> list[str]:
        return [piece for piece in self.pieces if isinstance(piece, str)]

    @property
    def text(self) -> str:
        return "".join(self.texts)


def tokens(text: str) -> list[str]:
    """Words with the space before them; joined, they are the text."""
    return re.findall(r"\s+$|\s*\S+", text)


def prompt_text(body: dict[str, Any], prompt: Any = None) -> str:
    """What `echo` repeats: the last user (or tool) text, or the tail of the prompt."""
    if "messages" not in body:
        return prompt[-64:] if isinstance(prompt, str) else " ".join(map(str, prompt or ()))
    for message in reversed(body["messages"]):
        if message.get("role") in ("user", "tool"):
            content = message.get("content") or ""
            return content if isinstance(content, str) else "\n".join(part.get("text", "") for part in content)
    return ""


def template_refusal(model: str, messages: list[Any]) -> str | None:
    """What a chat template says of messages that it does not take."""
    roles = [message.get("role") for message in messages]
    if model.startswith("no-system"):
        if "system" in roles:
            return "System role not supported"
        if any((role == "user") != (i % 2 == 0) for i, role in enumerate(roles)):
            return "Conversation roles must alternate user/assistant/user/assistant/..."
    if model == "wants-reasoning" and any(m["role"] == "assistant" and "reasoning_content" not in m for m in messages):
        return "Missing `reasoning_content` field in the assistant message at message index 1"
    if (found := re.fullmatch(r"plain-(\d+)", model)) and len(messages) > int(found[1]):
        return "invalid request"
    return None


def cut(answer: Answer, body: dict[str, Any]) -> Answer:
    """The answer as an engine would end it: before a stop string, or at max_tokens."""
    limit = body.get("max_tokens") or body.get("max_completion_tokens")
    if limit is None and answer.limited and "messages" not in body:
        limit = DEFAULT_MAX_TOKENS
    stops = body.get("stop") or []
    found = [
        (at, stop) for stop in ([stops] if isinstance(stops, str) else stops) if (at := answer.text.find(stop)) >= 0
    ]
    kept: list[Piece] = []
    room, length, left = limit if limit is not None else 10**9, min(found)[0] if found else 10**12, 0
    for piece in answer.pieces:
        if isinstance(piece, str):
            if left >= length:
                break
            if room == 0:
                answer.pieces, answer.finish = kept, "length"
                return answer
            room, piece, left = room - 1, piece[: length - left], left + len(piece)
        kept.append(piece)
    answer.pieces = kept
    answer.stop_reason = min(found)[1] if found else None
    return answer


class Hangup(Exception):
    """The fake breaks the connection off, with a reset or without."""


class _Protocol(asyncio.StreamReaderProtocol):
    """A connection that says when its client has gone, even while nobody reads from it."""

    def __init__(self, served: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> None:
        super().__init__(asyncio.StreamReader(), served)
        self.gone = asyncio.Event()

    def eof_received(self) -> bool | None:
        self.gone.set()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set()
        super().connection_lost(exc)


class Reply:
    """Writes one HTTP response, noting in the record how far it is."""

    def __init__(self, record: Recorded, writer: asyncio.StreamWriter) -> None:
        self.record, self.writer = record, writer
        self.torn = 0
        self.ping = False

    def head(self, status: int, kind: str, length: int | None, *extra: str) -> bytes:
        size = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"content-type: {kind}", size, *extra]
        return "\r\n".join([*lines, "server: fake", "x-request-id: fake-1", "", ""]).encode()

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def whole(self, status: int, body: bytes, *extra: str, kind: str = "application/json") -> None:
        await self.write(self.head(status, kind, len(body), *extra) + body)

    async def json(self, value: Any, status: int = 200, *extra: str) -> None:
        await self.whole(status, json.dumps(value).encode(), *extra)

    async def error(self, status: int, message: str, *extra: str, code: str | None = None, param: str = "") -> None:
        kind = "invalid_request_error" if status < 500 else "server_error"
        error = {"message": message, "type": kind, "param": param or None, "code": code}
        await self.json({"error": error}, status, *extra)

    async def open(self) -> None:
        await self.write(self.head(200, "text/event-stream; charset=utf-8", None))
        self.record.window = "first"

    async def event(self, value: Any) -> None:
        data = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        raw = f"data: {data}\n\n".encode()
        if self.ping:
            raw = b": ping\r\n\r\n" + raw.replace(b"\n", b"\r\n")
        if not self.torn:
            return await self._chunk(raw)
        for at in range(0, len(raw), self.torn):
            await self._chunk(raw[at : at + self.torn])
            await asyncio.sleep(self.torn / 1000)

    async def _chunk(self, raw: bytes) -> None:
        await self.write(b"%x\r\n%s\r\n" % (len(raw), raw))

    async def raw(self, data: bytes) -> None:
        await self._chunk(data)

    async def close(self) -> None:
        await self.write(b"0\r\n\r\n")

    def hang_up(self, *, reset: bool) -> None:
        """FIN after what was written, or a reset. Raises Hangup."""
        if reset:
            sock: socket.socket = self.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise Hangup


class FakeUpstream:
    """The engine, in a thread of its own: `with FakeUpstream() as upstream: … upstream.url …`.

    `close_reused` makes it reset a connection on which a second request arrives, unanswered and unrecorded, as the
    kernel of an engine does that closes it at that moment without having read it; `dropped` counts these.
    """

    def __init__(self, port: int = 0, *, close_reused: bool = False) -> None:
        self.port = port
        self.close_reused = close_reused
        self.requests: list[Recorded] = []
        self.scripts: dict[str, list[Piece]] = {}
        # Other paths: what a request gets, a status and a JSON value, or a list of pieces of a stream (None: hang up).
        self.pages: set[str] = set()  # paths that a web server before the engine has a page for
        self.others: dict[str, Callable[[Recorded], tuple[int, Any]]] = {}
        self.context = 8192  # what /v1/models says, as vLLM does
        self.dropped = 0
        self.connections = 0
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Without /v1."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> FakeUpstream:
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True)
        self._thread.start()
        assert started.wait(10), "the fake upstream did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        assert self._thread is not None
        self._thread.join(10)

    def clear(self) -> None:
        self.requests.clear()

    def wait_request(self, index: int = 0, timeout: float = 5.0) -> Recorded:
        """Blocks until request number `index` has arrived; in a test with a loop, `await asyncio.to_thread(…)`."""
        self._wait(lambda: len(self.requests) > index, timeout, f"request {index} did not arrive")
        return self.requests[index]

    def wait_abort(self, index: int = -1, timeout: float = 1.0) -> Recorded:
        """Blocks until the client of that request has gone away; AssertionError if it does not."""
        self._wait(
            lambda: bool(self.requests) and self.requests[index].aborted_at is not None, timeout,
            f"request {index} was not aborted in {timeout} s",
        )  # fmt: skip
        return self.requests[index]

    def _wait(self, ready: Callable[[], bool], timeout: float, message: str) -> None:
        with self._changed:
            assert self._changed.wait_for(ready, timeout), message

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    @property
    def posts(self) -> list[Recorded]:
        """The requests but for what a worker asks of itself (its engine's health and models)."""
        return [request for request in self.requests if request.method == "POST"]

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        server = await self._loop.create_server(lambda: _Protocol(self._connection), "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await self._stop.wait()
        server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0.05)  # a transport lets go of its socket in a later turn of the loop

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, self.connections = self.connections, self.connections + 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            for served in range(10**9):
                record = await read_request(reader, number)
                if record is None:
                    return
                if served and self.close_reused:
                    self.dropped += 1
                    Reply(record, writer).hang_up(reset=True)
                self.requests.append(record)
                self._notify()
                if not await self._answer(record, writer):
                    return
        except (ConnectionError, Hangup, asyncio.CancelledError):
            return
        finally:
            self._tasks.discard(task)
            writer.transport.close()

    async def _answer(self, record: Recorded, writer: asyncio.StreamWriter) -> bool:
        """Answer while watching whether the client goes away. False: it has."""
        gone: asyncio.Event = writer.transport.get_protocol().gone  # type: ignore[attr-defined]
        reply = asyncio.ensure_future(self._finish(record, Reply(record, writer)))
        watch = asyncio.ensure_future(gone.wait())
        try:
            await asyncio.wait({reply, watch}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            watch.cancel()
            reply.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await reply
            return True
        record.aborted_at = time.monotonic()
        self._notify()
        return False

    async def _finish(self, record: Recorded, reply: Reply) -> None:
        await self._reply(record, reply)
        record.window = "done"  # in the turn of the last write: stopped in the next, it has said all

    async def _reply(self, record: Recorded, reply: Reply) -> None:
        path = record.path.split("?")[0]
        if path in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings") and record.method == "POST":
            try:
                body = record.json
                assert isinstance(body, dict)
            except (ValueError, AssertionError):
                return await reply.error(400, "the body is not a JSON object")
            if path == "/v1/embeddings":
                return await reply.json(embeddings(body))
            return await self._generate(path == "/v1/chat/completions", body, reply)
        if path == "/v1/models":
            names = ["echo", *self.scripts]
            models = [{"id": n, "object": "model", "created": 1, "owned_by": "fake"} for n in names]
            return await reply.json({"object": "list", "data": [m | {"max_model_len": self.context} for m in models]})
        if path == "/health":
            return await reply.whole(200, b"")
        if path in self.pages:
            return await reply.whole(200, b"<html></html>", kind="text/html")
        if (other := self.others.get(path)) is not None:
            return await self._other(*other(record), reply)
        return await reply.json({"detail": "Not Found"}, 404)

    async def _other(self, status: int, value: Any, reply: Reply) -> None:
        if not isinstance(value, list):
            return await reply.json(value, status)
        await reply.open()
        for piece in value:
            if piece is None:
                reply.hang_up(reset=False)
            await (asyncio.sleep(piece) if isinstance(piece, float) else reply.raw(piece))
        await reply.close()

    async def _generate(self, chat: bool, body: dict[str, Any], reply: Reply) -> None:
        model = str(body.get("model", ""))
        if model in ("no-stream-options", "strict") and "stream_options" in body:
            named = "Unrecognized request argument supplied: stream_options"
            return await reply.error(400, named if model == "no-stream-options" else "Bad Request")
        if found := re.fullmatch(r"error-(html-)?(\d+)", model):
            status = int(found[2])
            extra = ("retry-after: 7",) if status == 429 else ()
            if found[1]:
                page = f"<html><h1>{status} gateway</h1></html>".encode()
                return await reply.whole(status, page, *extra, kind="text/html")
            return await reply.error(status, f"made up error {status}", *extra, code=f"fake_{status}")
        if (found := re.fullmatch(r"context-(\d+)", model)) and (size := prompt_size(body)) > int(found[1]):
            text = f"This model's maximum context length is {found[1]} tokens. However, your request has {size} input"
            param = "messages" if chat else "prompt"
            return await reply.error(
                400, f"{text} tokens. Please reduce the length.", code="context_length_exceeded", param=param
            )
        if (refused := template_refusal(model, body.get("messages") or [])) is not None:
            return await reply.error(400, refused)
        stops = body.get("stop") or []
        if (found := re.fullmatch(r"max-stop-(\d+)", model)) and len(stops) > int(found[1]):
            return await reply.error(400, f"stop: at most {found[1]} strings", param="stop")
        if found := re.fullmatch(r"slow-headers-([\d.]+)", model):
            await asyncio.sleep(float(found[1]))
        reply.torn = int(found[1]) if (found := re.fullmatch(r"torn-(\d+)", model)) else 0
        reply.ping = model == "ping"
        answers = self._answers(model, body)
        whole = Shape(chat, model, body, answers)
        await (stream(whole, reply) if body.get("stream") else once(whole, reply))

    def _answers(self, model: str, body: dict[str, Any]) -> list[Answer]:
        prompts = body.get("prompt") if isinstance(body.get("prompt"), list) else [body.get("prompt")]
        if prompts and isinstance(prompts[0], int):
            prompts = [prompts]  # one prompt, as token ids
        return [
            cut(self._plan(model, body, prompt, choice), body)
            for prompt in prompts or [""]
            for choice in range(body.get("n") or 1)
        ]

    def _plan(self, model: str, body: dict[str, Any], prompt: Any, choice: int) -> Answer:
        """The behaviour that a model name asks for."""
        if model in self.scripts:
            return Answer(list(self.scripts[model]))
        if found := re.fullmatch(r"(?:slow-)?stream-(\d+)(?:-(\d+))?", model):
            return Answer([f"{i} " for i in range(int(found[1]))], gap_s=int(found[2] or 0) / 1000)
        if found := re.fullmatch(r"(die|reset|close|error)-(?:mid-stream|without-done)-(\d+)", model):
            end = {"close": "silent"}.get(found[1], found[1])
            return Answer([f"{i} " for i in range(int(found[2]))], gap_s=0.005, end=end)  # type: ignore[arg-type]
        if found := re.fullmatch(r"huge-(\d+)", model):
            return Answer(["x" * int(found[1])])
        if model == "tools" and (body.get("messages") or [{}])[-1].get("role") != "tool":
            offered = body.get("tools") or [{"function": {"name": "get_weather"}}]
            calls = [{"id": f"call_{i}", "name": tool["function"]["name"]} for i, tool in enumerate(offered)]
            return Answer([], tools=calls, finish="tool_calls")
        found = re.fullmatch(r"slow-first-([\d.]+)", model)
        text = prompt_text(body, prompt) + (f" ({choice})" if choice else "")
        return Answer(tokens(text), first_s=float(found[1]) if found else 0.0, limited=True)


@dataclass
class Shape:
    """The JSON of an answer, whole or streamed, for one of the two generation paths."""

    chat: bool
    model: str
    body: dict[str, Any]
    answers: list[Answer]
    created: int = field(default_factory=lambda: int(time.time()))

    def envelope(self, choices: list[dict[str, Any]], *, chunk: bool) -> dict[str, Any]:
        kind = ("chat.completion.chunk" if chunk else "chat.completion") if self.chat else "text_completion"
        name = ("chatcmpl-" if self.chat else "cmpl-") + "fake0001"
        return {"id": name, "object": kind, "created": self.created, "model": self.model, "choices": choices}

    @property
    def usage(self) -> dict[str, Any]:
        read = len(tokens(json.dumps(self.body.get("messages") or self.body.get("prompt"))))
        written = sum(len(answer.texts) + 6 * len(answer.tools) for answer in self.answers)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    def logprobs(self, texts: list[str], at: int = 0) -> dict[str, Any] | None:
        """Each token got exactly -0.5; `at` is where the first one starts in the text."""
        if not self.body.get("logprobs"):
            return None
        if self.chat:
            one = [{"token": t, "logprob": -0.5, "bytes": list(t.encode())} for t in texts]
            return {"content": [o | {"top_logprobs": [o] if self.body.get("top_logprobs") else []} for o in one]}
        offsets = [at + sum(map(len, texts[:i])) for i in range(len(texts))]
        top = [{t: -0.5} for t in texts]
        return {"tokens": texts, "token_logprobs": [-0.5] * len(texts), "top_logprobs": top, "text_offset": offsets}

    def choice(self, index: int, answer: Answer) -> dict[str, Any]:
        tail = {"finish_reason": answer.finish, "stop_reason": answer.stop_reason}
        head = {"index": index, "logprobs": self.logprobs(answer.texts)}
        if not self.chat:
            return head | {"text": answer.text} | tail
        message: dict[str, Any] = {"role": "assistant", "content": answer.text if not answer.tools else None}
        if answer.tools:
            message["tool_calls"] = [
                {"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": "".join(ARGUMENTS)}}
                for c in answer.tools
            ]
        return head | {"message": message} | tail

    def piece(self, index: int, text: str, at: int) -> dict[str, Any]:
        part = {"delta": {"content": text}} if self.chat else {"text": text}
        choice = {"index": index, **part, "logprobs": self.logprobs([text], at), "finish_reason": None}
        return self.envelope([choice], chunk=True)

    def delta(self, index: int, delta: dict[str, Any]) -> dict[str, Any]:
        return self.envelope([{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}], chunk=True)

    def ending(self, index: int, answer: Answer) -> dict[str, Any]:
        part: dict[str, Any] = {"delta": {}} if self.chat else {"text": ""}
        tail = {"logprobs": None, "finish_reason": answer.finish, "stop_reason": answer.stop_reason}
        return self.envelope([{"index": index, **part, **tail}], chunk=True)


ARGUMENTS = ('{"city"', ': "Par', 'is"', "}")


async def once(shape: Shape, reply: Reply) -> None:
    """The whole answer in one body; the pauses of a stream come before its headers."""
    first = shape.answers[0]
    pause = first.first_s + first.gap_s * max(0, len(first.texts) - 1)
    await asyncio.sleep(pause + sum(p for a in shape.answers for p in a.pieces if not isinstance(p, str)))
    if first.end == "error":
        return await reply.error(500, "made up error inside generation")
    choices = [shape.choice(i, answer) for i, answer in enumerate(shape.answers)]
    body = json.dumps(shape.envelope(choices, chunk=False) | {"usage": shape.usage}).encode()
    if first.end in ("die", "reset"):
        await reply.write(reply.head(200, "application/json", len(body)) + body[: len(body) // 2])
        await asyncio.sleep(0.05)
        reply.hang_up(reset=first.end == "reset")
    await reply.whole(200, body)
    reply.record.sent = len(first.texts)


async def stream(shape: Shape, reply: Reply) -> None:
    """The answer as events; the choices take turns."""
    await reply.open()
    first = shape.answers[0]
    await asyncio.sleep(first.first_s)
    if shape.chat:
        for index, answer in enumerate(shape.answers):
            await reply.event(shape.delta(index, {"role": "assistant", "content": None if answer.tools else ""}))
            await stream_tools(shape, index, answer, reply)
    at = [0] * len(shape.answers)
    for turn in range(max(len(answer.pieces) for answer in shape.answers)):
        for index, answer in enumerate(shape.answers):
            if turn >= len(answer.pieces):
                continue
            piece = answer.pieces[turn]
            if not isinstance(piece, str):
                await asyncio.sleep(piece)
                continue
            if turn and not index:
                await asyncio.sleep(first.gap_s)
            reply.record.window, reply.record.sent = "stream", reply.record.sent + 1
            await reply.event(shape.piece(index, piece, at[index]))
            at[index] += len(piece)
    if first.end in ("die", "reset"):
        await asyncio.sleep(0.05 if first.end == "reset" else 0)  # a reset overtakes what is still on its way
        reply.hang_up(reset=first.end == "reset")
    if first.end == "error":
        await reply.event({"error": {"message": "made up error", "type": "server_error", "param": None, "code": 500}})
    if first.end == "clean":
        for index, answer in enumerate(shape.answers):
            await reply.event(shape.ending(index, answer))
        if (shape.body.get("stream_options") or {}).get("include_usage"):
            await reply.event(shape.envelope([], chunk=True) | {"usage": shape.usage})
    if first.end != "silent":
        await reply.event("[DONE]")
    await reply.close()


async def stream_tools(shape: Shape, index: int, answer: Answer, reply: Reply) -> None:
    for number, call in enumerate(answer.tools):
        function = {"name": call["name"], "arguments": ""}
        head = {"index": number, "id": call["id"], "type": "function", "function": function}
        await reply.event(shape.delta(index, {"tool_calls": [head]}))
        for part in ARGUMENTS:
            reply.record.window, reply.record.sent = "stream", reply.record.sent + 1
            await reply.event(shape.delta(index, {"tool_calls": [{"index": number, "function": {"arguments": part}}]}))


def prompt_size(body: dict[str, Any]) -> int:
    """Characters of all the text that the model would read."""
    if "messages" not in body:
        return len(str(body.get("prompt", "")))
    contents = [m.get("content") or "" for m in body["messages"]]
    return sum(len(c) if isinstance(c, str) else sum(len(p.get("text", "")) for p in c) for c in contents)


def embeddings(body: dict[str, Any]) -> dict[str, Any]:
    """Four numbers per input; base64 where asked, as openai-python does."""
    given = body.get("input")
    texts = given if isinstance(given, list) else [given]
    vectors: list[Any] = [[float(len(str(text))), 0.5, -0.5, 1.0] for text in texts]
    if body.get("encoding_format") == "base64":
        vectors = [base64.b64encode(array.array("f", vector).tobytes()).decode() for vector in vectors]
    data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
    usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
    return {"object": "list", "data": data, "model": body.get("model"), "usage": usage}


async def read_request(reader: asyncio.StreamReader, connection: int) -> Recorded | None:
    """One request off the socket, its body with either framing; None when the client has gone."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ", 2)
        headers = [(name, value.strip()) for name, value in (line.split(":", 1) for line in head[1:] if line)]
        named = {name.lower(): value for name, value in headers}
        if named.get("transfer-encoding", "").lower() != "chunked":
            body = await reader.readexactly(int(named.get("content-length", 0)))
            return Recorded(method, path, headers, body, connection)
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
        return Recorded(method, path, headers, body, connection)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=9000)
    with FakeUpstream(parser.parse_args().port) as upstream:
        print(f"fake upstream on {upstream.url}", flush=True)
        seen = 0
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                record = upstream.wait_request(seen, timeout=10**8)
                print(record.method, record.path, record.model, flush=True)
                seen += 1


if __name__ == "__main__":
    main()
