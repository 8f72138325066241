"""Answers in OpenAI's shapes: chat and completion, whole and streamed."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from serve.engine.local.generation import Piece, Told

Spell = Callable[[int], str]  # a token's text


def head(kind: str, model: str) -> dict[str, Any]:
    """The fields that every object of one answer shares; `kind` is "chat.completion" or "text_completion"."""
    prefix = "chatcmpl" if kind.startswith("chat") else "cmpl"
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def usage(counts: Sequence[tuple[int, int, int]]) -> dict[str, Any]:
    """Token counts of one prompt's answers: (prompt, answer, tokens of the prompt that were in the cache) each."""
    prompt, answer = counts[0][0], sum(count[1] for count in counts)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": {"cached_tokens": counts[0][2]},
    }


def chat_choice(index: int, piece: Piece, spell: Spell, *, streamed: bool, first: bool = True) -> dict[str, Any]:
    """One choice of a chat; streamed: a delta, which names the role at `first`."""
    message: dict[str, Any] = {"role": "assistant"} if first or not streamed else {}
    message["content"] = piece.text
    choice = {"index": index, "delta" if streamed else "message": message, "finish_reason": piece.finish or None}
    choice["logprobs"] = {"content": [_entry(told, spell) for told in piece.tokens]} if piece.tokens else None
    return choice


def text_choice(index: int, piece: Piece, spell: Spell, start: int = 0) -> dict[str, Any]:
    """One choice of a completion, whole or a piece; `start` is where its text begins in the whole text."""
    logprobs = _columns(piece.tokens, spell, start) if piece.tokens else None
    return {"index": index, "text": piece.text, "logprobs": logprobs, "finish_reason": piece.finish or None}


def _entry(told: Told, spell: Spell) -> Mapping[str, Any]:
    def one(token: int, logprob: float) -> dict[str, Any]:
        text = spell(token)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    return one(told.token, told.logprob or 0.0) | {"top_logprobs": [one(*pair) for pair in told.top]}


def _columns(tokens: Sequence[Told], spell: Spell, start: int) -> Mapping[str, Any]:
    texts = [spell(told.token) for told in tokens]
    offsets = [start + sum(map(len, texts[:at])) for at in range(len(texts))]
    return {
        "tokens": texts,
        "token_logprobs": [told.logprob for told in tokens],
        "top_logprobs": [
            None if told.logprob is None else {spell(token): value for token, value in told.top} for told in tokens
        ],
        "text_offset": offsets,
    }
