"""How a rewriter is asked, and how its answer is read.

A template is one object for the server and for the trainer, so what a rewriter learns and what it is asked cannot
differ. `bpo` is the released model's own format (arXiv 2311.04155; the model card of THUDM/BPO): a text completion.
`instruct` tells any chat model what to do, in the language of the prompt.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, Protocol

from prompt_opt.gate.language import language
from prompt_opt.layout.defuse import fence_for

Form = Literal["replace", "complement"]  # what a rewriter is asked for
Turn = tuple[str, str]  # role, text


class BadAnswer(ValueError):
    """The rewriter's answer has not the shape of a completion; the message says what it lacks."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One text that a rewriter offers; not `complete` when it was cut off by the token limit."""

    text: str
    complete: bool = True


class Template(Protocol):
    """How a rewriter is asked and read."""

    @property
    def name(self) -> str:
        """As the configuration calls it."""
        ...

    @property
    def path(self) -> str:
        """The engine's path that it asks."""
        ...

    @property
    def forms(self) -> tuple[Form, ...]:
        """What it can be asked for; the first is the default."""
        ...

    @property
    def sees_history(self) -> bool:
        """Whether it is given earlier turns."""
        ...

    def fields(self, prompt: str, form: Form, history: Sequence[Turn] = ()) -> dict[str, Any]:
        """`prompt` or `messages` of the request. The texts have been through `shielded`."""
        ...

    def instruction(self, prompt: str, form: Form) -> str:
        """What the rewriter is told, without the prompt: the gate looks for its echo."""
        ...

    def read(self, answer: Mapping[str, Any]) -> tuple[Candidate, ...]:
        """The candidates in an answer, without what chat models wrap around them.

        Raises:
            BadAnswer: it is no completion.
        """
        ...


@dataclass(frozen=True, slots=True)
class BpoTemplate:
    """The released model's format, byte for byte. A trainer's example is `text(prompt)` and then the rewrite."""

    name: str = "bpo"
    path: str = "/v1/completions"
    forms: tuple[Form, ...] = ("replace",)
    sees_history: bool = False
    before: str = (
        "[INST] You are an expert prompt engineer. Please help me improve this prompt to get a more helpful and "
        "harmless response:\n"
    )
    after: str = " [/INST]"

    def text(self, prompt: str) -> str:
        """The prompt as the model was trained to see it; a BOS is the tokenizer's to add."""
        return self.before + prompt + self.after

    def fields(self, prompt: str, form: Form, history: Sequence[Turn] = ()) -> dict[str, Any]:
        """The request's `prompt`; the history is left out, as in training."""
        return {"prompt": self.text(prompt)}

    def instruction(self, prompt: str, form: Form) -> str:
        """The text before the prompt."""
        return self.before

    def read(self, answer: Mapping[str, Any]) -> tuple[Candidate, ...]:
        """The candidates of a text completion.

        Raises:
            BadAnswer: it is none, or a choice has no text.
        """
        out = []
        for choice in _choices(answer):
            if not isinstance(text := choice.get("text"), str):
                raise BadAnswer("a choice has no text")
            # The authors cut an aggressive sample at the beginnings of these marks.
            text = re.split(r"\[KE|\[INS(?!T\])|\[PRO", text, maxsplit=1)[0]
            out.append(Candidate(text.strip(), choice.get("finish_reason") != "length"))
        return tuple(out)


@dataclass(frozen=True, slots=True)
class InstructTemplate:
    """Our own instruction, over chat, in the language of the prompt where we have it (else in English)."""

    name: str = "instruct"
    path: str = "/v1/chat/completions"
    forms: tuple[Form, ...] = ("complement", "replace")
    sees_history: bool = True

    def fields(self, prompt: str, form: Form, history: Sequence[Turn] = ()) -> dict[str, Any]:
        """The request's `messages`: the instruction, then history and prompt in fences."""
        words = _words(prompt)
        parts = []
        if history:
            parts += [words["history"], _fenced("\n\n".join(f"{role}: {text}" for role, text in history))]
        parts += [words["prompt"], _fenced(prompt)]
        return {
            "messages": [
                {"role": "system", "content": words[form].strip()},
                {"role": "user", "content": "\n".join(parts)},
            ]
        }

    def instruction(self, prompt: str, form: Form) -> str:
        """The system message for this form, in the prompt's language."""
        return _words(prompt)[form]

    def read(self, answer: Mapping[str, Any]) -> tuple[Candidate, ...]:
        """The candidates of a chat completion.

        Raises:
            BadAnswer: it is none, or a choice has no text.
        """
        out = []
        for choice in _choices(answer):
            message = choice.get("message")
            text = message.get("content") if isinstance(message, dict) else None
            if not isinstance(text, str):
                raise BadAnswer("a choice has no message with text")
            out.append(Candidate(unwrapped(text), choice.get("finish_reason") != "length"))
        return tuple(out)


BPO = BpoTemplate()
INSTRUCT = InstructTemplate()
TEMPLATES: Mapping[str, Template] = {"bpo": BPO, "instruct": INSTRUCT}


_LABEL = re.compile(
    r"\A(?:\W{0,3}(?:here(?:’|')?s|here is|sure)[^\n:]{0,60}:\s*\n+"
    r"|\W{0,3}(?:improved|rewritten|revised|new|better|hint)(?: \w+)?\W{0,3}:\W{0,2}\s+)",
    re.IGNORECASE,
)
_PAIRS = ('"', '"'), ("“", "”"), ("«", "»"), ("„", "“"), ("「", "」")


def unwrapped(text: str) -> str:
    """A chat model's text without its thoughts, a label, a fence or quotation marks around the whole of it."""
    text = re.sub(r"\A\s*<think>.*?</think>", "", text, flags=re.DOTALL).strip()
    text = _LABEL.sub("", text).strip()
    if m := re.fullmatch(r"(`{3,}|~{3,})[a-z]*\n(.*?)\n?\1", text, re.DOTALL):
        text = m[2].strip()
    for left, right in _PAIRS:
        inner = text[1:-1]
        if len(text) > 2 and text[0] == left and text[-1] == right and left not in inner and right not in inner:
            text = inner.strip()
    return text


def _choices(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    choices = answer.get("choices") if isinstance(answer, Mapping) else None
    if not isinstance(choices, list) or not choices or not all(isinstance(c, dict) for c in choices):
        raise BadAnswer("the answer has no choices")
    return choices


@cache
def _instructions() -> Mapping[str, Mapping[str, str]]:
    return tomllib.loads(files("prompt_opt.rewriter").joinpath("instruct.toml").read_text("utf-8"))


def _words(prompt: str) -> Mapping[str, str]:
    return _instructions().get(language(prompt), _instructions()["en"])


def _fenced(text: str) -> str:
    fence = fence_for(text, "~~~~")
    return f"{fence}\n{text}\n{fence}"
