"""A text completion as the client gets it: events of a stream, or whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from serve.dialects.dialect import Choice, Piece
from serve.dialects.openai_chat.chunks import DONE

_encode = msgspec.json.encode


class TextWriter:
    """Writes one text completion.

    Args:
        ident: the completion's id.
        model: the model name to report.
        created: seconds since 1970.
        n: choices.
        logprobs: the client asked for log-probabilities.
        usage_chunk: the client asked for a last event with the usage.
    """

    def __init__(
        self, ident: str, model: str, created: int, n: int = 1, *, logprobs: bool = False, usage_chunk: bool = False
    ) -> None:
        self._head: dict[str, Any] = {
            "id": ident, "object": "text_completion", "created": created, "model": model
        }  # fmt: skip
        self._logprobs, self._usage_chunk = logprobs, usage_chunk
        self._lengths = [0] * n  # characters of each choice so far

    def describe(self, meta: Mapping[str, Any]) -> None:
        """Give the engine's fingerprint and tier from here on."""
        self._head |= meta

    def start(self) -> bytes:
        """Nothing: the first event is the first text."""
        return b""

    def delta(self, piece: Piece) -> bytes:
        """An event with the piece's text."""
        at = self._lengths[piece.choice]
        self._lengths[piece.choice] += len(piece.text)
        return self._event(piece.choice, piece.text, _table(piece.logprobs, at) if self._logprobs else None, None)

    def end(self, piece: Piece) -> bytes:
        """An event with the choice's finish reason."""
        return self._event(piece.choice, "", None, piece.finish)

    def close(self, usage: Mapping[str, Any]) -> bytes:
        """The usage, if it was asked for, and [DONE]."""
        last = b"data: " + _encode({**self._head, "choices": [], "usage": usage}) + b"\n\n"
        return (last if self._usage_chunk else b"") + DONE

    def whole(self, choices: Sequence[Choice], usage: Mapping[str, Any]) -> bytes:
        """The completion."""
        rows = [
            {
                "index": i, "text": choice.text, "logprobs": _table(choice.logprobs, 0) if self._logprobs else None,
                "finish_reason": choice.finish,
            }
            for i, choice in enumerate(choices)
        ]  # fmt: skip
        return _encode({**self._head, "choices": rows, "usage": usage})

    def _event(self, index: int, text: str, logprobs: Any, finish: str | None) -> bytes:
        row = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
        more = {"usage": None} if self._usage_chunk else {}
        return b"data: " + _encode({**self._head, "choices": [row], **more}) + b"\n\n"


def _table(entries: Sequence[Mapping[str, Any]], at: int) -> dict[str, Any]:
    """A chat completion's list of tokens as parallel lists; `at` is where the first token's text begins."""
    offsets = []
    for entry in entries:
        offsets.append(at)
        at += len(entry["token"])
    return {
        "tokens": [entry["token"] for entry in entries],
        "token_logprobs": [entry["logprob"] for entry in entries],
        "top_logprobs": [{row["token"]: row["logprob"] for row in entry["top_logprobs"]} for entry in entries],
        "text_offset": offsets,
    }
