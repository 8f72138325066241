"""Asking: every question of every arm, as many times as wanted, each answer on disk before it counts.

Arms take turns, question by question in a seeded order, so that whatever else the machines do falls on all of them; or
in blocks of questions, where an engine keeps only one prefix, which each turn would throw away. How many requests run
at a time is a matter of a host, not of an arm. A conversation that was cut off starts again from its first turn.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import httpx

from trainers.ask.host import EngineError, GivenUp, Host, run_all
from trainers.ask.journal import Journal, Row
from trainers.evaluation.arms.arm import Arm
from trainers.evaluation.arms.conversation import Speaker
from trainers.evaluation.core import Answer, Question

Turns = Literal["auto", "questions", "blocks"]
BLOCK = 20  # questions that an arm has in a row: enough for a prefix cache to pay, few enough for a run that is cut off
_PATIENCE = 5  # questions in a row that come to nothing, after which an arm is given up


@dataclass(frozen=True, slots=True)
class Manner:
    """How hosts are asked. `concurrency` and `requests_per_minute` are of one host, `timeout_s` of its silence."""

    concurrency: int = 8
    requests_per_minute: float = 0.0
    retries: int = 5
    timeout_s: float = 120.0
    backoff_s: float = 1.0
    stream: bool = True
    letters: bool = True  # ask for log-probabilities where a question has choices


@dataclass(frozen=True, slots=True)
class Job:
    """One sample to ask for: an arm, a question, the sample's number and its seed."""

    arm: str
    question: Question
    sample: int
    seed: int

    @property
    def key(self) -> str:
        """The sample's name in answers.jsonl."""
        return key_of(self.arm, self.question.id, self.sample)


@dataclass(slots=True)
class Asked:
    """What came of it: `stopped` says why an arm was given up, `notes` what is not as one would think."""

    answers: dict[str, list[Answer]]
    stopped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    turned_away: int = 0  # requests that a host was too busy for; each was asked again


def key_of(arm: str, question: str, sample: int) -> str:
    """The name under which a sample is kept."""
    return f"{arm}\n{question}\n{sample}"


def read_answer(row: Row) -> tuple[str, Answer]:
    """(key, answer) of a row of answers.jsonl."""
    row |= {"texts": tuple(row["texts"]), "principles": tuple(row["principles"])}
    answer = Answer(**row)
    return key_of(answer.arm, answer.question, answer.sample), answer


def write_answer(key: str, answer: Answer) -> Row:
    """The row of answers.jsonl of an answer."""
    return asdict(answer)


def jobs(
    arms: Sequence[Arm], questions: Sequence[Question], samples: int, seed: int, turns: Turns = "questions"
) -> list[Job]:
    """All that is to be asked, in the order of asking. A sample of a question has one seed, the same for every arm.

    `turns`: after how much another arm's turn comes; "auto" is blocks where an arm's engine keeps one prefix only.
    """
    size = BLOCK if turns == "blocks" or (turns == "auto" and any(arm.serial for arm in arms)) else 1
    order = random.Random(f"order {seed}")  # noqa: S311
    pairs = [(question, sample) for question in questions for sample in range(samples)]
    order.shuffle(pairs)
    out = []
    for start in range(0, len(pairs), size):
        for arm in order.sample(list(arms), len(arms)):
            out += [
                Job(arm.name, each, sample, _seed(seed, each, sample)) for each, sample in pairs[start : start + size]
            ]
    return out


def _seed(seed: int, question: Question, sample: int) -> int:
    text = f"{seed}\n{question.id}\n{sample}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big") >> 1  # engines take 31 bits


def ask_arms(
    arms: Sequence[Arm], todo: Sequence[Job], kept: Journal[Answer], manner: Manner, bar: Any,
    early: Callable[[Sequence[Answer], float], None] = lambda some, seconds: None,
) -> Asked:  # fmt: skip
    """Ask what `kept` does not hold yet. `early` hears once of the first answers, and how many seconds they took.

    Raises OSError where an answer cannot be written; an arm that cannot be asked is in what is returned.
    """
    left = [job for job in todo if kept.get(job.key) is None]
    asking = _Asking(arms, left, kept, manner, bar, early)
    if left:
        run_all(asking.run())
    done = {arm.name: [a for job in todo if job.arm == arm.name and (a := asking.found(job))] for arm in arms}
    states = asking.states.values()
    stopped = {state.arm.name: state.stopped for state in states if state.stopped}
    notes = [note for state in states for note in state.speaker.notes]
    return Asked(done, stopped, notes, sum(host.turned_away for host in asking.hosts.values()))


# ---------------------------------------------------------------- one run


@dataclass(slots=True)
class _State:
    """An arm on its way. `answered` counts former runs' answers too; `probing`: a question of it is under way."""

    speaker: Speaker
    answered: int = 0
    probing: bool = False
    stopped: str = ""
    in_a_row: int = 0
    held: dict[str, Answer] = field(default_factory=dict)  # refused before anything was answered

    @property
    def arm(self) -> Arm:
        return self.speaker.arm


class _Asking:
    def __init__(
        self, arms: Sequence[Arm], left: Sequence[Job], kept: Journal[Answer], manner: Manner, bar: Any,
        early: Callable[[Sequence[Answer], float], None],
    ) -> None:  # fmt: skip
        self.kept, self.manner, self.bar, self.early = kept, manner, bar, early
        self.hosts = {
            arm.host: Host(
                arm.host, manner.concurrency, manner.requests_per_minute, manner.retries, manner.backoff_s
            )
            for arm in arms
        }  # fmt: skip
        self.states = {
            arm.name: _State(Speaker(arm, self.hosts[arm.host], manner.letters, manner.stream)) for arm in arms
        }
        for answer in kept.known.values():
            self.states[answer.arm].answered += answer.status == "ok"
        self.left: dict[str, deque[Job]] = {host: deque() for host in self.hosts}
        for job in left:
            self.left[self.states[job.arm].arm.host].append(job)
        self.failed: dict[str, Answer] = {}
        self.first: list[Answer] = []  # of this run, as many as an estimate is made of
        self.started = 0.0
        self.early_at = min(len(left) - 1, 3 * len(arms))
        self.changed = asyncio.Condition()

    def found(self, job: Job) -> Answer | None:
        return self.kept.get(job.key) or self.failed.get(job.key)

    async def run(self) -> None:
        self.started = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for name in self.hosts:
                group.create_task(self._host(name))
        for state in self.states.values():
            self._release(state)

    async def _host(self, name: str) -> None:
        host = self.hosts[name]
        limits = httpx.Limits(max_connections=host.most)
        async with (
            httpx.AsyncClient(timeout=self.manner.timeout_s, limits=limits) as client,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(host.most):
                group.create_task(self._worker(client, self.left[name]))

    async def _worker(self, client: httpx.AsyncClient, left: deque[Job]) -> None:
        while (job := await self._next(left)) is not None:
            state = self.states[job.arm]
            await self._do(state, client, job)
            async with self.changed:
                state.probing = False
                self.changed.notify_all()

    async def _next(self, left: deque[Job]) -> Job | None:
        """The next job whose arm may be asked: an arm's questions go one at a time until it has answered one."""
        async with self.changed:
            while left:
                for index, job in enumerate(left):
                    state = self.states[job.arm]
                    if state.stopped or state.speaker.proven or not state.probing:
                        del left[index]
                        if not state.stopped:
                            state.probing = True
                            return job
                        break
                else:
                    await self.changed.wait()
        return None

    async def _do(self, state: _State, client: httpx.AsyncClient, job: Job) -> None:
        try:
            answer = await state.speaker.converse(client, job.question, job.sample, job.seed)
        except GivenUp as error:
            self.failed[job.key] = Answer(job.arm, job.question.id, job.sample, job.seed, "failed", error=str(error))
            state.in_a_row += 1
            if state.in_a_row >= _PATIENCE:
                self._stop(state, f"{_PATIENCE} questions in a row got no answer; the last: {error}")
            return
        except EngineError as error:
            self._stop(state, str(error))
            return
        state.in_a_row = 0
        if answer.status == "refused" and not state.answered:
            state.held[job.key] = answer
            if len(state.held) >= _PATIENCE:
                self._stop(state, f"{state.arm.url} refuses every request: {answer.error}")
            return
        if answer.status == "ok":
            state.answered += 1
            self._release(state)
        self._keep(job.key, answer)

    def _keep(self, key: str, answer: Answer) -> None:
        self.kept.append(key, answer)
        self.bar.update()
        if len(self.first) < self.early_at:
            self.first.append(answer)
            if len(self.first) == self.early_at:
                self.early(self.first, time.monotonic() - self.started)

    def _release(self, state: _State) -> None:
        """Refusals count once something was answered, or at the end: they were a matter of the questions."""
        if not state.stopped:
            for key, answer in state.held.items():
                self._keep(key, answer)
        state.held.clear()

    def _stop(self, state: _State, why: str) -> None:
        if not state.stopped:
            state.stopped = why
            self.bar.write(f"arm {state.arm.name!r} is given up: {why}")
