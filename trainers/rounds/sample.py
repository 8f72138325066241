"""The nouns of a round: a sample of the actor, and whatever samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from trainers.ask.engine import Answer, Messages

Prompt = str | list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer of the actor to one prompt.

    Attributes:
        prompt, sample: its place among the prompts, and among the prompt's samples.
        finish: "stop" where the actor ended it, "length" where it was cut off.
        token_ids: its tokens, the end included; () where the engine does not say.
        logprobs: log π of each token in nats, at temperature 1; () where the engine does not say.
        revision: of the actor that wrote it.
    """

    prompt: int
    sample: int
    text: str
    finish: str = "stop"
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    revision: str = ""

    @property
    def key(self) -> str:
        """Its name in samples.jsonl."""
        return key_of(self.prompt, self.sample)


def key_of(prompt: int, sample: int) -> str:
    """The name under which a sample is kept, before it is there."""
    return f"{prompt}/{sample}"


def read_sample(row: dict[str, Any]) -> tuple[str, Sample]:
    """(key, sample) of a row of samples.jsonl."""
    found = Sample(**{**row, "token_ids": tuple(row["token_ids"]), "logprobs": tuple(row["logprobs"])})
    return found.key, found


def write_sample(key: str, sample: Sample) -> dict[str, Any]:
    """The row of samples.jsonl of a sample."""
    row = {"prompt": sample.prompt, "sample": sample.sample, "text": sample.text, "finish": sample.finish}
    return row | {
        "token_ids": list(sample.token_ids), "logprobs": list(sample.logprobs), "revision": sample.revision,
    }  # fmt: skip


class Sampler(Protocol):
    """Whatever answers prompts with the actor's present weights."""

    def ask(self, questions: Mapping[str, Messages], path: Path) -> dict[str, Answer]:
        """The likeliest answer to each question, by its key; each is on disk in `path` before it counts."""
        ...

    def sample(self, prompts: Sequence[Prompt], number: int, seed: int, folder: Path) -> list[list[Sample]]:
        """`number` samples of each prompt; each is on disk in `folder` before it counts, and is not asked for again.

        The same call, in the same folder or in a new one, returns the same where the actor's engine is deterministic.
        """
        ...
