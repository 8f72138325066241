"""The forms that a set of prompts comes in, each known by its columns.

What can be checked without a judge goes into a question's `expect`. Here a question has no id and no kind yet.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from trainers.data.layouts import preference
from trainers.data.messages import ShapeError, messages_of
from trainers.evaluation.core import Question
from trainers.evaluation.measure.shape import sound
from trainers.evaluation.questions.choices import choices, is_choices

Row = Mapping[str, Any]
EXPECT = ("refuse", "choices", "answer", "json", "language", "rules", "reference", "chosen", "rejected")


@dataclass(frozen=True, slots=True)
class Form:
    """`columns` tells people what it looks like; `fits` a first row; `read` makes a question of a row."""

    columns: str
    fits: Callable[[Row], bool]
    read: Callable[[Row], Question]


def _text(row: Row, *names: str) -> str:
    name = next((name for name in names if name in row), names[0])
    if not isinstance(row.get(name), str):
        raise ShapeError(f'no text under "{name}"')
    return str(row[name])


def _has(*names: str) -> Callable[[Row], bool]:
    return lambda row: all(name in row for name in names)


def _xstest(row: Row) -> Question:
    """Röttger et al. (arXiv:2308.01263): types called contrast_… are unsafe, and a good answer refuses them."""
    label = row.get("label")
    if label not in (None, "", "safe", "unsafe"):
        raise ShapeError(f'the label {label!r} is neither "safe" nor "unsafe"')
    contrast = _text(row, "type").startswith("contrast_")
    if label and (label == "unsafe") != contrast:
        raise ShapeError(f"the type {row['type']!r} is not {label}")
    return Question("", (_text(row, "prompt"),), expect={"refuse": contrast})


def _is_xstest(row: Row) -> bool:
    return "prompt" in row and "type" in row and (row.get("label") in ("safe", "unsafe") or row["type"] in _XSTEST)


_XSTEST = ("homonyms", "figurative_language", "safe_targets", "safe_contexts", "definitions", "contrast_homonyms")


def _turns(row: Row) -> Question:
    turns = row["turns"]
    if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
        raise ShapeError('"turns" is not a list of texts')
    return _checked(row, tuple(turns))


def _instruction(row: Row) -> Question:
    asked = _text(row, "instruction")
    context = next((row[key] for key in ("input", "context") if row.get(key)), "")
    if not isinstance(context, str):
        raise ShapeError("the input is not a text")
    # What a model wrote is no reference; the sets name it.
    by_people = "generator" not in row and isinstance(row.get("output"), str) and row["output"].strip()
    more = {"reference": row["output"]} if by_people else {}
    return _checked(row, (f"{asked}\n\n{context}" if context.strip() else asked,), more)


def _pair(row: Row) -> Question:
    [pair] = preference(dict(row))
    said = pair["prompt"] if isinstance(pair["prompt"], list) else [{"role": "user", "content": pair["prompt"]}]
    sides = {
        key: value if isinstance(value := pair[key], str) else "\n\n".join(turn["content"] for turn in value)
        for key in ("chosen", "rejected")
    }
    return _spoken(row, said, sides)


def _messages(row: Row) -> Question:
    said = messages_of(row["messages"], "messages")
    reference = {}
    if said and said[-1]["role"] == "assistant":
        reference = {"reference": said[-1]["content"]}
        said = said[:-1]
    return _spoken(row, said, reference)


def _spoken(row: Row, said: Sequence[Mapping[str, str]], more: Row) -> Question:
    """A conversation whose last turn is asked; what was said before goes along as it is."""
    system = "\n\n".join(turn["content"] for turn in said if turn["role"] == "system")
    rest = [turn for turn in said if turn["role"] != "system"]
    if not rest or rest[-1]["role"] != "user":
        raise ShapeError("the last turn is not the user's")
    before = tuple((turn["role"], turn["content"]) for turn in rest[:-1])
    return replace(_checked(row, (rest[-1]["content"],), more), system=system or str(row.get("system", "")),
                   history=before)  # fmt: skip


def _checked(row: Row, turns: tuple[str, ...], more: Row | None = None) -> Question:
    """A question with what the row says to expect: an object `expect`, or columns called as its keys are."""
    expect = row.get("expect") or {}
    if isinstance(expect, str):
        try:
            expect = json.loads(expect)
        except ValueError:
            raise ShapeError('"expect" is not JSON') from None
    if not isinstance(expect, dict) or set(expect) - set(EXPECT):
        raise ShapeError(f'"expect" holds {", ".join(EXPECT)}, and nothing else')
    asked = {key: row[key] for key in ("json", "language", "rules", "reference") if row.get(key)}
    if isinstance(asked.get("rules"), str):
        asked["rules"] = asked["rules"].split()
    if "refuse" in row:
        asked["refuse"] = _truth(row["refuse"])
    system = row.get("system") or ""
    return Question("", turns, system=str(system), expect=_sound({**asked, **(more or {}), **expect}))


def _sound(expect: Mapping[str, Any]) -> Mapping[str, Any]:
    """What can be measured by; a mistake in it dies here, and not when everything has been asked."""
    for key, (what, holds) in _SOUND.items():
        if key in expect and not holds(expect[key]):
            raise ShapeError(f'"{key}" is {str(expect[key])[:60]!r}, not {what}')
    if {"choices", "answer"} <= expect.keys() and expect["answer"] not in [letter for letter, _ in expect["choices"]]:
        raise ShapeError(f'"answer" is {str(expect["answer"])[:60]!r}, which is none of the letters of the choices')
    return expect


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_text, value))


_SOUND: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "refuse": ("true or false", lambda value: isinstance(value, bool)),
    "choices": ("a list of [letter, text]", lambda value: isinstance(value, list | tuple) and bool(value) and all(
        _are_texts(each) and len(each) == 2 for each in value)),
    "json": ("true or a JSON schema", sound),
    "language": ("a language's code, such as de", _is_text),
    "rules": ("a list of ids", _are_texts),
    "reference": ("a text, or one for each turn", lambda value: _is_text(value) or _are_texts(value)),
    "chosen": ("a text", _is_text),
    "rejected": ("a text", _is_text),
}  # fmt: skip


def _truth(value: Any) -> bool:
    told = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if str(value).strip().lower() not in told:
        raise ShapeError(f'"refuse" is {value!r}, not true or false')
    return told[str(value).strip().lower()]


def _exam(row: Row) -> Question:
    """A choice, and what else the row says to expect of it: the rules of the case, say."""
    asked = choices(row)
    more = {key: row[key] for key in ("system", "rules", "language", "expect") if key in row}
    return _checked(more, asked.turns, asked.expect)


def _one(*names: str) -> Callable[[Row], Question]:
    return lambda row: _checked(row, (_text(row, *names),))


FORMS: Mapping[str, Form] = {
    "xstest": Form("prompt, type, label: safe or unsafe", _is_xstest, _xstest),
    "choices": Form(
        "question, A, B, C …, answer; or question, choices, answer; or 题目, 选项A …, 答案", is_choices, _exam
    ),
    "pairs": Form("chosen, rejected, and a prompt", _has("chosen", "rejected"), _pair),
    "turns": Form("turns: a list, each asked after the answer to the one before", _has("turns"), _turns),
    "messages": Form("messages: the last user turn is asked", _has("messages"), _messages),
    "instruction": Form("instruction, and maybe input or context, output", _has("instruction"), _instruction),
    "prompt": Form("prompt", _has("prompt"), _one("prompt")),
    "question": Form("question", _has("question"), _one("question")),
    "text": Form("text", _has("text"), _one("text")),
}
# What people call the sets that have these forms.
ALSO: Mapping[str, str] = {
    "mt-bench": "turns", "vicuna": "turns", "bpo": "instruction", "just-eval": "instruction", "opo": "choices",
}  # fmt: skip
