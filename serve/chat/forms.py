"""What an engine's refusal says about the form of our part, and which form each model is known to want."""

from __future__ import annotations

import re
from collections.abc import Collection

from msgspec.structs import replace

from prompt_opt.layout.forms import FORMS
from serve.chat.record import Alignment
from serve.engine.live import LiveEngine

# form -> what engines say that want it. "system": templates of Gemma 1 and 2, Mistral 7B Instruct 0.1 and 0.2, o1-mini;
# strict alternation counts a system message too. "reasoning": DeepSeek's thinking models.
_ASKED_BY = {
    "system": re.compile(
        rb"system.{0,20}role|role.{0,40}system|developer.{0,20}role|roles? must alternate|alternat\w+ (?:user|roles?)"
        rb"|only user(?:,| and) |first message .{0,40}user|must start with .{0,20}user",
        re.IGNORECASE | re.DOTALL,
    ),
    "reasoning": re.compile(rb"reasoning_content", re.IGNORECASE),
}
_MODELS = 1000
_NONE: frozenset[str] = frozenset()
_SAID = {
    "system": "form: system text in the first user turn, the model's template takes no system message of ours",
    "reasoning": "form: reasoning_content on our assistant turns, the model wants it on each",
}


def asked(refusal: bytes, used: Collection[str]) -> str | None:
    """The form that an engine's refusal asks for, of those not yet used; None where it asks for none."""
    return next((name for name, said in _ASKED_BY.items() if name not in used and said.search(refusal)), None)


def shape(alignment: Alignment, forms: Collection[str]) -> Alignment:
    """The alignment with its prompt in these forms, and notes that say so."""
    prompt = alignment.prompt
    if prompt is None or prompt.messages is None or not forms:
        return alignment
    for name in forms:
        prompt = FORMS[name](prompt)
    said = (_SAID[name] for name in forms)
    notes = (*alignment.notes, *(n for n in said if n not in alignment.notes))
    return replace(alignment, prompt=prompt, notes=notes)


def known(engine: LiveEngine, model: str) -> frozenset[str]:
    """The forms that this model of the engine is known to want."""
    return engine.forms.get(model, _NONE)


def learn(engine: LiveEngine, model: str, forms: frozenset[str]) -> None:
    """Remember what worked, for a bounded number of models."""
    if len(engine.forms) < _MODELS or model in engine.forms:
        engine.forms[model] = forms
