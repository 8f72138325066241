"""Training rows of one shape, from the layouts that preference and instruction data come in.

A row is a dict with "place" (file and line, for messages) and, by kind:

    preference  prompt, chosen, rejected, and where given margin, score_chosen, score_rejected (numbers)
    labelled    prompt, completion, label (bool)
    completion  prompt, completion
    text        text

Prompt and answers are either all strings, or all lists of messages ({"role", "content"}).
"""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

from trainers.data.jsonl import DataError, file_hash
from trainers.data.rows import rows_of

Kind = Literal["preference", "labelled", "completion", "text"]
Row = dict[str, Any]
Messages = list[dict[str, str]]

WANTED = {
    "preference": "prompt, chosen, rejected (or chosen and rejected as whole dialogues)",
    "labelled": "prompt, completion, label (or messages and label, or a preference pair)",
    "completion": "prompt and completion; messages; conversations; instruction and output; or a preference pair",
    "text": "text",
}
NUMBERS = ("margin", "score_chosen", "score_rejected")
SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
PROMPTS, ANSWERS = ("prompt", "question", "instruction"), ("completion", "response", "output", "answer")
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"  # how the Helpful-Harmless sets write a dialogue


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


def wanted(row: Row, kind: str) -> str:
    """The message about a row whose columns do not fit: those it has, and those its kind needs."""
    return f"the columns are {', '.join(row) or 'none'}; wanted for {kind} rows: {WANTED[kind]}"


class ShapeError(Exception):
    """A row has not the columns, or not the values, that its kind needs. Without a message: the columns."""


def preference(row: Row) -> list[Row]:
    """One row of prompt, chosen, rejected; ShapeError where the columns do not give them."""
    if "chosen" not in row or "rejected" not in row:
        raise ShapeError
    chosen, rejected = side(row, "chosen"), side(row, "rejected")
    prompt = prompt_of(row)
    if prompt is None and "conversations" in row:
        prompt = messages_of(row["conversations"], "conversations")
    if prompt is None:
        prompt, chosen, rejected = apart(chosen, rejected)
    shaped = together({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return [shaped | {key: number(row, key) for key in NUMBERS if key in row}]


def labelled(row: Row) -> list[Row]:
    """Rows of prompt, completion, label; a preference pair gives two."""
    if "label" in row:
        return [pair | {"label": truth(row["label"])} for pair in completion(row)]
    [pair] = preference(row)
    sides = (("chosen", True), ("rejected", False))
    return [{"prompt": pair["prompt"], "completion": pair[key], "label": label} for key, label in sides]


def completion(row: Row) -> list[Row]:
    """One row of prompt and completion; of a preference pair, the chosen answer."""
    if "chosen" in row and "rejected" in row:
        [pair] = preference(row)
        return [{"prompt": pair["prompt"], "completion": pair["chosen"]}]
    for key in ("messages", "conversations"):
        if key in row:
            turns = messages_of(row[key], key)
            if not turns or turns[-1]["role"] != "assistant":
                raise ShapeError(f'the last of "{key}" must be the assistant\'s')
            return [{"prompt": turns[:-1], "completion": turns[-1:]}]
    prompt = prompt_of(row)
    name = next((name for name in ANSWERS if name in row), None)
    if prompt is None or name is None:
        raise ShapeError
    answer = side(row, name)
    if "instruction" in row and isinstance(prompt, str):  # its columns say no more than who speaks
        prompt = [{"role": "user", "content": prompt}]
    return [together({"prompt": prompt, "completion": answer})]


def text(row: Row) -> list[Row]:
    """One row of plain text."""
    if not isinstance(row.get("text"), str):
        raise ShapeError
    return [{"text": row["text"]}]


SHAPES: dict[str, Callable[[Row], list[Row]]] = {
    "preference": preference,
    "labelled": labelled,
    "completion": completion,
    "text": text,
}


def prompt_of(row: Row) -> str | Messages | None:
    """The prompt; Alpaca's "input" stands below its instruction."""
    name = next((name for name in PROMPTS if name in row), None)
    if name is None:
        return None
    prompt = side(row, name)
    more = row.get("input") if name == "instruction" else None
    return f"{prompt}\n\n{more}" if more and isinstance(prompt, str) else prompt


def side(row: Row, key: str) -> str | Messages:
    """Text or messages under a key; ShapeError for anything else."""
    value = row[key]
    if isinstance(value, str):
        return value
    return messages_of([value] if isinstance(value, dict) else value, key)


def messages_of(value: Any, key: str) -> Messages:
    """[{"role", "content"}], from these or from [{"from", "value"}]."""
    if not isinstance(value, list):
        raise ShapeError(f'"{key}" must be text or a list of messages, not {type(value).__name__}')
    turns = []
    for turn in value:
        if not isinstance(turn, dict):
            raise ShapeError(f'"{key}" must be text or a list of messages, and not hold {type(turn).__name__}')
        role = turn.get("role") or SPEAKERS.get(str(turn.get("from")))
        content = turn.get("content", turn.get("value"))
        if not isinstance(role, str) or not isinstance(content, str):
            raise ShapeError(f'a message in "{key}" must have a role and text as content, not {turn!r:.80}')
        turns.append({"role": role, "content": content})
    return turns


def apart(chosen: str | Messages, rejected: str | Messages) -> tuple[Messages, Messages, Messages]:
    """Two dialogues that begin alike: the prompt that they share, and their last turns."""
    sides = [dialogue(each) if isinstance(each, str) else each for each in (chosen, rejected)]
    if any(not turns or turns[-1]["role"] != "assistant" for turns in sides):
        raise ShapeError("without a prompt, chosen and rejected must be dialogues that end with the assistant's turn")
    prompt = sides[0][:-1]
    if prompt != sides[1][:-1]:
        raise ShapeError("without a prompt, chosen and rejected must be the same up to the last turn")
    return prompt, sides[0][-1:], sides[1][-1:]


def dialogue(whole: str) -> Messages:
    """The turns of "\\n\\nHuman: …\\n\\nAssistant: …"."""
    if not whole.startswith(HUMAN):
        raise ShapeError
    _, *marked = re.split(f"({HUMAN}|{ASSISTANT})", whole)
    turns: Messages = []
    for speaker, content in zip(marked[::2], marked[1::2], strict=True):
        role = "user" if speaker == HUMAN else "assistant"
        if turns and turns[-1]["role"] == role:  # a few dialogues have two turns of one speaker in a row
            turns[-1]["content"] += "\n\n" + content.strip()
        else:
            turns.append({"role": role, "content": content.strip()})
    return turns


def together(row: Row) -> Row:
    """All strings, or all lists of messages: a string beside a list becomes a turn of its speaker's."""
    if all(isinstance(value, str) for value in row.values()):
        return row
    turns = {
        key: [{"role": "user" if key == "prompt" else "assistant", "content": value}]
        if isinstance(value, str)
        else value
        for key, value in row.items()
    }
    prompt = turns["prompt"]
    for key in turns.keys() - {"prompt"}:  # some sets repeat the prompt in the answers
        if turns[key][: len(prompt)] == prompt:
            turns[key] = turns[key][len(prompt) :]
    return turns


def spoken(value: str | Messages, role: str) -> Messages:
    """Messages; a string becomes one message of that role."""
    return [{"role": role, "content": value}] if isinstance(value, str) else value


def number(row: Row, key: str) -> float:
    """The number under a key; ShapeError where it is none."""
    try:
        return float(row[key])
    except (TypeError, ValueError):
        raise ShapeError(f'"{key}" must be a number, not {row[key]!r}') from None


def truth(value: Any) -> bool:
    """A label as a bool, from true, false, 1 and 0; ShapeError for anything else."""
    known = {"true": True, "1": True, "false": False, "0": False}
    try:
        return known[str(value).lower()]
    except KeyError:
        raise ShapeError(f'"label" must be true or false, not {value!r}') from None


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
