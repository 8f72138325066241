"""Asking a rewriter: one call for all who ask the same, what it said remembered, a rest after failures.

key → cache? → in flight? → breaker? → ask → candidates → gate → cache
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from prompt_opt.core import Skip
from prompt_opt.gate import opinion
from prompt_opt.gate.language import lexicon, size
from prompt_opt.gate.rules import Limits, Similarity
from prompt_opt.gate.sense import overlap
from prompt_opt.gate.verdict import Verdict, judge
from prompt_opt.rewriter.breaker import Breaker
from prompt_opt.rewriter.cache import RewriteCache, cache_key
from prompt_opt.rewriter.settings import Rewriter
from prompt_opt.rewriter.template import Candidate, Form, Turn

if TYPE_CHECKING:
    from prompt_opt.gate.scorer import Scorer

_EARLY_S = 0.002  # how early a timer may be


class Ask(Protocol):
    """One JSON call to an engine, in the engine's dialect and under its own name for the model."""

    async def __call__(self, engine: str, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The engine's answer to a body, as JSON. Raises what the transport raises."""
        ...


class PromptRefused(Exception):
    """The rewriter's engine refuses this prompt (a 400): that says nothing of its health."""


@dataclass(frozen=True, slots=True)
class Rewrite:
    """The best of what a rewriter offered, and the gate's verdict on it."""

    text: str
    verdict: Verdict
    offered: int = 1  # candidates
    cached: bool = False


class Rewriting:
    """One rewriter in one worker: its cache, its calls in flight and its breaker.

    A call belongs to everybody who waits for it. It is given up when the last of them leaves, but not when they are
    merely out of time: then it may run on to `limit_s`, and the next who asks finds the answer in the cache.
    """

    def __init__(
        self,
        rewriter: Rewriter,
        ask: Ask,
        *,
        cache: RewriteCache[Rewrite] | None = None,
        breaker: Breaker | None = None,
        limits: Limits | None = None,
        similarity: Similarity | None = None,
        additions: Scorer | None = None,
        judge_engine: str = "",
        limit_s: float = 10.0,
    ) -> None:
        """`additions` judges what a rewrite adds; so does, where it is named, the chat model on `judge_engine`."""
        self.rewriter, self.ask = rewriter, ask
        self._cache = RewriteCache[Rewrite]() if cache is None else cache
        self._breaker = Breaker() if breaker is None else breaker
        self._limits, self._similarity, self._limit = limits or Limits(), similarity, limit_s
        self._additions, self._judge_engine = additions, judge_engine
        self._flying: dict[str, _Call] = {}

    async def rewrite(
        self,
        prompt: str,
        form: Form,
        *,
        history: Sequence[Turn] = (),
        tenant: str = "",
        policy: str = "",
        deadline: float,
    ) -> Rewrite:
        """The rewrite of a prompt, judged.

        Args:
            policy: its digest.
            deadline: when the caller gives up (`time.monotonic()`): who is cancelled from then on was out of time, who
                is cancelled before has left.

        Raises:
            Skip: the circuit breaker is open after failures.
            TimeoutError: it took longer than `limit_s`.
            BadAnswer: it answered with something that is no completion. Whatever `ask` raises comes out as well.
        """
        body = self.rewriter.body(prompt, form, history)
        key = cache_key(tenant, policy, self.rewriter.template.path, {"rewriter": self.rewriter.name, **body})
        if (found := self._cache.get(key)) is not None:
            return replace(found, cached=True)
        call = self._flying.get(key)
        if call is not None and call.late and (why := self._breaker.resting(tenant)):
            raise Skip(why)  # somebody has waited for this very call in vain
        if call is None:
            if why := self._breaker.open_reason(tenant):
                raise Skip(why)
            call = _Call(asyncio.create_task(self._ask(prompt, form, body, key)), tenant)
            self._flying[key] = call
            call.task.add_done_callback(partial(self._done, key, call))
        return await self._wait(key, call, deadline)

    async def _wait(self, key: str, call: _Call, deadline: float) -> Rewrite:
        call.waiting += 1
        try:
            return await asyncio.shield(call.task)
        except asyncio.CancelledError:
            if time.monotonic() > deadline - _EARLY_S:
                if not call.late:
                    call.late = True
                    self._breaker.failed("late", call.tenant)
            elif call.waiting == 1 and not call.late:
                self._land(key, call)  # who asks from here on must not join a call that is being given up
                call.task.cancel()
            raise
        finally:
            call.waiting -= 1

    async def _ask(self, prompt: str, form: Form, body: Mapping[str, Any], key: str) -> Rewrite:
        async with asyncio.timeout(self._limit):
            embedded = self._embedded(prompt)  # while the rewriter writes
            answer = await self.ask(self.rewriter.engine, self.rewriter.template.path, body)
            if embedded is not None:
                await embedded
            candidates = self.rewriter.candidates(answer, prompt)
            # A verdict takes milliseconds, an embedder's more: nothing that the event loop should wait for.
            best = await asyncio.to_thread(self.best, prompt, form, candidates)
            if self._judge_engine and best.verdict.accepted:
                said = await self.ask(self._judge_engine, opinion.PATH, opinion.question(prompt, best.text, form))
                if reason := opinion.objection(said):
                    best = replace(best, verdict=Verdict(False, "added", reason))
        self._cache.put(key, best, len(best.text.encode("utf-8", "replace")) + len(best.verdict.detail) * 4)
        return best

    def _embedded(self, prompt: str) -> asyncio.Task[None] | None:
        """What the trained judge can compute before the rewrite is there, begun."""
        if self._additions is None:
            return None
        return asyncio.create_task(asyncio.to_thread(self._additions.prepare, prompt))

    def _land(self, key: str, call: _Call) -> None:
        if self._flying.get(key) is call:
            del self._flying[key]

    def _done(self, key: str, call: _Call, task: asyncio.Task[Rewrite]) -> None:
        self._land(key, call)
        if task.cancelled() or isinstance(task.exception(), PromptRefused):
            self._breaker.abandoned(call.tenant)
        elif (error := task.exception()) is None:
            # An answer that was too late for all is no sign of health.
            if not call.late:
                self._breaker.succeeded()
        elif not call.late:
            self._breaker.failed(type(error).__name__, call.tenant)

    def best(self, prompt: str, form: Form, candidates: Sequence[Candidate]) -> Rewrite:
        """The accepted candidate that keeps most of the prompt, the shorter one of two alike; else the first one."""
        told = self.rewriter.template.instruction(prompt, form)
        judged = []
        for candidate in candidates:
            verdict = Verdict(False, "truncated", "cut off by the token limit")
            if candidate.complete:
                verdict = judge(
                    prompt, candidate.text, form, limits=self._limits, similarity=self._similarity, instruction=told,
                    additions=_unjudged if self._judge_engine else self._additions,
                )  # fmt: skip
            judged.append(Rewrite(candidate.text, verdict, len(candidates)))
        kept = [r for r in judged if r.verdict.accepted]
        return min(
            kept, key=lambda r: (-round(overlap(prompt, r.text, lexicon("en")), 1), size(r.text)), default=judged[0]
        )


def _unjudged(original: str, rewrite: str, mode: Form, doubts: Mapping[str, str]) -> str:
    """What the rules object to, but for the one that a chat model, asked afterwards, stands in for."""
    return next((reason for name, reason in doubts.items() if name != "strayed"), "")


class _Call:
    """A call in flight: whose it is, how many wait for it, and whether somebody waited in vain."""

    def __init__(self, task: asyncio.Task[Rewrite], tenant: str) -> None:
        self.task, self.tenant, self.waiting, self.late = task, tenant, 0, False
