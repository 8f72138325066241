"""One answer, token by token, and several answers in turns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import numpy as np
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from serve.engine.local.sampling import Floats, Sampling, choose, log_softmax
from serve.engine.local.session import Session, Slot

_CHUNK = 128  # tokens of a prompt that are read before other answers get their turn


@dataclass(frozen=True, slots=True)
class Told:
    """One token with its log-probability, and the most likely ones there."""

    token: int
    logprob: float | None  # None: the first of a prompt, which nothing predicts
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of an answer: text that no stop string can take back any more."""

    text: str
    tokens: tuple[Told, ...] = ()  # where log-probabilities are wanted
    finish: str = ""  # "stop" or "length" on the last piece
    counts: tuple[int, int, int] = (0, 0, 0)  # on the last: tokens of the prompt, of the answer, read before


@dataclass(slots=True)
class _Held:
    """Text that has come but may be the beginning of a stop string."""

    stops: tuple[str, ...]
    parts: list[tuple[str, tuple[Told, ...]]] = field(default_factory=list)

    def add(self, text: str, tokens: tuple[Told, ...]) -> Piece | None:
        """Take more; the last piece where a stop string is complete."""
        self.parts.append((text, tokens))
        joined = "".join(part for part, _ in self.parts)
        found = [at for stop in self.stops if (at := joined.find(stop)) >= 0]
        return self._release(min(found), "stop") if found else None

    def free(self) -> Piece:
        """What cannot be part of a stop string."""
        joined = "".join(part for part, _ in self.parts)
        kept = max((n for stop in self.stops for n in range(1, len(stop)) if joined.endswith(stop[:n])), default=0)
        return self._release(len(joined) - kept)

    def _release(self, length: int, finish: str = "") -> Piece:
        """The text up to `length`, with the tokens that begin in it; without a `finish` whole parts only."""
        out, tokens = "", tuple[Told, ...]()
        while self.parts and (len(out) + len(self.parts[0][0]) <= length or finish):
            if finish and len(out) >= length:
                break
            text, told = self.parts.pop(0)
            out, tokens = out + text, (*tokens, *told)
        return Piece(out[:length], tokens, finish)


def score(session: Session, ids: Sequence[int], top: int) -> Generator[None, None, list[Told]]:
    """The log-probability of each token of a text after those before it; yields between pieces of work."""
    slot = yield from _slot(session, ids, whole=True)
    told = [Told(ids[0], None)]
    try:
        for at in range(0, len(ids) - 1, _CHUNK):
            rows = log_softmax(slot.read(ids[at : min(at + _CHUNK, len(ids) - 1)], first=0))
            told += [_told(token, row, top) for token, row in zip(ids[at + 1 :], rows, strict=False)]
            yield
    finally:
        slot.busy = False
    return told


def generate(
    session: Session, tokenizer: Tokenizer, ids: Sequence[int], it: Sampling, ends: frozenset[int]
) -> Generator[Piece | None, None, None]:
    """The answer to a prompt in pieces; None between pieces of work that give none. Closing it frees its slot."""
    slot = yield from _slot(session, ids)
    cached, said, prompt = len(slot.tokens), Counter[int](), frozenset(ids)
    rng, held, stream = np.random.default_rng(it.seed), _Held(it.stop), DecodeStream(skip_special_tokens=True)
    try:
        logits = yield from _read(slot, ids[cached:])
        for count in range(1, it.max_tokens + 1):
            token = choose(logits, it, said, prompt, rng)
            counts = (len(ids), count, cached)
            if token in ends and not it.ignore_eos:
                yield _last(held, "stop", counts)
                return
            said[token] += 1
            told = () if it.logprobs is None else (_told(token, log_softmax(logits), it.logprobs),)
            stopped = held.add(stream.step(tokenizer, token) or "", told)
            if stopped is not None or count == it.max_tokens:
                yield _last(held, "length", counts, stopped)
                return
            yield held.free()
            logits = slot.read([token])[-1]
    finally:
        slot.busy = False


def _last(held: _Held, finish: str, counts: tuple[int, int, int], stopped: Piece | None = None) -> Piece:
    piece = stopped or Piece("".join(text for text, _ in held.parts), tuple(t for _, told in held.parts for t in told))
    return Piece(piece.text, piece.tokens, piece.finish or finish, counts)


def _slot(session: Session, ids: Sequence[int], *, whole: bool = False) -> Generator[None, None, Slot]:
    """A slot for a prompt, as soon as one is free; `whole`: one that has read nothing of it."""
    while (slot := session.take(ids)) is None:
        yield
    if whole:
        slot.cut(0)
    return slot


def _read(slot: Slot, ids: Sequence[int]) -> Generator[None, None, Floats]:
    """Read a prompt; the logits after its last token."""
    logits: Floats = np.empty(0, np.float32)
    for at in range(0, len(ids), _CHUNK):
        logits = slot.read(ids[at : at + _CHUNK])[-1]
        yield
    return logits


def _told(token: int, logprobs: Floats, top: int) -> Told:
    best = np.argpartition(-logprobs, top)[:top] if top else np.array([], np.int64)
    ranked = sorted(((int(i), float(logprobs[i])) for i in best), key=lambda pair: -pair[1])
    return Told(token, float(logprobs[token]), tuple(ranked))
