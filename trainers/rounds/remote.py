"""Samples from an OpenAI-compatible engine that serves the actor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainers.ask.engine import Answer, Engine, Messages, ask_bodies
from trainers.rounds.generator import seed_of
from trainers.rounds.sample import Prompt, Sample, key_of


class Remote:
    """Asks for one answer a request, each with a seed of its own, so that what is missing can be asked for again.

    `details`: also ask for token ids and log-probabilities, as vLLM gives them; other engines refuse the request.
    """

    def __init__(self, engine: Engine, revision: str, *, top_p: float = 1.0, details: bool = False) -> None:
        self.engine, self.revision, self.top_p, self.details = engine, revision, top_p, details

    def sample(self, prompts: Sequence[Prompt], number: int, seed: int, folder: Path) -> list[list[Sample]]:
        """Answers are kept in FOLDER/answers.jsonl. Raises EngineError as `ask_all` does.

        An answer that the engine refused is a sample without a text, finished by "refused".
        """
        places = [(at, i) for at in range(len(prompts)) for i in range(number)]
        bodies = {key_of(at, i): self._body(prompts[at], seed_of(seed, at * number + i)) for at, i in places}
        found = ask_bodies(self.engine, bodies, folder / "answers.jsonl", "samples")
        flat = []
        for at, i in places:
            answer = found[key_of(at, i)]
            finish = "refused" if answer.refused else answer.finish
            flat.append(Sample(at, i, answer.text, finish, answer.token_ids, answer.logprobs, self.revision))
        return [flat[at * number : (at + 1) * number] for at in range(len(prompts))]

    def ask(self, questions: Mapping[str, Messages], path: Path) -> dict[str, Answer]:
        """Without chance. Raises EngineError as `ask_all` does."""
        greedy = replace(self.engine, temperature=0.0)
        return ask_bodies(greedy, {key: greedy.body(asked) for key, asked in questions.items()}, path, "marks")

    def _body(self, prompt: Prompt, seed: int) -> dict[str, Any]:
        asked: dict[str, Any] = {"prompt": prompt} if isinstance(prompt, str) else {"messages": prompt}
        body = {
            "model": self.engine.model, **asked, "temperature": self.engine.temperature, "top_p": self.top_p,
            "max_tokens": self.engine.max_tokens, "seed": seed % 2**31,
        }  # fmt: skip
        if self.details:
            body |= {"logprobs": 0 if "prompt" in asked else True, "return_token_ids": True}
        return body
