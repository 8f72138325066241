"""A text completion as an engine sends it, whole or as a stream, read piece by piece.

Each choice's text runs through `Ending`, so what the client gets stops where the answer does, whatever the engine's
own idea of `stop`. Log-probabilities are cut to the tokens whose text was passed on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from prompt_opt.core import Prompt
from prompt_opt.layout.ending import Ending
from serve.dialects.dialect import BadEvent, Choice, Piece, described
from serve.dialects.wire import NOT_JSON

# How many more pieces an engine may send after an answer has ended before it is cut off: its own stop usually comes
# with the next one, and with it the usage.
_PATIENCE = 2
_UNLIKELY = -9999.0  # what OpenAI gives for a token too unlikely to say
_REASONS = {"length": "length", "content_filter": "content_filter"}  # any other end is "stop" in a chat completion
_BROKEN_OFF = ("abort", "error")  # but for these, which are none


class _Logprobs(msgspec.Struct):
    """Parallel lists, one entry a token."""

    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float | None] | None] | None = None


class _Row(msgspec.Struct):
    index: int = 0
    text: str | None = ""
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None
    stop_reason: Any = None  # vLLM: the stop string


class _Event(msgspec.Struct):
    """The part of a completion, or of one event of its stream, that a chat completion is made of."""

    choices: list[_Row] | None = None
    usage: dict[str, Any] | None = None
    error: Any = None
    system_fingerprint: Any = None
    service_tier: Any = None


_event = msgspec.json.Decoder(_Event)


class _Choice(Choice):
    """One choice on its way: what has ended, and the tokens whose text is still held back."""

    __slots__ = ("_seen", "_stops", "_top", "_waiting", "ending", "reported")

    def __init__(self, ending: Ending, top: int | None, stops: tuple[str, ...]) -> None:
        super().__init__()
        self.ending, self._top, self._stops = ending, top, stops
        self.reported = False  # a piece with the finish reason has been passed on
        self._seen = 0  # characters that the engine has sent
        self._waiting: deque[tuple[int, dict[str, Any]]] = deque()  # (where the token's text ends, its entry)

    def take(self, row: _Row) -> tuple[str, list[dict[str, Any]]]:
        """The text and the log-probabilities that this row sets free."""
        if row.logprobs is not None:
            for entry in _logprobs(row.logprobs, self._top):
                self._seen += len(entry["token"])
                self._waiting.append((self._seen, entry))
        text = self.ending.feed(row.text or "")
        if self.ending.ended and not self.finish:
            self.finish, self.stop = "stop", self.ending.stop
        if row.finish_reason and not self.finish:
            self.stop = row.stop_reason if row.stop_reason in self._stops else ""
            text += self.ending.close()
            self.finish = _REASONS.get(row.finish_reason, "stop")
        return text, self._free(text)

    def close(self) -> tuple[str, list[dict[str, Any]]]:
        """The engine is done with this choice: what was held back."""
        text = self.ending.close()
        self.finish = self.finish or "stop"
        return text, self._free(text)

    def _free(self, text: str) -> list[dict[str, Any]]:
        self.texts.append(text)
        if not self._waiting:
            return []
        free = []
        while self._waiting and self._waiting[0][0] <= self.ending.length:
            free.append(self._waiting.popleft()[1])
        self.logprobs += free
        return free


class TextReader:
    """Reads one text completion, whole or as a stream.

    Args:
        prompt: what was asked; its stops and its fence end the answer.
        stops: the client's own stop strings.
        n: choices that were asked for.
        logprobs: how many alternatives each token has beside its own log-probability; None for no log-probabilities.
    """

    def __init__(self, prompt: Prompt, stops: tuple[str, ...], n: int, logprobs: int | None = None) -> None:
        self._rows = [_Choice(Ending(prompt.stops, prompt.fence, stops), logprobs, stops) for _ in range(n)]
        self.choices: Sequence[Choice] = self._rows
        self.usage: Mapping[str, Any] | None = None
        self.error: Any = None
        self.meta: Mapping[str, Any] = {}
        self._late = 0

    @property
    def finished(self) -> bool:
        """Nothing more is wanted of the engine: every choice has ended, and it had its chance to send the usage."""
        return self.complete and (self.usage is not None or self.cut_off)

    @property
    def cut_off(self) -> bool:
        """Every choice has ended, and the engine goes on all the same."""
        return self.complete and self._late > _PATIENCE

    @property
    def complete(self) -> bool:
        """Every choice has ended, by our stop or the engine's word."""
        for choice in self._rows:  # noqa: SIM110  as all() would be slower, for every event
            if not choice.finish:
                return False
        return True

    def feed(self, data: bytes) -> list[Piece]:
        """A whole completion or one event of its stream in; pieces out, possibly none.

        Raises:
            BadEvent: no completion, or a choice that was not asked for.
        """
        try:
            event = _event.decode(data)
        except NOT_JSON as error:
            raise BadEvent(f"the engine sent no completion: {error}") from None
        self.usage = event.usage or self.usage
        self.error = self.error or event.error
        if event.system_fingerprint is not None or event.service_tier is not None:
            self.meta = described(event.system_fingerprint, event.service_tier)
        out: list[Piece] = []
        for row in event.choices or ():
            if not 0 <= row.index < len(self._rows):
                raise BadEvent(f"the engine sent choice {row.index} of {len(self._rows)}")
            choice = self._rows[row.index]
            if row.finish_reason in _BROKEN_OFF and not choice.finish:
                raise BadEvent(f"the engine broke the answer off ({row.finish_reason})")
            if choice.finish:
                self._late += 1
            text, logprobs = choice.take(row)
            if text:
                out.append(Piece(row.index, text, logprobs=logprobs))
            if choice.finish and not choice.reported:
                choice.reported = True
                out.append(Piece(row.index, finish=choice.finish, stop=choice.stop))
        return out

    def close(self) -> list[Piece]:
        """Held back text, and the finish reasons that no piece had yet."""
        out: list[Piece] = []
        for index, choice in enumerate(self._rows):
            if choice.reported:
                continue
            choice.reported = True
            text, logprobs = choice.close()
            if text:
                out.append(Piece(index, text, logprobs=logprobs))
            out.append(Piece(index, finish=choice.finish, stop=choice.stop))
        return out


def _logprobs(table: _Logprobs | None, top: int | None) -> list[dict[str, Any]]:
    """Completions' parallel lists as chat's list of tokens, each with its `top` likeliest alternatives."""
    if table is None or not table.tokens or top is None:
        return []
    values = table.token_logprobs or [None] * len(table.tokens)
    tops = table.top_logprobs or [None] * len(table.tokens)
    return [
        {**_token(token, value), "top_logprobs": [_token(*pair) for pair in _likeliest(alternatives or {}, top)]}
        for token, value, alternatives in zip(table.tokens, values, tops, strict=False)
    ]


def _likeliest(alternatives: Mapping[str, float | None], top: int) -> list[tuple[str, float | None]]:
    # Engines give one more than was asked for when the token that they chose is not among the likeliest.
    return sorted(alternatives.items(), key=lambda pair: _UNLIKELY if pair[1] is None else pair[1], reverse=True)[:top]


def _token(token: str, value: float | None) -> dict[str, Any]:
    return {"token": token, "logprob": _UNLIKELY if value is None else value, "bytes": list(token.encode())}
