"""Candidates of a search on an engine: each pair's objective under a profile, scored once and kept."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import httpx
import msgspec

from prompt_opt.core import Advice, Chat, Message, Policy, Profile
from prompt_opt.layout.order import lay_out
from trainers.ask.host import Host, run_all
from trainers.ask.journal import Journal
from trainers.evaluation.arms.arm import Arm
from trainers.evaluation.likelihood.margin import Row, key_of, measured
from trainers.evaluation.likelihood.pair_file import Pair
from trainers.evaluation.likelihood.scorer import Prompt, Refused, Scorer


@dataclass(slots=True)
class Candidates:
    """Scores profiles on pairs, each once; `spent` counts the answers scored by this run."""

    engine: Arm
    render: str
    kept: Journal[Row]
    concurrency: int
    timeout_s: float
    spent: int = 0

    def values(self, candidate: Profile, pairs: Sequence[Pair], objective: str) -> dict[str, float]:
        """The objective of each pair under the profile, without those that the engine refuses."""
        name = digest(candidate, self.render)
        left = deque(pair for pair in pairs if self.kept.get(key_of(name, pair.id)) is None)
        self.spent += sum(len(pair.answers) for pair in left)
        if left:
            run_all(self._score(name, candidate, left))
        rows = {pair.id: (pair, self.kept[key_of(name, pair.id)]) for pair in pairs}
        return {ident: measured(pair, row.scores)[objective] for ident, (pair, row) in rows.items() if row.scores}

    async def _score(self, name: str, candidate: Profile, left: deque[Pair]) -> None:
        scorer = Scorer(self.engine, Host(self.engine.host, self.concurrency))

        async def work(client: httpx.AsyncClient) -> None:
            while left:
                pair = left.popleft()
                try:
                    scores = await scorer.score(client, laid_out(candidate, pair, self.render), pair.answers)
                    row = Row(name, pair.id, tuple(scores))
                except Refused as error:
                    row = Row(name, pair.id, error=str(error))
                self.kept.append(row.key, row)

        async with httpx.AsyncClient(timeout=self.timeout_s) as client, asyncio.TaskGroup() as group:
            for _ in range(self.concurrency):
                group.create_task(work(client))


def laid_out(candidate: Profile, pair: Pair, render: str) -> Prompt:
    """The prompt that a policy with this profile makes of the pair's."""
    policy = Policy("search", stages=("urial",), render="base" if render == "base" else "chat", profile=candidate)
    chat = Chat(tuple(Message(role, text) for role, text in pair.messages))
    prompt = lay_out(chat, Advice(candidate.instruction, candidate.exemplars), policy)
    if prompt.messages is None:
        return prompt.text or ""
    return [msgspec.json.decode(message.json()) for message in prompt.messages]


def digest(candidate: Profile, render: str) -> str:
    """A profile's name in scores.jsonl: the hash of all that can stand in a prompt."""
    markers = [candidate.user_marker, candidate.assistant_marker, candidate.fence, candidate.form, candidate.preamble]
    turns = [[each.user, each.assistant, each.raw] for each in candidate.exemplars]
    whole = json.dumps([render, candidate.framing, candidate.instruction, markers, turns])
    return hashlib.sha256(whole.encode()).hexdigest()[:16]
