"""A text completion turned into a chat completion, whole or as a stream.

Each choice's text runs through `Ending`, so what the client gets stops where the answer does, whatever the engine's
own idea of `stop`. Log-probabilities are cut to the tokens whose text was passed on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec

from prompt_opt.core import Prompt
from prompt_opt.layout.ending import Ending

_encode = msgspec.json.encode
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


class _Choice(msgspec.Struct):
    index: int = 0
    text: str | None = ""
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Event(msgspec.Struct):
    """The part of a completion, or of one event of its stream, that a chat completion is made of."""

    choices: list[_Choice] | None = None
    usage: dict[str, Any] | None = None
    error: Any = None


_event = msgspec.json.Decoder(_Event)


class BadEvent(ValueError):
    """The engine sent something that is no completion; the message says what."""


class _Answer:
    """One choice on its way: what has ended, and the tokens whose text is still held back."""

    def __init__(self, ending: Ending, top: int | None) -> None:
        self.ending, self.top = ending, top
        self.texts: list[str] = []
        self.logprobs: list[dict[str, Any]] = []
        self.finish_reason: str | None = None
        self.reported = False  # the stream has been told the finish reason
        self.seen = 0  # characters that the engine has sent
        self.waiting: deque[tuple[int, dict[str, Any]]] = deque()  # (where the token's text ends, its entry)

    def take(self, choice: _Choice) -> tuple[str, list[dict[str, Any]]]:
        """The text and the log-probabilities that this piece sets free."""
        piece = choice.text or ""
        for entry in _logprobs(choice.logprobs, self.top):
            self.seen += len(entry["token"])
            self.waiting.append((self.seen, entry))
        text = self.ending.feed(piece)
        if self.ending.ended and self.finish_reason is None:
            self.finish_reason = "stop"
        if choice.finish_reason and self.finish_reason is None:
            text += self.ending.close()
            self.finish_reason = _REASONS.get(choice.finish_reason, "stop")
        return text, self._free(text)

    def close(self) -> tuple[str, list[dict[str, Any]]]:
        """The engine is done with this choice: what was held back."""
        text = self.ending.close()
        self.finish_reason = self.finish_reason or "stop"
        return text, self._free(text)

    def _free(self, text: str) -> list[dict[str, Any]]:
        self.texts.append(text)
        free = []
        while self.waiting and self.waiting[0][0] <= self.ending.length:
            free.append(self.waiting.popleft()[1])
        self.logprobs += free
        return free


class Translation:
    """Reads one completion's JSON or events; writes one chat completion's.

    Args:
        ident: the chat completion's id.
        model: the model name to report.
        client_stops: the client's own stop strings.
        logprobs: how many alternatives each token has beside its own log-probability; None for no log-probabilities.
        usage_chunk: the client asked for a last chunk with the usage (`stream_options.include_usage`).
    """

    def __init__(
        self,
        prompt: Prompt,
        client_stops: tuple[str, ...],
        n: int,
        ident: str,
        model: str,
        created: int,
        *,
        logprobs: int | None = None,
        usage_chunk: bool = False,
    ) -> None:
        self._answers = [_Answer(Ending(prompt.stops, prompt.fence, client_stops), logprobs) for _ in range(n)]
        self._logprobs, self._usage_chunk = logprobs is not None, usage_chunk
        self._id, self._model, self._created = ident, model, created
        head = {"id": ident, "object": "chat.completion.chunk", "created": created, "model": model}
        self._head = b"data: " + _encode(head)[:-1] + b',"choices":['
        self._late = 0
        self.usage: dict[str, Any] | None = None
        self.error: Any = None

    @property
    def finished(self) -> bool:
        """Nothing more is wanted of the engine: every choice has ended, and it had its chance to say the usage."""
        return self.complete and (self.usage is not None or self.cut_off)

    @property
    def cut_off(self) -> bool:
        """Every choice has ended, and the engine goes on all the same."""
        return self.complete and self._late > _PATIENCE

    @property
    def complete(self) -> bool:
        """Every choice has ended, by our stop or the engine's word."""
        return all(a.finish_reason for a in self._answers)

    @property
    def text(self) -> str:
        """All text passed on, of all choices."""
        return "".join(text for answer in self._answers for text in answer.texts)

    @property
    def answer(self) -> str:
        """The text passed on of the first choice."""
        return "".join(self._answers[0].texts)

    # -- streamed

    def opening(self) -> bytes:
        """The first chunk of every choice, which says the role."""
        return b"".join(
            self._chunk(i, {"role": "assistant", "content": ""}, None, None) for i in range(len(self._answers))
        )

    def feed(self, data: bytes) -> bytes:
        """A whole completion or one event of its stream in; chunks out, possibly none.

        Raises:
            BadEvent: no completion, or a choice that was not asked for.
        """
        try:
            event = _event.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise BadEvent(f"the engine sent no completion: {error}") from None
        self.usage = event.usage or self.usage
        self.error = self.error or event.error
        out = []
        for choice in event.choices or ():
            if not 0 <= choice.index < len(self._answers):
                raise BadEvent(f"the engine sent choice {choice.index} of {len(self._answers)}")
            if choice.finish_reason in _BROKEN_OFF and not self._answers[choice.index].finish_reason:
                raise BadEvent(f"the engine broke the answer off ({choice.finish_reason})")
            index, answer = choice.index, self._answers[choice.index]
            if answer.finish_reason:
                self._late += 1
            text, logprobs = answer.take(choice)
            if text:
                out.append(self._piece(index, text, logprobs))
            if answer.finish_reason and not answer.reported:
                answer.reported = True
                out.append(self._chunk(index, {}, None, answer.finish_reason))
        return b"".join(out)

    def closing(self, usage: dict[str, Any]) -> bytes:
        """What ends the stream: held back text, finish reasons, the usage if it was asked for, [DONE]."""
        out = []
        for index, answer in enumerate(self._answers):
            if answer.reported:
                continue
            text, logprobs = answer.close()
            if text:
                out.append(self._piece(index, text, logprobs))
            out.append(self._chunk(index, {}, None, answer.finish_reason))
        if self._usage_chunk:
            out.append(self._head + b'],"usage":' + _encode(usage) + b"}\n\n")
        return b"".join(out) + b"data: [DONE]\n\n"

    def _piece(self, index: int, text: str, logprobs: list[dict[str, Any]]) -> bytes:
        return self._chunk(index, {"content": text}, {"content": logprobs} if self._logprobs else None, None)

    def _chunk(self, index: int, delta: dict[str, Any], logprobs: Any, finish_reason: str | None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return self._head + _encode(choice) + (b'],"usage":null}\n\n' if self._usage_chunk else b"]}\n\n")

    # -- whole

    def reply(self, usage: dict[str, Any]) -> bytes:
        """The chat completion."""
        choices = []
        for index, answer in enumerate(self._answers):
            if not answer.ending.ended:
                answer.close()
            message = {"role": "assistant", "content": "".join(answer.texts), "refusal": None}
            logprobs = {"content": answer.logprobs, "refusal": None} if self._logprobs else None
            choices.append(
                {"index": index, "message": message, "logprobs": logprobs, "finish_reason": answer.finish_reason}
            )
        head = {"id": self._id, "object": "chat.completion", "created": self._created, "model": self._model}
        return _encode({**head, "choices": choices, "usage": usage})


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
