"""Many questions to an engine: any OpenAI-compatible one, several at a time, at a rate, with every answer kept.

An answer is on disk, and synced, before it counts: a run that dies asks again only what was not answered.
"""

from __future__ import annotations

import asyncio
import email.utils
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
from tqdm import tqdm

Messages = list[dict[str, str]]
_AGAIN = (408, 409, 425, 429)  # and every 5xx
_LONGEST_WAIT = 600.0  # seconds; an engine that asks for more rest than this is for another day


class EngineError(Exception):
    """The engine cannot be asked; the message says what to do. What it has answered so far is on disk."""


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
    def endpoint(self) -> str:
        return self.url.rstrip("/").removesuffix("/v1") + "/v1/chat/completions"

    def body(self, messages: Messages) -> dict[str, Any]:
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
    """What came back for one question: a text, or the engine's refusal of the request (a 4xx of that question)."""

    text: str
    finish: str = "stop"
    refused: str = ""


def key_of(body: Mapping[str, Any]) -> str:
    """A question's name on disk: the hash of the whole request, so another model or wording is another question."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class Answers:
    """Owns a JSONL of answers; what `keep` has returned from survives a kill -9 and a loss of power."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise EngineError(f"{path}: another run writes it") from None
        try:
            self._said = dict(self._read())
        except EngineError:
            self._file.close()
            raise

    def _read(self) -> Iterator[tuple[str, Answer]]:
        """What is there, and the end of the file set after the last whole line: a kill may have cut one short."""
        self._file.seek(0)
        whole = 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
                yield row.pop("key"), Answer(**row)
            except (ValueError, KeyError, TypeError, AttributeError):
                raise EngineError(f"{self.path}:{number}: no kept answer; repair or remove that line") from None
            whole += len(line)
        self._file.truncate(whole)

    def keep(self, key: str, answer: Answer) -> None:
        row = {"key": key, "text": answer.text, "finish": answer.finish, "refused": answer.refused}
        self._file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._said[key] = answer

    def get(self, key: str) -> Answer | None:
        return self._said.get(key)

    def __getitem__(self, key: str) -> Answer:
        return self._said[key]

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()


# ---------------------------------------------------------------- asking


def ask_all(engine: Engine, questions: list[Messages], path: Path, what: str) -> list[Answer]:
    """An answer for each question, in their order; asked are only those that `path` does not hold yet.

    Raises:
        EngineError: the engine is away, refuses the key or the model, or refuses everything it is asked.
    """
    bodies = {key_of(body): body for body in map(engine.body, questions)}
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
            raise EngineError(f"{error}; {kept}, and the same command goes on from there") from None
        finally:
            asking.bar.close()
        return [answers[key_of(engine.body(question))] for question in questions]


class _Asking:
    """One round of questions: how fast they may go, and what came of them."""

    def __init__(self, engine: Engine, answers: Answers, bar: Any) -> None:
        self.engine, self.answers, self.bar = engine, answers, bar
        self.where = f"engine {engine.url}"
        self.next_at = self.rest_until = 0.0  # `time.monotonic()`
        self.answered = 0
        self.refused: dict[
            str, Answer
        ] = {}  # kept at the end: should all be refused, none was a matter of its question

    async def run(self, left: Iterator[tuple[str, Mapping[str, Any]]]) -> None:
        limits = httpx.Limits(max_connections=self.engine.concurrency)
        headers = self.engine.headers()
        async with (
            httpx.AsyncClient(timeout=self.engine.timeout_s, headers=headers, limits=limits) as client,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(max(1, self.engine.concurrency)):
                group.create_task(self._worker(client, left))
        for key, answer in self.refused.items():
            self.answers.keep(key, answer)

    async def _worker(self, client: httpx.AsyncClient, left: Iterator[tuple[str, Mapping[str, Any]]]) -> None:
        for key, body in left:
            answer = await self._ask(client, body)
            if answer.refused:
                self.refused[key] = answer
                if not self.answered and len(self.refused) >= 5:
                    raise EngineError(f"{self.where} refuses whatever it is asked: {answer.refused}")
                continue
            self.answers.keep(key, answer)
            self.answered += 1
            self.bar.update()

    async def _ask(self, client: httpx.AsyncClient, body: Mapping[str, Any]) -> Answer:
        """The answer to one question, after as many attempts as it takes and the engine is worth."""
        wait = self.engine.backoff_s
        for attempt in range(self.engine.retries + 1):
            if attempt:
                await asyncio.sleep(min(wait, _LONGEST_WAIT))
                wait *= 2
            await self._turn()
            try:
                reply = await client.post(self.engine.endpoint, json=body)
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise EngineError(f"{self.where}: {error}") from None
            except httpx.TransportError as error:
                why = f"{type(error).__name__} {error}".strip()
                if isinstance(error, httpx.ConnectError) and not self.answered:
                    raise EngineError(f"{self.where} cannot be reached: {error} (is it running?)") from None
                continue
            if reply.status_code == 200 and (answer := _read(reply)) is not None:
                return answer
            if reply.status_code == 200:
                why = "answered with no chat completion"
            elif reply.status_code < 500 and reply.status_code not in _AGAIN:
                return self._refusal(reply)
            else:
                why = f"answered {reply.status_code}: {_said(reply)}"
                self._rest(reply, why)
        raise EngineError(f"{self.where}: {why} ({self.engine.retries + 1} attempts)")

    async def _turn(self) -> None:
        """Until the next request may go, by `requests_per_minute` and by what the engine asked for."""
        now = time.monotonic()
        at = max(self.next_at, now)
        self.next_at = at + (60 / self.engine.requests_per_minute if self.engine.requests_per_minute else 0.0)
        await asyncio.sleep(at - now)
        if (wait := self.rest_until - time.monotonic()) > 0:
            await asyncio.sleep(wait)

    def _rest(self, reply: httpx.Response, why: str) -> None:
        """Heed Retry-After, for every request: it is the engine that is tired, not the question."""
        if (wait := _retry_after(reply)) is None:
            return
        if wait > _LONGEST_WAIT:
            raise EngineError(f"{self.where} {why}, and asks for {wait:.0f} s of rest")
        self.rest_until = max(self.rest_until, time.monotonic() + wait)

    def _refusal(self, reply: httpx.Response) -> Answer:
        """The refusal of one question; EngineError where it would be the same for every other."""
        why = f"{reply.status_code}: {_said(reply)}"
        if reply.status_code in (401, 403):
            key = f"the key in {self.engine.key_env}" if self.engine.key_env else "a request without a key"
            raise EngineError(f"{self.where} refuses {key}: {why}")
        if reply.status_code in (404, 405):
            raise EngineError(f"{self.where} has no {self.engine.endpoint}, or no model {self.engine.model!r}: {why}")
        return Answer("", "refused", why)


def _read(reply: httpx.Response) -> Answer | None:
    try:
        choice = reply.json()["choices"][0]
        text, finish = choice["message"]["content"], choice.get("finish_reason")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None
    return Answer(text, str(finish or "stop")) if isinstance(text, str) else None


def _said(reply: httpx.Response) -> str:
    """What an engine says of an error, in a line."""
    try:
        error = reply.json()["error"]
        text = error["message"] if isinstance(error, dict) else error
    except (ValueError, KeyError, TypeError):
        text = reply.text
    return " ".join(str(text).split())[:200] or "no reason given"


def _retry_after(reply: httpx.Response) -> float | None:
    """Seconds, from either form of the header (RFC 9110, 10.2.3)."""
    value = reply.headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
