"""A critic on a real socket, whose answer is a function of the question; it can fail first, and fall silent."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any

from tests.upstream import Answer, FakeUpstream, Reply, prompt_text

QUOTED = re.compile(r"(~{4,})\n(.*?)\n\1", re.DOTALL)


def parts(question: str) -> list[str]:
    """The quoted texts of a critic's question, in their order."""
    return [text for _, text in QUOTED.findall(question)]


def marked(rewrite: str) -> str:
    return f"The stronger one is clearer.\n[REWRITE]\n{rewrite}\n[/REWRITE]"


class ScriptedCritic(FakeUpstream):
    """`failures` are answered first: a status, or a status and a header line. `most` answers, then silence."""

    def __init__(self, say: Callable[[str], str], most: int = 10**9) -> None:
        super().__init__()
        self.say, self.most = say, most
        self.failures: list[int | tuple[int, str]] = []
        self.finish = "stop"
        self.at_once = self.highest = self.answered = 0

    def users(self) -> Sequence[str]:
        """What it was asked, in the order of arrival."""
        return [prompt_text(record.json) for record in self.requests]

    async def _generate(self, chat: bool, body: dict[str, Any], reply: Reply) -> None:
        if self.failures:
            failure = self.failures.pop(0)
            status, extra = (failure, ()) if isinstance(failure, int) else (failure[0], (failure[1],))
            return await reply.error(status, f"made up {status}", *extra)
        if self.answered >= self.most:
            await asyncio.sleep(3600)
        self.answered += 1
        self.at_once += 1
        self.highest = max(self.highest, self.at_once)
        try:
            await asyncio.sleep(0.005)
            await super()._generate(chat, body, reply)
        finally:
            self.at_once -= 1

    def _plan(self, model: str, body: dict[str, Any], prompt: Any, choice: int) -> Answer:
        if model == "echo":
            return super()._plan(model, body, prompt, choice)
        return Answer([self.say(prompt_text(body))], finish=self.finish)
