"""Six marks for an answer, each from 1 to 5, as just-eval gives them (Lin et al., arXiv 2312.01552)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from trainers.ask import engine as questions
from trainers.judge.pairwise import fill, quoted, unthought, words

ASPECTS = ("helpfulness", "clarity", "factuality", "depth", "engagement", "safety")
_OBJECT = re.compile(r"\{[^{}]*\}")
_LINE = re.compile(r"\b(" + "|".join(ASPECTS) + r")\b[^\w\n]{1,12}([1-5](?:\.\d+)?)(?![\d.]*\d)", re.IGNORECASE)


def ask_marks(
    turns: Sequence[str],
    texts: Sequence[str],
    *,
    system: str = "",
    history: Sequence[tuple[str, str]] = (),
    reference: Sequence[str] = (),
) -> questions.Messages:
    """The request that marks one answer; of a conversation it shows all turns, and the last is marked.

    Args:
        turns, texts: the user's turns and the answers to them, in order.
        history: (role, text) of the turns before these.
        reference: good answers, to as many of the turns as there are.
    """
    said, pair = words()["aspects"], words()["pair"]
    parts = [quoted(pair["system_text"], system)] if system else []
    parts += [quoted(fill(pair["earlier"], role=role), text) for role, text in history]
    for number, (turn, text) in enumerate(zip(turns, texts, strict=False), 1):
        last = number == min(len(turns), len(texts))
        parts.append(quoted(pair["question"], turn))
        if last and len(reference) >= number:
            parts.append(quoted(pair["reference"], reference[number - 1]))
        parts.append(quoted(said["answer"] if last else said["earlier"], text))
    meaning = "\n".join(f"- {name}: {said['meaning'][name]}" for name in ASPECTS)
    example = json.dumps(dict(zip(ASPECTS, (4, 5, 3, 2, 3, 5), strict=True)))
    rule = pair["reference_rule"].rstrip() if reference else ""
    prompt = fill(said["system"].strip(), aspects=meaning, example=example, reference_rule=rule)
    return [{"role": "system", "content": prompt}, {"role": "user", "content": "\n\n".join(parts)}]


def read_marks(answer: questions.Answer) -> dict[str, float]:
    """All six marks, from the last JSON object that has them or lines like "clarity: 4"; {} where one is missing."""
    text = unthought(answer.text)
    for found in reversed(_OBJECT.findall(text)):
        try:
            given = {str(key).strip().lower(): value for key, value in json.loads(found).items()}
        except ValueError:
            continue
        marks = {name: _mark(given.get(name)) for name in ASPECTS}
        if all(marks.values()):
            return marks
    lines = {name.lower(): float(mark) for name, mark in _LINE.findall(text)}
    return lines if len(lines) == len(ASPECTS) and all(1 <= mark <= 5 for mark in lines.values()) else {}


def _mark(value: object) -> float:
    """A mark from 1 to 5; 0 for what is none."""
    try:
        mark = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else 0.0
    except ValueError:
        return 0.0
    return mark if 1 <= mark <= 5 else 0.0
