"""Training rows of one shape, from the layouts that preference and instruction data come in.

A row is a dict with "place" (file and line, for messages) and, by kind:

    preference  prompt, chosen, rejected, and where given margin, score_chosen, score_rejected (numbers)
    labelled    prompt, completion, label (bool)
    completion  prompt, completion
    ranking     prompt, answers (a list), scores (a number for each)
    prompt      prompt
    text        text

Prompt and answers are either all strings, or all lists of messages ({"role", "content"}).
"""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

from trainers.data.jsonl import DataError, file_hash
from trainers.data.messages import (
    LOST_COLUMNS,
    Messages,
    Row,
    ShapeError,
    apart,
    in_context,
    messages_of,
    refuse_lost,
    together,
)  # fmt: skip
from trainers.data.rows import rows_of

Kind = Literal["preference", "labelled", "completion", "ranking", "prompt", "text"]

WANTED = {
    "preference": "prompt, chosen, rejected (or chosen and rejected as whole dialogues)",
    "labelled": "prompt, completion, label (or messages and label, or a preference pair)",
    "completion": "prompt and completion; messages; conversations; instruction and output; or a preference pair",
    "ranking": "prompt, answers (a list of texts) and scores (a number for each), or a preference pair",
    "prompt": "prompt, question or instruction; messages; conversations; or a preference pair",
    "text": "text",
}
LEAST = 2  # answers of a list
NUMBERS = ("margin", "probability", "weight", "score_chosen", "score_rejected")
PROMPTS, ANSWERS = ("prompt", "question", "instruction"), ("completion", "response", "output", "answer")


def read_rows(source: str | Path, kind: str) -> list[Row]:
    """All rows of a file, folder or set on the hub, in the kind's shape; DataError names place and columns."""
    if kind not in get_args(Kind):
        raise DataError(f"no kind {kind!r}; kinds: {', '.join(get_args(Kind))}")
    rows: list[Row] = []
    for place, row in rows_of(str(source)):
        given = {key: value for key, value in row.items() if value is not None}
        try:
            rows += [{"place": place, **shaped} for shaped in SHAPES[kind](given)]
        except ShapeError as error:
            raise DataError(f"{place}: {str(error) or wanted(given, kind)}") from error
    if not rows:
        raise DataError(f"{source}: no rows in it")
    return rows


def without_place(row: Row) -> Row:
    """A row of `read_rows` as a file holds it."""
    return {key: value for key, value in row.items() if key != "place"}


def wanted(row: Row, kind: str) -> str:
    """The message about a row whose columns do not fit: those it has, and those its kind needs."""
    return f"the columns are {', '.join(row) or 'none'}; wanted for {kind} rows: {WANTED[kind]}"


def preference(row: Row) -> list[Row]:
    """One row of prompt, chosen, rejected; ShapeError where the columns do not give them."""
    if "chosen" not in row or "rejected" not in row:
        raise ShapeError
    refuse_lost(row, LOST_COLUMNS, "the row has")
    chosen, rejected = side(row, "chosen"), side(row, "rejected")
    prompt = prompt_of(row)
    if prompt is None and "conversations" in row:
        prompt = messages_of(row["conversations"], "conversations")
    if prompt is None:
        prompt, chosen, rejected = apart(chosen, rejected)
    prompt = in_context(row, prompt)
    shaped = together({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return [shaped | {key: number(row, key) for key in NUMBERS if key in row}]


def labelled(row: Row) -> list[Row]:
    """Rows of prompt, completion, label; a preference pair gives two."""
    if "label" in row:
        marks = {key: truth(row[key], key) for key in ("label", "hard") if key in row}
        return [pair | marks for pair in completion(row)]
    [pair] = preference(row)
    sides = (("chosen", True), ("rejected", False))
    return [{"prompt": pair["prompt"], "completion": pair[key], "label": label} for key, label in sides]


def completion(row: Row) -> list[Row]:
    """One row of prompt and completion; of a preference pair, the chosen answer."""
    if "chosen" in row and "rejected" in row:
        [pair] = preference(row)
        return [{"prompt": pair["prompt"], "completion": pair["chosen"]}]
    refuse_lost(row, LOST_COLUMNS, "the row has")
    for key in ("messages", "conversations"):
        if key in row:
            turns = messages_of(row[key], key)
            if not turns or turns[-1]["role"] != "assistant":
                raise ShapeError(f'the last of "{key}" must be the assistant\'s')
            return [{"prompt": in_context(row, turns[:-1]), "completion": turns[-1:]}]
    prompt = prompt_of(row)
    name = next((name for name in ANSWERS if name in row), None)
    if prompt is None or name is None:
        raise ShapeError
    answer = side(row, name)
    if "instruction" in row and isinstance(prompt, str):  # its columns say no more than who speaks
        prompt = [{"role": "user", "content": prompt}]
    return [together({"prompt": in_context(row, prompt), "completion": answer})]


def ranking(row: Row) -> list[Row]:
    """One row of prompt, answers and scores; a preference pair is a list of two, scored 1 and 0."""
    if "answers" not in row:
        [pair] = preference(row)
        return [{"prompt": pair["prompt"], "answers": [pair["chosen"], pair["rejected"]], "scores": [1.0, 0.0]}]
    refuse_lost(row, LOST_COLUMNS, "the row has")
    answers, scores, prompt = row["answers"], row.get("scores"), prompt_of(row)
    if prompt is None or not isinstance(answers, list) or not isinstance(scores, list):
        raise ShapeError
    if len(answers) < LEAST or len(answers) != len(scores):
        raise ShapeError(f'"answers" and "scores" must be as many, and two or more: {len(answers)} and {len(scores)}')
    texts = {f"answers[{i}]": answer if isinstance(answer, str) else messages_of(answer, "answers")
             for i, answer in enumerate(answers)}  # fmt: skip
    shaped = together({"prompt": in_context(row, prompt), **texts})
    numbers = [number({"scores": score}, "scores") for score in scores]
    return [{"prompt": shaped.pop("prompt"), "answers": list(shaped.values()), "scores": numbers}]


def prompt(row: Row) -> list[Row]:
    """One row of a prompt alone; of a dialogue, all before the assistant's last turn."""
    if any(key in row for key in ("messages", "conversations")) or ("chosen" in row and prompt_of(row) is None):
        return [{"prompt": shaped["prompt"]} for shaped in completion(row)]
    refuse_lost(row, LOST_COLUMNS, "the row has")
    found = prompt_of(row)
    if found is None:
        raise ShapeError
    return [{"prompt": in_context(row, found)}]


def text(row: Row) -> list[Row]:
    """One row of plain text."""
    if not isinstance(row.get("text"), str):
        raise ShapeError
    return [{"text": row["text"]}]


SHAPES: dict[str, Callable[[Row], list[Row]]] = {
    "preference": preference,
    "labelled": labelled,
    "completion": completion,
    "ranking": ranking,
    "prompt": prompt,
    "text": text,
}


def prompt_of(row: Row) -> str | Messages | None:
    """The prompt; an "input" (Alpaca) or "context" (Dolly) stands below it."""
    name = next((name for name in PROMPTS if name in row), None)
    if name is None:
        return None
    prompt = side(row, name)
    more = row.get("input") or row.get("context")
    if not more or more == prompt:
        return prompt
    if not isinstance(prompt, str) or not isinstance(more, str):
        raise ShapeError('"input" and "context" go below a prompt, and both must be text')
    return f"{prompt}\n\n{more}"


def side(row: Row, key: str) -> str | Messages:
    """Text or messages under a key; ShapeError for anything else."""
    value = row[key]
    if isinstance(value, str):
        return value
    return messages_of([value] if isinstance(value, dict) else value, key)


def number(row: Row, key: str) -> float:
    """The finite number under a key; ShapeError where it is none: one NaN would make every weight NaN."""
    try:
        found = float(row[key])
    except (TypeError, ValueError):
        raise ShapeError(f'"{key}" must be a number, not {row[key]!r}') from None
    if not math.isfinite(found):
        raise ShapeError(f'"{key}" must be a finite number, not {found}')
    return found


def truth(value: Any, name: str = "label") -> bool:
    """A label as a bool, from true, false, 1 and 0; ShapeError for anything else."""
    known = {"true": True, "1": True, "false": False, "0": False}
    try:
        return known[str(value).lower()]
    except KeyError:
        raise ShapeError(f'"{name}" must be true or false, not {value!r}') from None


def split(rows: list[Row], fraction: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Rows to learn from and rows held out: about `fraction` of the prompts, chosen by their hash.

    A dialogue counts by its first user turn, so that no held-out dialogue continues one that was learnt from.
    """
    held = [place(f"{seed}/{opening(row)}") < fraction for row in rows]
    if fraction > 0 and (all(held) or not any(held)):
        raise DataError(
            f"heldout_fraction {fraction} would hold out {sum(held)} of {len(rows)} rows: too few prompts; "
            "set heldout_fraction: 0 to hold out none, or name a file as heldout"
        )
    return [row for row, out in zip(rows, held, strict=True) if not out], [
        row for row, out in zip(rows, held, strict=True) if out
    ]


def opening(row: Row) -> str:
    """What two rows share when one must not be trained on while the other is tested."""
    prompt: str | Messages = row["prompt"] if "prompt" in row else row["text"]
    if isinstance(prompt, str):
        return prompt
    return next((turn["content"] for turn in prompt if turn["role"] == "user"), json.dumps(prompt))


def place(words: str) -> float:
    """A number in [0, 1) that depends on the words alone."""
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") / 2**64


def data_hash(source: str | Path, rows: list[Row]) -> str:
    """sha256 of the file; of the rows themselves where the source is a folder or on the hub."""
    if Path(source).is_file():
        return file_hash(Path(source))
    plain = [{key: value for key, value in row.items() if key != "place"} for row in rows]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
