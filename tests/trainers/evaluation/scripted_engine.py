"""An engine on a real socket whose answers are a function of what it is asked; it can be busy, fail, or refuse fields.

It can also pass for a Trimtab server: with `policies` it has /v1/policies and traces, and knows X-Trimtab-Policy.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from tests.upstream import Answer, FakeUpstream, Recorded, Reply, prompt_text

Say = Callable[[str, str, int], str]  # the last user text, the policy (else the model), the seed


def told(text: str, arm: str, seed: int) -> str:
    return f"{arm} says {seed % 1000} to {text}"


class ScriptedEngine(FakeUpstream):
    """`failures` are answered first. `room`: more requests at a time get 429. `most` answers, then silence.

    `refuses` holds fields of the body that get a 400, `bad` texts that do; `broken` arms get 500, and `broke` ones 429.
    `letters` are log-probabilities.
    """

    def __init__(
        self, say: Say = told, *, policies: tuple[str, ...] = (), models: tuple[str, ...] = ("toy",),
        room: int = 10**9, most: int = 10**9, refuses: tuple[str, ...] = (), bad: tuple[str, ...] = (),
        letters: Mapping[str, float] | None = None, broken: tuple[str, ...] = (), broke: tuple[str, ...] = (),
        pause_s: float = 0.002,
    ) -> None:  # fmt: skip
        super().__init__()
        self.say, self.policies, self.models, self.room, self.most = say, policies, models, room, most
        self.refuses, self.bad, self.letters, self.broken, self.pause_s = refuses, bad, letters, broken, pause_s
        self.broke = broke
        self.failures: list[tuple[int, str]] = []  # status, header line
        self.digest = "d1"
        self.accepted: Counter[tuple[str, str, int]] = Counter()  # (arm, text, seed) of whole answers
        self.at_once = self.highest = self.answered = self.turned_away = 0
        self._arm = ""

    async def _reply(self, record: Recorded, reply: Reply) -> None:
        path = record.path.split("?")[0]
        self._arm = record.header("x-trimtab-policy") or ""
        if path == "/v1/policies" and self.policies:
            rows = [
                {"id": name, "digest": f"{name}-{self.digest}", "default": not n, "model": None, "stages": ["opo"]}
                for n, name in enumerate(self.policies)
            ]
            return await reply.json({"object": "list", "data": rows})
        if path == "/v1/models":
            return await reply.json({"object": "list", "data": [{"id": name} for name in self.models]})
        if path.startswith("/v1/traces/") and self.policies:
            return await reply.json({"id": path.rsplit("/", 1)[1], "principles": [{"id": "law-1"}, {"id": "law-2"}]})
        await super()._reply(record, reply)

    async def _generate(self, chat: bool, body: dict[str, Any], reply: Reply) -> None:
        arm = self._arm or str(body.get("model"))
        if self.failures:
            status, extra = self.failures.pop(0)
            return await reply.error(status, f"made up {status}", extra)
        if arm in self.broke:
            return await reply.error(429, "made up: no money left")
        if arm in self.broken:
            return await reply.error(500, "made up: out of order")
        if self.at_once >= self.room:
            self.turned_away += 1
            return await reply.error(429, "too much", "retry-after: 0.01")
        if named := [name for name in self.refuses if name in body]:
            return await reply.error(400, f"unknown field {named[0]}", param=named[0])
        if (text := prompt_text(body)) in self.bad:
            return await reply.error(400, "made up: not this one")
        if self.answered >= self.most:
            await asyncio.sleep(3600)
        self.answered += 1
        self.at_once += 1
        self.highest = max(self.highest, self.at_once)
        try:
            await asyncio.sleep(self.pause_s)
            if body.get("logprobs"):
                return await self._lettered(reply)
            body = {**body, "said": self.say(text, arm, int(body.get("seed") or 0))}
            if self.policies:
                plain, trace = reply.head, f"t{self.answered}"
                ours = ("x-trimtab-applied: urial=applied(3), opo=applied(2, without law)", f"x-trimtab-trace: {trace}")
                reply.head = lambda *given: plain(*given, *ours)  # type: ignore[method-assign]
            await super()._generate(chat, body, reply)
            self.accepted[arm, text, int(body.get("seed") or 0)] += 1
        finally:
            self.at_once -= 1

    async def _lettered(self, reply: Reply) -> None:
        if self.letters is None:
            return await reply.error(400, "logprobs are not supported", param="logprobs")
        top = [{"token": token, "logprob": value} for token, value in self.letters.items()]
        logprobs = {"content": [{**top[0], "top_logprobs": top}]}
        message = {"role": "assistant", "content": top[0]["token"]}
        await reply.json(
            {"choices": [{"index": 0, "message": message, "logprobs": logprobs, "finish_reason": "length"}]}
        )

    def _plan(self, model: str, body: dict[str, Any], prompt: Any, choice: int) -> Answer:
        if "said" not in body:
            return super()._plan(model, body, prompt, choice)
        words = body["said"].split(" ")
        return Answer([word + " " for word in words[:-1]] + words[-1:])

    def users(self) -> list[str]:
        """What it was asked, in the order of arrival."""
        return [prompt_text(record.json) for record in self.posts]
