"""How an exported model is asked: what its tokens are compared on, and what its card says about serving it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainers.data.jsonl import DataError
from trainers.data.layouts import read_rows
from trainers.methods.table import METHODS
from trainers.run.weights import PROBES

ROWS = 50  # of the training data, whose tokens are compared

Prompts = list[tuple[Any, Any]]  # (what was trained on, what a client sends for it)


@dataclass(frozen=True)
class Served:
    """One way to be served.

    Attributes:
        prompts: of (the run's folder, run.json of its last training, the trained tokenizer), the prompts to compare.
        lines: of the model's name, what the card says about serving it.
        pipeline: the hub's name of the task.
        template: whose template the prompts go through; "" for the tokenizer's own.
    """

    prompts: Callable[[Path, Mapping[str, Any], Any], Prompts]
    lines: Callable[[str], Iterator[str]]
    pipeline: str = "text-generation"
    template: str = ""


def chat_prompts(run: Path, last: Mapping[str, Any], tokenizer: Any) -> Prompts:
    """Prompts of the training data, as a client would send them; of PROBES where the data is gone."""
    recipe = last["recipe"]
    prompts: list[Any]
    try:
        prompts = [row["prompt"] for row in read_rows(recipe["train"], METHODS[last["method"]].reads)[:ROWS]]
    except DataError as error:
        print(f"the training data cannot be read, so the template is compared on built-in prompts: {error}",
              file=sys.stderr)  # fmt: skip
        prompts = list(PROBES)
    if "plain text" in last.get("layout", ""):
        return [(prompt, prompt) for prompt in prompts]
    return [(p, [{"role": "user", "content": p}] if isinstance(p, str) else p) for p in prompts]


def plain_prompts(run: Path, last: Mapping[str, Any], tokenizer: Any) -> Prompts:
    """Texts that a base model continues."""
    return [(text, text) for text in PROBES]


def chat_lines(name: str) -> Iterator[str]:
    """The command that serves a model that generates."""
    yield f"    trimtab serve --model PATH/{name}"


def score_lines(name: str) -> Iterator[str]:
    """How a reward model is read."""
    yield "With `AutoModelForSequenceClassification`: the score of a chat is its one logit."


CHAT = Served(chat_prompts, chat_lines)
TEXT = Served(plain_prompts, chat_lines)
SCORE = Served(chat_prompts, score_lines, "text-classification")
