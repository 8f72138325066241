"""An engine on a real socket that says what a simple rule says of a prompt's tokens."""

from __future__ import annotations

import re
from typing import Any

from tests.upstream import FakeUpstream, Recorded, Reply

RULES = {"raw": "", "law": "Be kind and brief. "}


class Scoring(FakeUpstream):
    """An engine whose word is likely (-0.5) where it stood before in the prompt, and unlikely (-2) where it did not.

    It passes for a Trimtab server too, with the policies of RULES. `by_tokens`: like vLLM, else like llama.cpp.
    """

    def __init__(self, *, by_tokens: bool = False, template: bool = True, echo: bool = True, most: int = 10**9) -> None:
        super().__init__()
        self.by_tokens, self.template, self.echo, self.most = by_tokens, template, echo, most
        self.words: list[str] = []  # a token is the number of a word here
        self.scored: list[str] = []

    async def _reply(self, record: Recorded, reply: Reply) -> None:
        path = record.path.split("?")[0]
        if path == "/v1/policies":
            rows = [{"id": name, "digest": name, "default": name == "raw", "stages": []} for name in RULES]
            return await reply.json({"object": "list", "data": rows})
        if path == "/v1/models":
            return await reply.json({"object": "list", "data": [{"id": "toy"}]})
        if path == "/v1/explain":
            asked = record.json["messages"][-1]["content"]
            rule = RULES[record.header("x-trimtab-policy") or "raw"]
            return await reply.json({"messages": [{"role": "user", "content": rule + asked}]})
        if path == "/apply-template" and self.template and not self.by_tokens:
            return await reply.json({"prompt": self._chat(record.json["messages"])})
        if path == "/tokenize" and self.by_tokens:
            body = record.json
            text = body["prompt"] if "prompt" in body else self._chat(body["messages"])
            if body.get("continue_final_message"):
                text = self._chat(body["messages"][:-1]) + body["messages"][-1]["content"]
            return await reply.json({"tokens": [self._number(word) for word in split(text)]})
        if path == "/v1/completions":
            return await self._completed(record.json, reply)
        return await reply.error(404, f"no {path}")

    async def _completed(self, body: dict[str, Any], reply: Reply) -> None:
        prompt = body["prompt"]
        if "forbidden" in str(prompt):
            return await reply.error(400, "made up: the prompt is too long")
        if len(self.scored) >= self.most:
            return await reply.error(401, "made up: no money left")
        words = split(prompt) if isinstance(prompt, str) else [self.words[token] for token in prompt]
        self.scored.append("".join(words))
        values = [None, *(-0.5 if word.strip() in "".join(words[:n]) else -2.0 for n, word in enumerate(words) if n)]
        words, values = [*words, "more"], [*values, -1.0]  # the token that is generated
        offsets = [len("".join(words[:n])) for n in range(len(words))]
        told = {"tokens": words, "token_logprobs": values, "text_offset": offsets}
        return await reply.json({"choices": [{"text": "", "logprobs": told if self.echo else None}]})

    def _chat(self, messages: list[dict[str, str]]) -> str:
        return "".join(f"[{m['role']}] {m['content']} " for m in messages) + "[assistant] "

    def _number(self, word: str) -> int:
        if word not in self.words:
            self.words.append(word)
        return self.words.index(word)


def split(text: str) -> list[str]:
    return re.findall(r"\S+\s*", text)
