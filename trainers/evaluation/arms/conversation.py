"""An arm in conversation: the turns of a question one after another, and what its engine does not take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from trainers.ask.host import GivenUp, Host
from trainers.evaluation.arms.arm import Arm
from trainers.evaluation.arms.stream import Reply, letters, streamed
from trainers.evaluation.core import Answer, Question

_REFUSED_FIELDS = (400, 422)


class Speaker:
    """An arm, as one run asks it. `proven`: it has answered, so that what its engine takes is known; `notes` say it."""

    def __init__(self, arm: Arm, host: Host, lettered: bool, stream: bool = True) -> None:
        self.arm, self.host, self.lettered, self.stream = arm, host, lettered, stream
        self.proven = False
        self.replies = 0  # of one host some arms may be answered, and another never: its key has no money left
        self.dropped: frozenset[str] = frozenset()
        self.notes: list[str] = []

    async def converse(self, client: httpx.AsyncClient, question: Question, sample: int, seed: int) -> Answer:
        """All turns of a question. Tokens and seconds are of all together, the time to the first token of the last.

        Raises as Host.ask does, where the question got no answer or no other would.
        """
        messages = [{"role": "system", "content": question.system}] if question.system else []
        messages += [{"role": role, "content": text} for role, text in question.history]
        replies: list[Reply] = []
        for turn in question.turns:
            messages.append({"role": "user", "content": turn})
            reply = await self._send(client, self.arm.body(messages), seed)
            if reply.refused:
                texts = tuple(one.text for one in replies)
                return Answer(self.arm.name, question.id, sample, seed, "refused", texts, error=reply.refused)
            replies.append(reply)
            messages.append({"role": "assistant", "content": reply.text})
        found = await self._letters(client, question, messages[:-1]) if not sample else None
        last = replies[-1]
        return Answer(
            self.arm.name, question.id, sample, seed, "ok", tuple(one.text for one in replies), last.finish, "",
            last.stages, last.trace, (), _sum(replies, "prompt_tokens"), _sum(replies, "completion_tokens"),
            _cached(replies), last.first_s, sum(one.total_s or 0.0 for one in replies), found,
        )  # fmt: skip

    async def _send(self, client: httpx.AsyncClient, body: dict[str, Any], seed: int) -> Reply:
        """The reply; while the arm has not answered, also without the fields that not every engine knows."""
        extra: dict[str, Any] = {"seed": seed}
        if self.stream:
            extra = {"stream_options": {"include_usage": True}, **extra}

        async def without(dropped: frozenset[str]) -> Reply:
            fields = {name: value for name, value in extra.items() if name not in dropped}
            reply = await self.host.ask(
                lambda: streamed(client, self.arm, {**body, **fields}, self.stream), lambda: self.replies
            )
            self.replies += 1
            return reply

        reply = await without(self.dropped)
        if reply.refused and not self.proven and reply.status in _REFUSED_FIELDS:
            ways = [frozenset({name}) for name in extra] + [frozenset(extra)]
            ways.sort(key=lambda way: not all(name in reply.refused for name in way))  # what it names comes first
            for dropped in ways:
                if not (other := await without(dropped)).refused:
                    self.dropped = dropped
                    self.notes.append(f"{self.arm.name}: the engine refuses {' and '.join(sorted(dropped))}")
                    reply = other
                    break
        asked = self.stream and "stream_options" not in self.dropped
        if asked and not self.proven and not reply.refused and not reply.usage:
            self.notes.append(f"{self.arm.name}: its streams tell no token counts; --no-stream reads whole answers")
        self.proven = self.proven or not reply.refused
        return reply

    async def _letters(
        self, client: httpx.AsyncClient, question: Question, messages: Sequence[Mapping[str, str]]
    ) -> dict[str, float] | None:
        among = tuple(letter for letter, _ in question.expect.get("choices", ()))
        if not among or not self.lettered:
            return None
        body = self.arm.body(messages)
        try:
            found = await self.host.ask(lambda: letters(client, self.arm, body, among), lambda: self.replies)
        except GivenUp:
            return None  # the answer itself is there
        if found is None and self.lettered:
            self.lettered = False
            self.notes.append(f"{self.arm.name}: the engine gives no log-probabilities, so letters are read from texts")
        return found


def _sum(replies: Sequence[Reply], name: str) -> int | None:
    return _total([reply.usage.get(name) for reply in replies])


def _cached(replies: Sequence[Reply]) -> int | None:
    details = [reply.usage.get("prompt_tokens_details") for reply in replies]
    return _total([each.get("cached_tokens") if isinstance(each, Mapping) else None for each in details])


def _total(counts: Sequence[Any]) -> int | None:
    whole = [count for count in counts if type(count) is int and count >= 0]
    return sum(whole) if len(whole) == len(counts) else None
