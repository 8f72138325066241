"""What an answer said: its first choice's text, read back from the bytes that went to the client.

Only for traces that keep content; nothing here is on the way of an answer.
"""

from __future__ import annotations

from typing import Any

import msgspec


class _Words(msgspec.Struct):
    content: Any = None


class _Choice(msgspec.Struct):
    index: int = 0
    message: _Words | None = None
    delta: _Words | None = None


class _Reply(msgspec.Struct):
    choices: list[_Choice] | None = None


_reply = msgspec.json.Decoder(_Reply)


def whole(body: bytes) -> str | None:
    """The text of a chat completion; None where there is none, as in one that only calls tools."""
    said = [choice.message for choice in _choices(body)]
    return _joined(said)


def streamed(events: bytes) -> str | None:
    """The same of a stream of events, however far it came."""
    lines = (line[5:].strip() for line in events.splitlines() if line.startswith(b"data:"))
    return _joined([choice.delta for line in lines for choice in _choices(line)])


def _choices(data: bytes) -> list[_Choice]:
    try:
        reply = _reply.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return []  # [DONE], or nothing that we know: the client got it as it is
    return [choice for choice in reply.choices or () if choice.index == 0]


def _joined(said: list[_Words | None]) -> str | None:
    texts = [words.content for words in said if words is not None and isinstance(words.content, str)]
    return "".join(texts) if texts else None
