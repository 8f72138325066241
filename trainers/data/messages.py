"""Messages of one shape, from the forms that dialogues come in; what would be lost on the way is refused by name."""

import re
from collections.abc import Mapping
from typing import Any

Row = dict[str, Any]
Messages = list[dict[str, str]]

SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
SYSTEM = ("system", "system_prompt", "system_message")
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"  # how the Helpful-Harmless sets write a dialogue
# No template is given these, so a model would learn to answer without them.
MEDIA = ("images", "image", "videos", "video", "audios", "audio")
LOST_COLUMNS = ("tools", "functions", *MEDIA)
LOST_KEYS = ("tool_calls", "tool_call_id", "function_call", "reasoning_content", "thinking", *LOST_COLUMNS)


class ShapeError(Exception):
    """A row has not the columns, or not the values, that its kind needs. Without a message: the columns."""


def refuse_lost(row: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    """ShapeError where one of the keys holds something; empty lists, texts and null hold nothing."""
    for key in keys:
        if row.get(key) not in (None, "", [], {}, "[]", "{}"):
            raise ShapeError(f'{where} "{key}", which training would drop: only text is rendered; take it out, '
                             "or write it into the text")  # fmt: skip


def in_context(row: Row, prompt: str | Messages) -> str | Messages:
    """The prompt after the row's system message and history, where it has these (LLaMA-Factory, ShareGPT, Orca)."""
    name = next((name for name in SYSTEM if row.get(name)), None)
    earlier = history(row["history"]) if row.get("history") else []
    if name is None and not earlier:
        return prompt
    turns = spoken(prompt, "user")
    if name is None:
        return [*earlier, *turns]
    if not isinstance(row[name], str):
        raise ShapeError(f'"{name}" must be text, not {type(row[name]).__name__}')
    if (old := next((turn["content"] for turn in turns if turn["role"] == "system"), row[name])) != row[name]:
        raise ShapeError(f'the column "{name}" and a message say two different things as system: {old!r:.80}')
    turns = [turn for turn in turns if turn["role"] != "system"]
    return [{"role": "system", "content": row[name]}, *earlier, *turns]


def history(value: Any) -> Messages:
    """Messages from [[question, answer], …], or from messages."""
    if isinstance(value, list) and all(isinstance(pair, list | tuple) for pair in value):
        if any(len(pair) != 2 or not all(isinstance(text, str) for text in pair) for pair in value):
            raise ShapeError('"history" must be pairs of a question and its answer, each text')
        roles = ("user", "assistant")
        return [{"role": role, "content": text} for pair in value for role, text in zip(roles, pair, strict=True)]
    return messages_of(value, "history")


def messages_of(value: Any, key: str) -> Messages:
    """[{"role", "content"}], from these or from [{"from", "value"}]."""
    if not isinstance(value, list):
        raise ShapeError(f'"{key}" must be text or a list of messages, not {type(value).__name__}')
    turns = []
    for turn in value:
        if not isinstance(turn, dict):
            raise ShapeError(f'"{key}" must be text or a list of messages, and not hold {type(turn).__name__}')
        speaker = turn.get("role") or turn.get("from")
        role = SPEAKERS.get(speaker, speaker if turn.get("role") else None) if isinstance(speaker, str) else None
        content = turn.get("content", turn.get("value"))
        if role is None and speaker is not None:
            raise ShapeError(f'a message in "{key}" is from {speaker!r}; known speakers: {", ".join(SPEAKERS)}')
        refuse_lost(turn, LOST_KEYS, f'a message in "{key}" has')
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
    for key in [key for key in turns if key != "prompt"]:
        if turns[key][: len(prompt)] == prompt:  # some sets repeat the prompt in the answers
            turns[key] = turns[key][len(prompt) :]
        roles = [turn["role"] for turn in turns[key]]
        if roles != ["assistant"]:
            raise ShapeError(
                f'"{key}" must be one assistant message, and has {", ".join(roles) or "none"}: the loss would count '
                'every turn in it; turns before the last answer belong in "prompt"'
            )
    return turns


def spoken(value: str | Messages, role: str) -> Messages:
    """Messages; a string becomes one message of that role."""
    return [{"role": role, "content": value}] if isinstance(value, str) else value
