"""A rewriter: which engine rewrites a prompt, by which template, and how it samples."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prompt_opt.layout.defuse import defuse
from prompt_opt.rewriter.template import INSTRUCT, TEMPLATES, Candidate, Form, Template, Turn


@dataclass(frozen=True, slots=True)
class Decoding:
    """How a rewriter samples. `longer`: at least as many new tokens as the prompt has, plus five.

    `bad_words` and `min_tokens` (of `longer`) are vLLM's; an engine that does not have them has to be asked without.
    """

    temperature: float
    top_p: float
    samples: int = 1
    max_tokens: int = 1024
    stop: tuple[str, ...] = ()
    bad_words: tuple[str, ...] = ()
    longer: bool = False

    def fields(self, prompt: str) -> dict[str, Any]:
        """The request fields."""
        out: dict[str, Any] = {"max_tokens": self.max_tokens, "temperature": self.temperature}
        if self.temperature:
            out["top_p"] = self.top_p
        if self.samples > 1:
            out["n"] = self.samples
        if self.stop:
            out["stop"] = list(self.stop)
        if self.bad_words:
            out["bad_words"] = list(self.bad_words)
        if self.longer:
            out["min_tokens"] = min(len(prompt) // 4 + 5, self.max_tokens)
        return out


# `stable` and `aggressive` as in the authors' src/infer_example.py (commit 2c34c4c); `greedy` for determinism.
DECODINGS: Mapping[str, Decoding] = {
    "stable": Decoding(0.6, 0.9),
    "aggressive": Decoding(
        0.9, 0.9, 5, stop=("\n",), bad_words=("[PROTECT]", "\n\n[PROTECT]", "[KEEP", "[INSTRUCTION]"), longer=True
    ),
    "greedy": Decoding(0.0, 1.0),
}


@dataclass(frozen=True, slots=True)
class Rewriter:
    """What `[rewriter.NAME]` resolves to."""

    name: str
    engine: str
    template: Template = INSTRUCT
    decoding: Decoding = DECODINGS["stable"]
    model: str = ""  # sent to the engine; "": the engine's own
    specials: Collection[str] = ()  # special tokens of the engine's tokenizer, where they are known

    def body(self, prompt: str, form: Form, history: Sequence[Turn] = ()) -> dict[str, Any]:
        """The whole request."""
        prompt = shielded(prompt, self.specials)
        history = [(role, shielded(text, self.specials)) for role, text in history]
        fields = self.template.fields(prompt, form, history)
        return {"model": self.model, **fields, **self.decoding.fields(prompt)}

    def candidates(self, answer: Mapping[str, Any], prompt: str) -> tuple[Candidate, ...]:
        """What the answer offers, the user's own special texts as they wrote them.

        Raises:
            BadAnswer: it is no completion.
        """
        back = _undo(prompt, shielded(prompt, self.specials))
        return tuple(Candidate(back(c.text), c.complete) for c in self.template.read(answer))


def rewriter(
    name: str,
    engine: str,
    template: str = "instruct",
    decoding: str = "stable",
    max_tokens: int = 1024,
    **settings: Any,
) -> Rewriter:
    """A rewriter from the names in a configuration; `max_tokens` bounds what it may write.

    Raises:
        ValueError: an unknown template or decoding; the message lists the valid ones.
    """
    if template not in TEMPLATES:
        raise ValueError(f"template {template!r} is unknown; valid are {', '.join(TEMPLATES)}")
    if decoding not in DECODINGS:
        raise ValueError(f"decoding {decoding!r} is unknown; valid are {', '.join(DECODINGS)}")
    bounded = replace(DECODINGS[decoding], max_tokens=max_tokens)
    return Rewriter(name, engine, TEMPLATES[template], bounded, **settings)


def shielded(text: str, specials: Collection[str] = ()) -> str:
    """A user's text in which no special token is left that the rewriter's engine could take for one."""
    return defuse(text, (), specials)[0]


def _undo(text: str, shown: str) -> Any:
    """A function that takes the escapes of `shielded` out of what was written after it."""
    at, marks = 0, set[str]()
    for i, sign in enumerate(shown):
        if at < len(text) and sign == text[at]:
            at += 1
        elif sign == "\\":
            marks.add(shown[i - 1 : i + 4])
    if not marks:
        return lambda written: written
    pattern = re.compile("|".join(map(re.escape, sorted(marks, key=len, reverse=True))))
    return lambda written: pattern.sub(lambda m: m[0].replace("\\", "", 1), written)
