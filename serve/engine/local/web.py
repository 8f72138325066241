"""OpenAI's chats and completions by a small model on a CPU, for one machine and a few people: answers take turns."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from serve.engine.local import answer, parameters
from serve.engine.local.conversion import converted, opened
from serve.engine.local.generation import Piece, generate, score
from serve.engine.local.parameters import Asked, Refused
from serve.engine.local.sampling import Sampling
from serve.engine.local.scheduler import Scheduler
from serve.engine.local.session import Session
from serve.engine.local.template import Template, Unrenderable
from serve.gguf import context_length

_SLOTS = 4


class Engine:
    """One model: its session, its vocabulary, and the turns of its answers."""

    def __init__(self, path: Path, name: str, threads: int | None) -> None:
        source = opened(path)
        self.name, self.template, self.tokenizer = name, Template(source.meta), source.tokenizer
        self.context = context_length(source.meta) or 2048
        self.ends, self._bos = source.ends, source.bos
        self.session = Session(converted(source, lambda line: print(line, flush=True)), _SLOTS, threads)
        self.scheduler = Scheduler()

    def spell(self, token: int) -> str:
        """A token's text; "" for a special one's."""
        return str(self.tokenizer.decode([token], skip_special_tokens=False))

    def ids(self, prompt: str | Sequence[int]) -> list[int]:
        """A prompt's tokens. Raises Refused where the context has no room for an answer to it."""
        if isinstance(prompt, str):
            ids = list(self.tokenizer.encode(prompt, add_special_tokens=False).ids)
            ids = [self._bos, *ids] if self._bos is not None and ids[:1] != [self._bos] else ids
        else:
            ids = list(prompt)
            if max(ids) >= self.tokenizer.get_vocab_size():
                raise Refused("prompt has a token id beyond the vocabulary", "prompt")
        if len(ids) >= self.context:
            raise Refused(
                f"This model's maximum context length is {self.context} tokens. However, the prompt has {len(ids)}.",
                "messages", "context_length_exceeded",
            )  # fmt: skip
        return ids

    def pieces(self, ids: Sequence[int], sampling: Sampling, index: int) -> AsyncIterator[Piece]:
        """The pieces of one answer."""
        seed = None if sampling.seed is None else sampling.seed + index
        most = min(sampling.max_tokens, self.context - len(ids))
        it = replace(sampling, seed=seed, max_tokens=most)
        return self.scheduler.run(generate(self.session, self.tokenizer, ids, it, self.ends))


def application(engine: Engine, temperature: float = 1.0) -> Starlette:
    """The routes; `temperature` is for requests that name none."""

    async def chats(request: Request) -> Response:
        asked = parameters.chat({"temperature": temperature, **await _read(request)})
        ids = engine.ids(engine.template.render(asked.messages))
        if asked.stream:
            return _events(_stream(engine, asked, ids, "chat.completion"))
        pieces = await asyncio.gather(*(_whole(engine, ids, asked.sampling, index) for index in range(asked.n)))
        choices = [answer.chat_choice(i, piece, engine.spell, streamed=False) for i, piece in enumerate(pieces)]
        told = answer.usage([piece.counts for piece in pieces])
        return JSONResponse(answer.head("chat.completion", engine.name) | {"choices": choices, "usage": told})

    async def completions(request: Request) -> Response:
        asked = parameters.completion({"temperature": temperature, **await _read(request)})
        prompts = [engine.ids(prompt) for prompt in asked.prompts]
        if asked.stream:
            return _events(_stream(engine, asked, prompts[0], "text_completion"))
        jobs = [(ids, index) for ids in prompts for index in range(asked.n)]
        pieces = await asyncio.gather(*(_completed(engine, asked, ids, index) for ids, index in jobs))
        choices = [answer.text_choice(i, piece, engine.spell) for i, piece in enumerate(pieces)]
        told = answer.usage([piece.counts for piece in pieces])
        told["prompt_tokens"] = sum(map(len, prompts))
        told["total_tokens"] = told["prompt_tokens"] + told["completion_tokens"]
        return JSONResponse(answer.head("text_completion", engine.name) | {"choices": choices, "usage": told})

    async def models(request: Request) -> Response:
        card = {"id": engine.name, "object": "model", "owned_by": "trimtab", "max_model_len": engine.context}
        return JSONResponse({"object": "list", "data": [card]})

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/v1/models", models),
            Route("/v1/chat/completions", chats, methods=["POST"]),
            Route("/v1/completions", completions, methods=["POST"]),
        ],
        exception_handlers={Refused: _refused, Unrenderable: _refused},
    )


async def _read(request: Request) -> dict[str, Any]:
    try:
        it = json.loads(await request.body())
    except ValueError:
        raise Refused("the body is not JSON", code="invalid_json") from None
    if not isinstance(it, dict):
        raise Refused("the body must be a JSON object", code="invalid_json")
    return it


async def _whole(engine: Engine, ids: Sequence[int], sampling: Sampling, index: int) -> Piece:
    async with aclosing(engine.pieces(ids, sampling, index)) as pieces:  # type: ignore[type-var]
        parts = [piece async for piece in pieces]
    text, tokens = "".join(part.text for part in parts), tuple(told for part in parts for told in part.tokens)
    return Piece(text, tokens, parts[-1].finish, parts[-1].counts)


async def _completed(engine: Engine, asked: Asked, ids: Sequence[int], index: int) -> Piece:
    """One completion, after its prompt where that is asked back."""
    it = asked.sampling
    new = await _whole(engine, ids, it, index) if it.max_tokens else Piece("", (), "length", (len(ids), 0, 0))
    if not asked.echo:
        return new
    tokens = new.tokens
    if it.logprobs is not None:
        (told,) = await engine.scheduler.result(score(engine.session, ids, it.logprobs))
        tokens = (*told, *tokens)
    return Piece(
        engine.tokenizer.decode(list(ids), skip_special_tokens=False) + new.text, tokens, new.finish, new.counts
    )


async def _stream(engine: Engine, asked: Asked, ids: Sequence[int], kind: str) -> AsyncIterator[bytes]:
    """The events of all answers, as they come."""
    head = answer.head(f"{kind}.chunk" if kind.startswith("chat") else kind, engine.name)
    merged: asyncio.Queue[tuple[int, Piece | Exception]] = asyncio.Queue()

    async def follow(index: int) -> None:
        try:
            async with aclosing(engine.pieces(ids, asked.sampling, index)) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    merged.put_nowait((index, piece))
        except Exception as error:  # noqa: BLE001 - raised below, where the response is
            merged.put_nowait((index, error))

    started, lengths, counts = set[int](), dict[int, int](), list[tuple[int, int, int]]()
    async with asyncio.TaskGroup() as tasks:
        followers = [tasks.create_task(follow(index)) for index in range(asked.n)]
        try:
            while len(counts) < asked.n:
                index, piece = await merged.get()
                if isinstance(piece, Exception):
                    raise piece
                if kind.startswith("chat"):
                    choice = answer.chat_choice(index, piece, engine.spell, streamed=True, first=index not in started)
                else:
                    choice = answer.text_choice(index, piece, engine.spell, lengths.get(index, 0))
                started.add(index)
                lengths[index] = lengths.get(index, 0) + len(piece.text)
                if piece.finish:
                    counts.append(piece.counts)
                if piece.text or piece.finish:
                    yield _event(head | {"choices": [choice]})
        finally:
            for task in followers:
                task.cancel()
    if asked.usage:
        yield _event(head | {"choices": [], "usage": answer.usage(counts)})
    yield b"data: [DONE]\n\n"


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


def _events(events: AsyncIterator[bytes]) -> Response:
    return StreamingResponse(events, media_type="text/event-stream")


async def _refused(request: Request, error: Exception) -> Response:
    param, code = (error.param, error.code) if isinstance(error, Refused) else ("messages", "no_chat_template")
    told = {"message": str(error), "type": "invalid_request_error", "param": param or None, "code": code}
    return JSONResponse({"error": told}, 400)
