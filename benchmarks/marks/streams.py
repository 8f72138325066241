"""python -m benchmarks.marks.streams [--count 5000]: a stream is edited as the whole answer is, whatever its pieces.

Each answer, real or written, goes through the editors of three APIs as a stream of random deltas, whose bytes are cut
at random places, and once as a whole. The text and the citations must be equal; where no mark is taken out, every byte
but the last event's must be the engine's own.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.marks.judge import real
from benchmarks.marks.written import Answer, answers
from prompt_opt.citation.marks import Rules
from serve.dialects import anthropic_messages, openai_chat, openai_responses
from serve.dialects.annotation import Annotation, Citing
from serve.dialects.edited import EditedStream

Events = Callable[[list[str]], Iterator[dict[str, Any]]]
_PLACE = {"item_id": "m", "output_index": 0, "content_index": 0}


def chat(pieces: list[str]) -> Iterator[dict[str, Any]]:
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    for piece in pieces:
        yield {**head, "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]}
    yield {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def responses(pieces: list[str]) -> Iterator[dict[str, Any]]:
    part = {"type": "output_text", "text": "".join(pieces), "annotations": []}
    item = {"type": "message", "id": "m", "content": [part]}
    for piece in pieces:
        yield {"type": "response.output_text.delta", **_PLACE, "delta": piece}
    yield {"type": "response.output_text.done", **_PLACE, "text": part["text"]}
    yield {"type": "response.output_item.done", "output_index": 0, "item": item}
    yield {"type": "response.completed", "response": {"id": "r", "status": "completed", "output": [item]}}


def messages(pieces: list[str]) -> Iterator[dict[str, Any]]:
    yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    for piece in pieces:
        yield {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
    yield {"type": "content_block_stop", "index": 0}
    yield {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}}


def said(row: dict[str, Any]) -> str:
    """The text that an event adds."""
    if "choices" in row:
        return "".join(choice["delta"].get("content") or "" for choice in row["choices"])
    if row["type"] == "response.output_text.delta":
        return str(row["delta"])
    return str(row["delta"].get("text", "")) if row["type"] == "content_block_delta" else ""


def told(row: dict[str, Any]) -> Any:
    """The citations that an event tells, if it does."""
    return (row.get("trimtab") or row.get("response", {}).get("trimtab") or {}).get("citations")


def cut(data: Any, dice: random.Random, most: int) -> list[Any]:
    out, at = [], 0
    while at < len(data):
        size = dice.randint(1, most)
        out.append(data[at : at + size])
        at += size
    return out


def run(answer: Answer, dialect: Any, events: Events, dice: random.Random) -> str:
    """One stream; "" where all is as it must be, else what is not."""
    remove, notes = dice.random() < 0.5, dice.random() < 0.5
    citing = Citing(Rules(answer.rules), "remove" if remove else "keep", notes)
    whole = Annotation(citing)
    expected = whole.edit(0, 0, answer.text, "stop")
    sent = [b"data: %s\n\n" % json.dumps(row).encode() for row in events(cut(answer.text, dice, 12))]
    stream = EditedStream(dialect.editor(Annotation(citing)))
    got = b"".join(stream.feed(chunk) for chunk in cut(b"".join(sent), dice, 200)) + stream.close(whole=True)
    lines = [block.split(b"data: ", 1)[1] for block in got.split(b"\n\n") if block]
    rows = [json.loads(line) for line in lines]
    if "".join(map(said, rows)) != expected:
        return "text"
    if [it for row in rows if (it := told(row)) is not None] != [whole.citations()]:
        return "citations"
    if not remove and not notes and not got.startswith(b"".join(sent[:-1])):
        return "bytes"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=5000)
    count = parser.parse_args().count
    dice, outcomes = random.Random(19), Counter[str]()
    rows = [*real(), *answers()]
    shapes = ((openai_chat, chat), (openai_responses, responses), (anthropic_messages, messages))
    for number in range(count):
        dialect, events = shapes[number % len(shapes)]
        if wrong := run(dice.choice(rows), dialect, events, dice):
            outcomes[f"{dialect.path}: {wrong}"] += 1
    print(f"{count} streams of {len(rows)} answers, {sum(outcomes.values())} unlike the whole answer {dict(outcomes)}")
    raise SystemExit(1 if outcomes else 0)


if __name__ == "__main__":
    main()
