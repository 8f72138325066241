"""A message as the client gets it: events of a stream, one block after the other, or whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from serve.dialects.dialect import Choice, Piece, ToolCall
from serve.dialects.wire import NOT_JSON
from serve.errors import UpstreamFailed

_encode = msgspec.json.encode
_REASONS = {"length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
Kind = Literal["text", "thinking"]


class MessageWriter:
    """Writes one message.

    Args:
        ident: the message's id.
        model: the model name to report.
    """

    def __init__(self, ident: str, model: str) -> None:
        self._ident, self._model = ident, model
        self._index = -1  # of the last block
        self._open: Kind | int | None = None  # what it holds, a call by its number; None once it has ended
        self._arguments = ""  # of the open call, so far
        self._held: dict[int, ToolCall] = {}  # calls that began before the open one was complete
        self._end: dict[str, Any] = {"stop_reason": "end_turn", "stop_sequence": None}

    def describe(self, meta: Mapping[str, Any]) -> None:
        """Nothing: these answers have no place for it."""

    def start(self) -> bytes:
        """message_start, whose usage is not known yet, and a ping."""
        message = self._message([], {"stop_reason": None, "stop_sequence": None}, {})
        return _event("message_start", {"message": message}) + _event("ping", {})

    def delta(self, piece: Piece) -> bytes:
        """The events of a piece's thinking, text and calls; the first of each kind also opens its block."""
        out = self._say("thinking", piece.reasoning) if piece.reasoning else b""
        out += self._say("text", piece.text + piece.refusal) if piece.text or piece.refusal else b""
        return out + b"".join([self._argue(call) for call in piece.tools])

    def end(self, piece: Piece) -> bytes:
        """The events that close all blocks."""
        self._end = _ending(piece.finish, piece.stop)
        out = self._close()
        for call in self._held.values():
            out += self._begin_call(call) + self._close()
        self._held.clear()
        return out

    def close(self, usage: Mapping[str, Any]) -> bytes:
        """message_delta with the reason and the usage, and message_stop."""
        return _event("message_delta", {"delta": self._end, "usage": _usage(usage)}) + _event("message_stop", {})

    def whole(self, choices: Sequence[Choice], usage: Mapping[str, Any]) -> bytes:
        """The message.

        Raises:
            UpstreamFailed: a call's arguments are not a JSON object, which this API requires.
        """
        choice = choices[0]
        blocks: list[dict[str, Any]] = []
        if choice.reasoning:
            blocks.append({"type": "thinking", "thinking": choice.reasoning, "signature": ""})
        if said := choice.text + choice.refusal:
            blocks.append({"type": "text", "text": said})
        blocks += [self._tool_use(call, _object(call)) for call in choice.tools]
        return _encode(self._message(blocks, _ending(choice.finish, choice.stop), usage))

    # -- blocks

    def _say(self, kind: Kind, text: str) -> bytes:
        out = b""
        if self._open != kind:
            empty = {"type": "text", "text": ""} if kind == "text" else {"type": kind, "thinking": "", "signature": ""}
            out = self._close() + self._begin(kind, empty)
        return out + self._delta({"type": f"{kind}_delta", kind: text})

    def _argue(self, piece: ToolCall) -> bytes:
        number = piece.number
        if self._open == number and isinstance(self._open, int):
            return self._arguing(piece.arguments)
        known = self._held.get(number)
        if known or (isinstance(self._open, int) and not _complete(self._arguments)):
            # Blocks must not interleave, so this call is held until the open one has ended.
            joined = known.arguments + piece.arguments if known else piece.arguments
            self._held[number] = ToolCall(number, (known or piece).id, (known or piece).name, joined)
            return b""
        return self._close() + self._begin_call(piece)

    def _begin_call(self, call: ToolCall) -> bytes:
        self._arguments = ""
        return self._begin(call.number, self._tool_use(call, {})) + self._arguing(call.arguments)

    def _arguing(self, arguments: str) -> bytes:
        self._arguments += arguments
        return self._delta({"type": "input_json_delta", "partial_json": arguments}) if arguments else b""

    def _tool_use(self, call: ToolCall, given: Any) -> dict[str, Any]:
        return {
            "type": "tool_use", "id": call.id or f"toolu_{self._ident}{call.number:02d}", "name": call.name,
            "input": given,
        }  # fmt: skip

    def _begin(self, holds: Kind | int, block: dict[str, Any]) -> bytes:
        self._open, self._index = holds, self._index + 1
        return _event("content_block_start", {"index": self._index, "content_block": block})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", {"index": self._index, "delta": delta})

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        return _event("content_block_stop", {"index": self._index})

    def _message(self, content: Any, end: Mapping[str, Any], usage: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "id": f"msg_{self._ident}", "type": "message", "role": "assistant", "model": self._model,
            "content": content, **end, "usage": _usage(usage),
        }  # fmt: skip


def _ending(finish: str, stop: str) -> dict[str, Any]:
    if stop:
        return {"stop_reason": "stop_sequence", "stop_sequence": stop}
    return {"stop_reason": _REASONS.get(finish, "end_turn"), "stop_sequence": None}


def _usage(counts: Mapping[str, Any]) -> dict[str, Any]:
    """A chat completion's usage under this API's names, where cached tokens are not among the input's."""
    details = counts.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    before = max(0, counts.get("prompt_tokens", 0) - (cached or 0))
    return {
        "input_tokens": before, "output_tokens": counts.get("completion_tokens", 0),
        "cache_creation_input_tokens": 0, "cache_read_input_tokens": cached or 0,
    }  # fmt: skip


def _complete(arguments: str) -> bool:
    try:
        msgspec.json.decode(arguments)
    except NOT_JSON:
        return False
    return True


def _object(call: ToolCall) -> dict[str, msgspec.Raw]:
    try:
        return msgspec.json.decode(call.arguments or "{}", type=dict[str, msgspec.Raw])
    except NOT_JSON:
        raise UpstreamFailed(f"the engine called {call.name!r} with arguments that are not a JSON object") from None


def _event(kind: str, row: Mapping[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), _encode({"type": kind, **row}))
