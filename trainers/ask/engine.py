"""Many questions to an engine: any OpenAI-compatible one, several at a time, at a rate, with every answer kept.

An answer is on disk, and synced, before it counts: a run that dies asks again only what was not answered.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from trainers.ask.host import Again, EngineError, Host, refusal
from trainers.ask.journal import Journal, JournalError, Row

__all__ = ["Answer", "Answers", "Engine", "EngineError", "Messages", "ask_all", "ask_bodies", "key_of"]

Messages = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Engine:
    """Where an engine is and how it is asked. `backoff_s` is the wait before the first retry; it doubles."""

    url: str
    model: str
    key_env: str = ""
    temperature: float = 0.9
    max_tokens: int = 2048
    concurrency: int = 8
    requests_per_minute: float = 0.0
    retries: int = 5
    timeout_s: float = 120.0
    backoff_s: float = 1.0

    @property
    def base(self) -> str:
        """The URL, /v1 included."""
        return self.url.rstrip("/").removesuffix("/v1") + "/v1"

    @property
    def endpoint(self) -> str:
        """The URL of chat completions."""
        return self.base + "/chat/completions"

    def endpoint_of(self, body: Mapping[str, Any]) -> str:
        """Chat completions for `messages`, completions for a `prompt`."""
        return self.base + "/completions" if "prompt" in body else self.endpoint

    def body(self, messages: Messages) -> dict[str, Any]:
        """The request's JSON body for one question."""
        return {"model": self.model, "messages": messages, "temperature": self.temperature,
                "max_tokens": self.max_tokens}  # fmt: skip

    def headers(self) -> dict[str, str]:
        """Raises EngineError where the variable that should hold the key is empty."""
        if not self.key_env:
            return {}
        if not (key := os.environ.get(self.key_env)):
            raise EngineError(f"the environment has no {self.key_env}, which should hold the key of {self.url}")
        return {"Authorization": f"Bearer {key}"}


# ---------------------------------------------------------------- what is kept


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one question: a text, or the engine's refusal of the request (a 4xx of that question).

    `token_ids` and `logprobs` (nats, one a token) are there where the request asked for them and the engine gave them.
    `trace` is the id under which a Trimtab server keeps the request; "" from other engines.
    """

    text: str
    finish: str = "stop"
    refused: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    trace: str = ""


def key_of(body: Mapping[str, Any]) -> str:
    """A question's name on disk: the hash of the whole request, so another model or wording is another question."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class Answers(Journal[Answer]):
    """A file of answers, each under its question's key. Raises EngineError where it cannot be used."""

    def __init__(self, path: Path) -> None:
        try:
            super().__init__(path, _from_row, _to_row)
        except JournalError as error:
            raise EngineError(str(error)) from None


def _from_row(row: Row) -> tuple[str, Answer]:
    lists: Row = {name: tuple(row[name]) for name in ("token_ids", "logprobs") if name in row}
    key = str(row.pop("key"))
    return key, Answer(**(row | lists))


def _to_row(key: str, answer: Answer) -> Row:
    row = {"key": key, "text": answer.text, "finish": answer.finish, "refused": answer.refused}
    details = {"token_ids": list(answer.token_ids), "logprobs": list(answer.logprobs), "trace": answer.trace}
    return row | {name: value for name, value in details.items() if value}


# ---------------------------------------------------------------- asking


def ask_all(engine: Engine, questions: list[Messages], path: Path, what: str) -> list[Answer]:
    """An answer for each question, in their order; asked are only those that `path` does not hold yet.

    Raises:
        EngineError: the engine is away, refuses the key or the model, or refuses everything it is asked.
    """
    bodies = {key_of(body): body for body in map(engine.body, questions)}
    found = ask_bodies(engine, bodies, path, what)
    return [found[key_of(engine.body(question))] for question in questions]


def ask_bodies(engine: Engine, bodies: Mapping[str, Mapping[str, Any]], path: Path, what: str) -> dict[str, Answer]:
    """An answer for each request body, by its key; asked are only those whose key `path` does not hold yet.

    Equal bodies under two keys are two samples. Raises EngineError as `ask_all` does.
    """
    with Answers(path) as answers:
        todo = [(key, body) for key, body in bodies.items() if answers.get(key) is None]
        asking = _Asking(engine, answers, tqdm(total=len(bodies), initial=len(bodies) - len(todo), desc=what))
        try:
            if todo:
                asyncio.run(asking.run(iter(todo)))
        except ExceptionGroup as group:
            error = group.exceptions[0]
            if not isinstance(error, EngineError):
                raise error from None
            kept = f"{asking.bar.n} of {len(bodies)} answers are kept in {path}"
            raise EngineError(f"{error}; {kept}; run the same command again to resume") from None
        finally:
            asking.bar.close()
        return {key: answers[key] for key in bodies}


class _Asking:
    """One round of questions, and what came of them."""

    def __init__(self, engine: Engine, answers: Answers, bar: Any) -> None:
        self.engine, self.answers, self.bar = engine, answers, bar
        self.where = f"engine {engine.url}"
        per_minute, most = engine.requests_per_minute, engine.concurrency
        self.host = Host(self.where, most, per_minute, engine.retries, engine.backoff_s)
        self.answered = 0
        # Journal at the end: should all be refused, none was a matter of its question.
        self.refused: dict[str, Answer] = {}

    async def run(self, left: Iterator[tuple[str, Mapping[str, Any]]]) -> None:
        limits = httpx.Limits(max_connections=self.host.most)
        headers = self.engine.headers()
        async with (
            httpx.AsyncClient(timeout=self.engine.timeout_s, headers=headers, limits=limits) as client,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(self.host.most):
                group.create_task(self._worker(client, left))
        for key, answer in self.refused.items():
            self.answers.append(key, answer)

    async def _worker(self, client: httpx.AsyncClient, left: Iterator[tuple[str, Mapping[str, Any]]]) -> None:
        for key, body in left:
            answer = await self.host.ask(lambda body=body: self._once(client, body))  # type: ignore[misc]
            if answer.refused:
                self.refused[key] = answer
                if not self.answered and len(self.refused) >= 5:
                    raise EngineError(f"{self.where} refuses every request: {answer.refused}")
                continue
            self.answers.append(key, answer)
            self.answered += 1
            self.bar.update()

    async def _once(self, client: httpx.AsyncClient, body: Mapping[str, Any]) -> Answer:
        engine, endpoint = self.engine, self.engine.endpoint_of(body)
        reply = await client.post(endpoint, json=body)
        if reply.status_code != 200:
            return Answer("", "refused", refusal(reply, self.where, endpoint, engine.model, engine.key_env))
        if (answer := _read(reply)) is None:
            raise Again("answered with no chat completion")
        return answer


def _read(reply: httpx.Response) -> Answer | None:
    """The answer; one without content (null: a model that thought until its tokens were gone) has no text."""
    try:
        choice = reply.json()["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        finish, told = choice.get("finish_reason"), choice.get("logprobs") or {}
        logprobs = told.get("token_logprobs") or [token["logprob"] for token in told.get("content") or ()]
        details = tuple(choice.get("token_ids") or ()), tuple(map(float, logprobs))
        trace = reply.headers.get("x-trimtab-trace", "")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None
    return Answer(text or "", str(finish or "stop"), "", *details, trace) if isinstance(text, str | None) else None
