"""A chat completion as the client gets it: chunks of a stream, or whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from serve.dialects.dialect import Choice, Piece, ToolCall

_encode = msgspec.json.encode
DONE = b"data: [DONE]\n\n"


class ChatWriter:
    """Writes one chat completion.

    Args:
        ident: the chat completion's id.
        model: the model name to report.
        created: seconds since 1970.
        n: choices.
        logprobs: the client asked for log-probabilities.
        usage_chunk: the client asked for a last chunk with the usage (`stream_options.include_usage`).
    """

    def __init__(
        self, ident: str, model: str, created: int, n: int = 1, *, logprobs: bool = False, usage_chunk: bool = False
    ) -> None:
        self._id, self._model, self._created, self._n = ident, model, created, n
        self._logprobs, self._usage_chunk = logprobs, usage_chunk
        self._meta: Mapping[str, Any] = {}
        self._known = b""

    def describe(self, meta: Mapping[str, Any]) -> None:
        """Give the engine's fingerprint and tier in every chunk from here on."""
        self._meta, self._known = meta, b""

    def start(self) -> bytes:
        """The first chunk of every choice, which gives the role."""
        return b"".join([self._chunk(i, {"role": "assistant", "content": ""}, None, None) for i in range(self._n)])

    def delta(self, piece: Piece) -> bytes:
        """A chunk with the piece's text, reasoning and tool calls."""
        delta: dict[str, Any] = {"content": piece.text} if piece.text else {}
        if piece.reasoning:
            delta["reasoning_content"] = piece.reasoning
        if piece.tools:
            delta["tool_calls"] = [{"index": call.number, **_call(call)} for call in piece.tools]
        return self._chunk(piece.choice, delta, {"content": list(piece.logprobs)} if self._logprobs else None, None)

    def end(self, piece: Piece) -> bytes:
        """A chunk with the choice's finish reason."""
        return self._chunk(piece.choice, {}, None, piece.finish)

    def close(self, usage: Mapping[str, Any]) -> bytes:
        """The usage, if it was asked for, and [DONE]."""
        return (self._head() + b'],"usage":' + _encode(usage) + b"}\n\n" if self._usage_chunk else b"") + DONE

    def whole(self, choices: Sequence[Choice], usage: Mapping[str, Any]) -> bytes:
        """The chat completion."""
        rows = []
        for index, choice in enumerate(choices):
            message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": choice.refusal or None}
            if choice.tools:
                message["tool_calls"] = [_call(call) for call in choice.tools]
            logprobs = {"content": choice.logprobs, "refusal": None} if self._logprobs else None
            rows.append({"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.finish})
        head = {"id": self._id, "object": "chat.completion", "created": self._created, "model": self._model}
        return _encode({**head, "choices": rows, "usage": usage, **self._meta})

    def _head(self) -> bytes:
        """What every chunk begins with; a whole answer has no need of it."""
        if not self._known:
            head = {"id": self._id, "object": "chat.completion.chunk", "created": self._created, "model": self._model}
            self._known = b"data: " + _encode({**head, **self._meta})[:-1] + b',"choices":['
        return self._known

    def _chunk(self, index: int, delta: dict[str, Any], logprobs: Any, finish_reason: str | None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return self._head() + _encode(choice) + (b'],"usage":null}\n\n' if self._usage_chunk else b"]}\n\n")


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}
