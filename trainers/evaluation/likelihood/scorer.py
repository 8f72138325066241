"""Log-probabilities of an answer under a prompt, from an engine's `/v1/completions` with `echo` and `logprobs`.

vLLM is sent tokens, because the offsets that it tells count the beginning-of-text token. Other engines take text: the
answer is what stands behind the prompt's last character. One token is generated and ignored, because engines differ
in what 0 means. Chats become text by the engine's own template: vLLM's /tokenize or llama.cpp's /apply-template.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from trainers.ask.host import EngineError, Host, refusal
from trainers.evaluation.arms.arm import Arm

Prompt = str | Sequence[Mapping[str, Any]]  # a text, or a chat's messages


@dataclass(frozen=True, slots=True)
class Scored:
    """The summed log-probability of an answer in nats, and how many tokens it has."""

    logprob: float
    tokens: int


class Refused(Exception):
    """The engine turned a prompt down for good; the message says why."""


class Scorer:
    """An engine as one run asks it. `by_tokens` is settled by the first request."""

    def __init__(self, engine: Arm, host: Host) -> None:
        self.engine, self.host = engine, host
        self.by_tokens: bool | None = None

    async def score(self, client: httpx.AsyncClient, prompt: Prompt, answers: Sequence[str]) -> list[Scored]:
        """Of each answer under the prompt.

        Raises:
            Refused: too long, or malformed to the engine. GivenUp, EngineError: as Host.ask, or it cannot score.
        """
        if self.by_tokens is None:
            self.by_tokens = "tokens" in (await self._asked(client, "/tokenize", {"prompt": "x"}, missing={}))
        return await (self._tokens if self.by_tokens else self._texts)(client, prompt, answers)

    async def _tokens(self, client: httpx.AsyncClient, prompt: Prompt, answers: Sequence[str]) -> list[Scored]:
        """The answer's tokens are those of prompt and answer together that the prompt alone does not begin with."""
        before = await self._tokenized(client, prompt)
        found = []
        for answer in answers:
            whole = await self._tokenized(client, prompt, answer)
            shared = next((n for n, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), len(before))
            told = await self._logprobs(client, whole)
            found.append(_sum(told["token_logprobs"][shared : len(whole)], self.engine.url))
        return found

    async def _tokenized(self, client: httpx.AsyncClient, prompt: Prompt, answer: str = "") -> list[int]:
        what: dict[str, Any]
        if isinstance(prompt, str):
            what = {"prompt": prompt + answer}
        elif answer:
            messages = [*prompt, {"role": "assistant", "content": answer}]
            what = {"messages": messages, "continue_final_message": True, "add_generation_prompt": False}
        else:
            what = {"messages": prompt, "add_generation_prompt": True}
        return list((await self._asked(client, "/tokenize", what))["tokens"])

    async def _texts(self, client: httpx.AsyncClient, prompt: Prompt, answers: Sequence[str]) -> list[Scored]:
        text = prompt if isinstance(prompt, str) else await self._rendered(client, prompt)
        found = []
        for answer in answers:
            told = await self._logprobs(client, text + answer)
            places = zip(told["tokens"], told["text_offset"], told["token_logprobs"], strict=True)
            end = len(text) + len(answer)
            values = [value for token, at, value in places if at + len(token) > len(text) and at < end]
            found.append(_sum(values, self.engine.url))
        return found

    async def _rendered(self, client: httpx.AsyncClient, messages: Sequence[Mapping[str, Any]]) -> str:
        told = await self._asked(client, "/apply-template", {"messages": messages}, missing={})
        if "prompt" not in told:
            raise EngineError(
                f"{self.engine.url} cannot render a chat as text: it has neither /tokenize, as vLLM, nor "
                '/apply-template, as llama.cpp; score policies with render = "base" there'
            )
        return str(told["prompt"])

    async def _logprobs(self, client: httpx.AsyncClient, prompt: str | list[int]) -> dict[str, Any]:
        body = {"prompt": prompt, "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0}
        told = await self._asked(client, "/v1/completions", body)
        try:
            return dict(told["choices"][0]["logprobs"])
        except (KeyError, IndexError, TypeError, ValueError):
            raise EngineError(
                f"{self.engine.url} gives no log-probabilities of a prompt (echo with logprobs)"
            ) from None

    async def _asked(
        self, client: httpx.AsyncClient, path: str, body: Mapping[str, Any], missing: Any = None
    ) -> dict[str, Any]:
        model = {"model": self.engine.model} if self.engine.model else {}
        return await post(client, self.host, self.engine, path, {**model, **body}, missing)


async def post(
    client: httpx.AsyncClient, host: Host, arm: Arm, path: str, body: Mapping[str, Any], missing: Any = None
) -> dict[str, Any]:
    """The JSON that the arm's server answers; `missing` where it does not have the path and that is no error.

    Raises:
        Refused: a 4xx that concerns this request only. GivenUp, EngineError: as Host.ask.
    """

    async def once() -> httpx.Response:
        response = await client.post(arm.base + path, json=body, headers=arm.headers())
        if response.status_code != 200 and not (missing is not None and response.status_code in (404, 405, 501)):
            raise Refused(refusal(response, arm.url, arm.base + path, arm.model, arm.key_env))
        return response

    response = await host.ask(once)
    if response.status_code != 200:
        return dict(missing)
    try:
        return dict(response.json())
    except (ValueError, TypeError):
        raise EngineError(f"{arm.base + path} answered with no JSON object") from None


def _sum(values: Sequence[Any], url: str) -> Scored:
    if not values or not all(isinstance(value, int | float) for value in values):
        raise EngineError(f"{url} gives no log-probability for some of the answer's tokens")
    return Scored(float(sum(values)), len(values))
