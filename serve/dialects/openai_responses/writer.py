"""A response as the client gets it: events of a stream, each with its number, or whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from serve.dialects.dialect import Choice, Piece, ToolCall
from serve.dialects.openai_responses import objects
from serve.dialects.wire import Request

_encode = msgspec.json.encode
Kind = Literal["text", "refusal", "reasoning"]
# kind of a part -> (what its delta and done events begin with, its type, the field of its text)
_PARTS: Mapping[str, tuple[str, str, str]] = {
    "text": ("response.output_text", "output_text", "text"),
    "refusal": ("response.refusal", "refusal", "refusal"),
    "reasoning": ("response.reasoning_text", "reasoning_text", "text"),
}


@dataclass(slots=True)
class _Item:
    """An output item on its way: a message or reasoning with one part open, or a call."""

    id: str
    index: int
    kind: Kind | Literal["call"]
    texts: list[str] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    call: ToolCall = field(default_factory=lambda: ToolCall(0))

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def part(self, *, empty: bool = False) -> dict[str, Any]:
        """The item's only part, so far or as it begins."""
        text = "" if empty else self.text
        if self.kind == "text":
            return objects.output_text(text, () if empty else self.logprobs)
        _, kind, name = _PARTS[self.kind]
        return {"type": kind, name: text}

    def row(self, status: str, *, empty: bool = False) -> dict[str, Any]:
        """The item, so far or as it begins."""
        if self.kind == "call":
            call = self.call._replace(arguments="" if empty else self.text)
            return objects.function_call(self.id, status, call)
        content = [] if empty else [self.part()]
        return (objects.reasoning if self.kind == "reasoning" else objects.message)(self.id, status, content)


class ResponsesWriter:
    """Writes one response.

    Args:
        request: the request; the response echoes parts of it.
        ident: unique; the ids of the response and its items are made of it.
        model: the model name to report.
        created: seconds since 1970.
    """

    def __init__(self, request: Request, ident: str, model: str, created: int) -> None:
        self._request, self._ident, self._model, self._created = request, ident, model, created
        self._number = -1
        self._items: list[_Item] = []
        self._done: list[dict[str, Any]] = []
        self._open: _Item | None = None  # text, a refusal or reasoning
        self._calls: dict[int, _Item] = {}  # all stay open: an engine may interleave them
        self._finish = ""

    def describe(self, meta: Mapping[str, Any]) -> None:
        """Nothing: these answers have no place for it."""

    def start(self) -> bytes:
        """response.created and response.in_progress."""
        row = {"response": self._response("in_progress", ())}
        return self._event("response.created", row) + self._event("response.in_progress", row)

    def delta(self, piece: Piece) -> bytes:
        """The events of a piece's reasoning, text, refusal and calls; the first of each kind also opens its item."""
        out = self._say("reasoning", piece.reasoning, ()) if piece.reasoning else b""
        out += self._say("text", piece.text, piece.logprobs) if piece.text else b""
        out += self._say("refusal", piece.refusal, ()) if piece.refusal else b""
        return out + b"".join([self._argue(call) for call in piece.tools])

    def end(self, piece: Piece) -> bytes:
        """The events that close all items."""
        self._finish = piece.finish
        out = b"" if self._items else self._add("text")  # an empty answer is still a message
        out += self._close_open()
        for item in self._calls.values():
            out += self._close_call(item)
        self._calls.clear()
        return out

    def close(self, usage: Mapping[str, Any]) -> bytes:
        """response.completed, or response.incomplete where the answer was cut short."""
        row = self._final(usage)
        return self._event(f"response.{row['status']}", {"response": row})

    def whole(self, choices: Sequence[Choice], usage: Mapping[str, Any]) -> bytes:
        """The response object: reasoning first, then the message, then the calls."""
        choice = choices[0]
        # A new writer: `delta` has already been fed this answer's pieces, whose events a whole answer discards.
        fresh = ResponsesWriter(self._request, self._ident, self._model, self._created)
        fresh.delta(Piece(0, choice.text, "", choice.logprobs, choice.reasoning, choice.refusal, choice.tools))
        fresh.end(Piece(0, finish=choice.finish))
        return _encode(fresh._final(usage))

    # -- items

    def _say(self, kind: Kind, text: str, logprobs: Sequence[Any]) -> bytes:
        out = b""
        if self._open is None or self._open.kind != kind:
            out = self._close_open() + self._add(kind)
        item = self._open
        assert item is not None
        item.texts.append(text)
        item.logprobs += logprobs
        more = {"logprobs": list(logprobs)} if kind == "text" else {}
        return out + self._event(f"{_PARTS[kind][0]}.delta", {**_place(item), "delta": text, **more})

    def _add(self, kind: Kind) -> bytes:
        prefix = "rs" if kind == "reasoning" else "msg"
        self._open = item = self._new(prefix, kind)
        added = {"output_index": item.index, "item": item.row("in_progress", empty=True)}
        part = {**_place(item), "part": item.part(empty=True)}
        return self._event("response.output_item.added", added) + self._event("response.content_part.added", part)

    def _new(self, prefix: str, kind: Kind | Literal["call"]) -> _Item:
        index = len(self._items)
        item = _Item(f"{prefix}_{self._ident}{index:02d}", index, kind)
        self._items.append(item)
        self._done.append({})
        return item

    def _close_open(self) -> bytes:
        item, self._open = self._open, None
        if item is None:
            return b""
        name, _, field_name = _PARTS[item.kind]
        more = {"logprobs": item.logprobs} if item.kind == "text" else {}
        out = self._event(f"{name}.done", {**_place(item), field_name: item.text, **more})
        out += self._event("response.content_part.done", {**_place(item), "part": item.part()})
        return out + self._finished(item)

    def _argue(self, piece: ToolCall) -> bytes:
        out = b""
        if (item := self._calls.get(piece.number)) is None:
            out = self._close_open()
            item = self._calls[piece.number] = self._new("fc", "call")
            item.call = ToolCall(piece.number, piece.id or f"call_{self._ident}{item.index:02d}", piece.name)
            added = {"output_index": item.index, "item": item.row("in_progress", empty=True)}
            out += self._event("response.output_item.added", added)
        if piece.arguments:
            item.texts.append(piece.arguments)
            row = {"item_id": item.id, "output_index": item.index, "delta": piece.arguments}
            out += self._event("response.function_call_arguments.delta", row)
        return out

    def _close_call(self, item: _Item) -> bytes:
        row = {"item_id": item.id, "output_index": item.index, "name": item.call.name, "arguments": item.text}
        return self._event("response.function_call_arguments.done", row) + self._finished(item)

    def _finished(self, item: _Item) -> bytes:
        row = item.row(objects.STATUS.get(self._finish, "completed"))
        self._done[item.index] = row
        return self._event("response.output_item.done", {"output_index": item.index, "item": row})

    def _final(self, usage: Mapping[str, Any]) -> dict[str, Any]:
        status, details = objects.STATUS.get(self._finish, "completed"), objects.incomplete(self._finish)
        return self._response(status, self._done, incomplete_details=details, usage=objects.usage(usage))

    def _response(self, status: str, output: Sequence[Any], **more: Any) -> dict[str, Any]:
        return objects.response(
            self._request, f"resp_{self._ident}", self._model, self._created, status, output, **more
        )

    def _event(self, kind: str, row: Mapping[str, Any]) -> bytes:
        self._number += 1
        data = _encode({"type": kind, "sequence_number": self._number, **row})
        return b"event: %s\ndata: %s\n\n" % (kind.encode(), data)


def _place(item: _Item) -> dict[str, Any]:
    return {"item_id": item.id, "output_index": item.index, "content_index": 0}
