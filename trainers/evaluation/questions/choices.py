"""Multiple choice: exams as OPO's (arXiv:2312.15907), in English and Chinese headers, and the common JSON layouts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from trainers.data.messages import ShapeError
from trainers.evaluation.core import Question

Row = Mapping[str, Any]
LETTERS = "ABCDEFGHIJ"
_QUESTION = ("question", "题目", "问题", "题干", "prompt")
_ANSWER = ("answer", "答案", "正确答案", "标准答案", "answerKey", "label")
_LIST = ("choices", "options", "选项")
_COLUMN = ("{}", "{}选项", "选项{}", "option_{}", "option {}", "Option {}")
_HAN = re.compile("[\u4e00-\u9fff]")


def is_choices(row: Row) -> bool:
    """Whether a row is a multiple-choice question in one of the known forms."""
    found = _first(row, _QUESTION) is not None and _first(row, _ANSWER) is not None
    return found and (any(name in row for name in _LIST) or _columns(row) != [])


def choices(row: Row) -> Question:
    """The question with its options below it, a letter each; what to answer with is said in the question's language."""
    asked, right = _first(row, _QUESTION), _first(row, _ANSWER)
    if not isinstance(asked, str) or right is None:
        raise ShapeError("no question, or no answer")
    options = _columns(row) or _listed(_first(row, _LIST))
    if len(options) < 2:
        raise ShapeError("fewer than two options")
    letter = _letter(right, options)
    end = "只回答正确选项的字母。" if _HAN.search(asked) else "Answer with the letter of the right choice only."
    text = "\n".join([asked.strip(), *(f"{name}. {option}" for name, option in options), "", end])
    return Question("", (text,), expect={"choices": tuple(options), "answer": letter})


def _first(row: Row, names: Sequence[str]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def _columns(row: Row) -> list[tuple[str, str]]:
    """Options that have a column each; a set with room for four may leave the last ones empty."""
    for column in _COLUMN:
        named = [(letter, row[name]) for letter in LETTERS if (name := column.format(letter)) in row]
        if len(named) >= 2:
            return [(letter, str(text).strip()) for letter, text in named if text not in (None, "")]
    return []


def _listed(value: Any) -> list[tuple[str, str]]:
    """Options in one column: a list, {"label": […], "text": […]}, {"A": …}, either as JSON text, or one a line."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            lines = [line.strip() for line in value.splitlines() if line.strip()]
            value = [re.sub(r"^[A-J][.、:：)．]\s*", "", line) for line in lines]
    if isinstance(value, dict) and {"label", "text"} <= set(value):
        value = value["text"]
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list | tuple):
        raise ShapeError("the options are not a list")
    if len(value) > len(LETTERS):
        raise ShapeError(f"more than {len(LETTERS)} options")
    return list(zip(LETTERS, map(str, value), strict=False))


def _letter(right: Any, options: Sequence[tuple[str, str]]) -> str:
    """The right option's letter; sets give it as that, as a number from 0, or as the option's text."""
    letters = [letter for letter, _ in options]
    if isinstance(right, int) and not isinstance(right, bool) and 0 <= right < len(letters):
        return letters[right]
    text = str(right).strip()
    if text.upper() in letters:
        return text.upper()
    found = [letter for letter, option in options if option == text]
    if len(found) == 1:
        return found[0]
    if text.isdigit() and int(text) < len(letters):
        return letters[int(text)]
    raise ShapeError(f"the answer {text[:40]!r} is none of {', '.join(letters)}")
