"""A chat completion as an engine sends it: read for its text, for how its stream ends, or piece by piece.

Where the client speaks the same API its bytes are passed on, and only the stream's end is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from serve.dialects.dialect import BadEvent, Choice, Ending, Piece, ToolCall, described
from serve.dialects.sse import DONE, data_lines, last_lines
from serve.dialects.wire import NOT_JSON

_T = TypeVar("_T")
_LAST = 16  # events at a stream's end that are looked at
_REASONS = {"length": "length", "content_filter": "content_filter", "tool_calls": "tool_calls"}
_BROKEN_OFF = ("abort", "error")


class _Finish(msgspec.Struct):
    """As much of a choice as the end of a stream is judged by."""

    finish_reason: Any = None


class _Row(_Finish):
    """A choice, whole or in an event of a stream, of either of OpenAI's completions APIs."""

    index: int = 0
    stop_reason: Any = None  # vLLM: the stop string
    message: dict[str, Any] | None = None
    delta: dict[str, Any] | None = None
    text: str | None = None  # of a text completion
    logprobs: Any = None


class _Usage(msgspec.Struct):
    usage: Any = None


class _Last(_Usage):
    choices: list[_Finish] | None = None
    error: Any = None


class _Event(_Usage):
    choices: list[_Row] | None = None
    error: Any = None
    system_fingerprint: Any = None
    service_tier: Any = None


_usage = msgspec.json.Decoder(_Usage)
_last = msgspec.json.Decoder(_Last)
_event = msgspec.json.Decoder(_Event)


def _read(decoder: msgspec.json.Decoder[_T], data: bytes) -> _T | None:
    try:
        return decoder.decode(data)
    except NOT_JSON:
        return None  # [DONE], a torn event, or nothing that we know: the client got it as it is


def text(body: bytes, *, stream: bool) -> str | None:
    """The text of a completion's first choice; None where there is none, as in one that only calls tools."""
    events = [event for data in (data_lines(body) if stream else (body,)) if (event := _read(_event, data)) is not None]
    rows = [row for event in events for row in event.choices or () if row.index == 0]
    texts = [(row.delta or row.message or {}).get("content") or row.text for row in rows]
    words = [text for text in texts if isinstance(text, str)]
    return "".join(words) if words else None


def finish_reason(body: bytes) -> Any:
    """The last finish reason in a stream of one choice; None where none came."""
    events = [event for data in data_lines(body) if (event := _read(_event, data)) is not None]
    return next((r.finish_reason for e in reversed(events) for r in e.choices or () if r.finish_reason), None)


def usage(body: bytes) -> Mapping[str, Any] | None:
    """The usage of a whole answer, as the engine gave it."""
    found = _read(_usage, body)
    if found is None or not isinstance(found.usage, dict):
        return None
    return found.usage if "prompt_tokens" in found.usage else _counted(found.usage)


def _counted(usage: dict[str, Any]) -> Mapping[str, Any]:
    """A usage under a chat completion's names too, where it has those of images and audio."""
    if "prompt_tokens" in usage or not usage.keys() & {"input_tokens", "output_tokens"}:
        return usage
    return {**usage, "prompt_tokens": usage.get("input_tokens"), "completion_tokens": usage.get("output_tokens")}


def ending(tail: bytes) -> Ending:
    """Whether the end of a stream holds [DONE] and a finish reason, its usage, and the error if it holds one."""
    ended, finished = False, False
    usage: Mapping[str, Any] | None = None
    failure: Any = None
    for data in last_lines(tail, _LAST):
        if data == DONE:
            ended = True
        elif finished and (usage is not None or b'"usage"' not in data) and b'"error"' not in data:
            continue  # which nothing can be learned from
        elif (event := _read(_last, data)) is not None:
            usage = _counted(event.usage) if usage is None and isinstance(event.usage, dict) else usage
            failure = event.error if event.error is not None else failure
            finished = finished or any(row.finish_reason for row in event.choices or ())
    return Ending(ended, finished, failure, usage)


class ChatReader:
    """Reads a chat completion, whole or as a stream, of `n` choices."""

    def __init__(self, n: int) -> None:
        self.choices: Sequence[Choice] = [Choice() for _ in range(n)]
        self.usage: Mapping[str, Any] | None = None
        self.error: Any = None
        self.meta: Mapping[str, Any] = {}

    @property
    def complete(self) -> bool:
        """Every choice has ended."""
        return "" not in [choice.finish for choice in self.choices]

    @property
    def finished(self) -> bool:
        """Every choice has ended, and the usage has come."""
        return self.complete and self.usage is not None

    @property
    def cut_off(self) -> bool:
        """Never: nothing but the engine ends a chat completion's choice."""
        return False

    def feed(self, data: bytes) -> list[Piece]:
        """A whole completion or one event of its stream in; pieces out.

        Raises:
            BadEvent: no chat completion, or a choice that was not asked for.
        """
        try:
            event = _event.decode(data)
        except NOT_JSON as error:
            raise BadEvent(f"the engine sent no chat completion: {error}") from None
        self.usage = event.usage if isinstance(event.usage, dict) else self.usage
        self.error = self.error or event.error
        if event.system_fingerprint is not None or event.service_tier is not None:
            self.meta = described(event.system_fingerprint, event.service_tier)
        return [piece for row in event.choices or () for piece in self._pieces(row)]

    def close(self) -> list[Piece]:
        """Nothing: every piece is passed on as it comes."""
        return []

    def _pieces(self, row: _Row) -> list[Piece]:
        if not 0 <= row.index < len(self.choices):
            raise BadEvent(f"the engine sent choice {row.index} of {len(self.choices)}")
        if row.finish_reason in _BROKEN_OFF:
            raise BadEvent(f"the engine broke the answer off ({row.finish_reason})")
        choice, out = self.choices[row.index], []
        piece = _piece(row, len(choice.tools) if row.message else None)
        if piece.text or piece.reasoning or piece.refusal or piece.tools:
            _add(choice, piece)
            out.append(piece)
        if row.finish_reason and not choice.finish:
            choice.finish = _REASONS.get(row.finish_reason, "stop")
            if row.finish_reason == "function_call":
                choice.finish = "tool_calls"
            choice.stop = row.stop_reason if isinstance(row.stop_reason, str) else ""
            out.append(Piece(row.index, finish=choice.finish, stop=choice.stop))
        return out


def _piece(row: _Row, first: int | None) -> Piece:
    """What a row adds. `first` is the number of its first tool call, where they carry none."""
    said = row.message or row.delta or {}
    reasoning = said.get("reasoning_content") or said.get("reasoning")
    entries = row.logprobs.get("content") if isinstance(row.logprobs, dict) else None
    return Piece(
        row.index,
        text=_string(said.get("content")),
        logprobs=entries if isinstance(entries, list) else (),
        reasoning=_string(reasoning),
        refusal=_string(said.get("refusal")),
        tools=_calls(said.get("tool_calls"), first),
    )


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _calls(rows: Any, first: int | None) -> list[ToolCall]:
    calls = []
    for i, row in enumerate(rows if isinstance(rows, list) else ()):
        function = row.get("function") if isinstance(row, dict) else None
        if not isinstance(function, dict):
            raise BadEvent("the engine sent a tool call that is none")
        index = row.get("index", i) if first is None else first + i
        if not isinstance(index, int) or not 0 <= index < 1024:
            raise BadEvent("the engine sent a tool call without a number")
        calls.append(
            ToolCall(index, _string(row.get("id")), _string(function.get("name")), _string(function.get("arguments")))
        )
    return calls


def _add(choice: Choice, piece: Piece) -> None:
    choice.texts.append(piece.text)
    choice.logprobs += piece.logprobs
    choice.reasoning += piece.reasoning
    choice.refusal += piece.refusal
    for call in piece.tools:
        at = next((i for i, known in enumerate(choice.tools) if known.number == call.number), None)
        if at is None:
            choice.tools.append(call)
        else:
            known = choice.tools[at]
            choice.tools[at] = ToolCall(
                call.number, known.id or call.id, known.name or call.name, known.arguments + call.arguments
            )
