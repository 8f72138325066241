"""A GGUF model on llama.cpp with several sequences at once, shared prefixes, and log-probabilities of the prompt.

`llama-server` gives no log-probabilities of a prompt, and `llama-cpp-python`'s own server sorts the whole vocabulary
for each of its tokens. Here a prompt's tokens are scored in numpy, and what begins like an earlier prompt is read once.
Needs `llama-cpp-python` and numpy; `http_engine.py` is the server around it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import llama_cpp
import numpy as np

BATCH = 256  # tokens decoded at a time; their logits are BATCH x vocabulary floats


@dataclass
class Job:
    """A prompt to score (`most` 0) or to go on from. `put` hears (token, its logprob, top) and, at the end, a string.

    Of a scored prompt `put` hears one list, with a log-probability for each token, None for the first.
    """

    tokens: list[int]
    put: Callable[[Any], None]
    most: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    penalty: float = 1.0
    top: int = 0
    rng: np.random.Generator = field(default_factory=np.random.default_rng)
    stopped: threading.Event = field(default_factory=threading.Event)
    cached: int = 0


@dataclass
class Slot:
    """A sequence: the tokens that llama.cpp holds of it, and the log-probability of each where it was computed."""

    number: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float | None] = field(default_factory=list)
    job: Job | None = None
    written: int = 0
    used: int = 0


class Model:
    """Owns the model, its context, and the one thread that may touch them."""

    def __init__(self, path: str, context: int, slots: int, threads: int) -> None:
        self.whole = llama_cpp.Llama(path, vocab_only=True, verbose=False)
        metadata = self.whole.metadata
        self.template = metadata.get("tokenizer.chat_template", "")
        params = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(path.encode(), params)
        self.vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.size = llama_cpp.llama_vocab_n_tokens(self.vocab)
        options = llama_cpp.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch, options.n_seq_max = context * slots, BATCH, BATCH, slots
        options.n_threads = options.n_threads_batch = threads
        # A cache for each sequence, so that attention sees its own tokens only; whole, so that it can be cut back.
        options.kv_unified, options.swa_full = False, True
        self._context = llama_cpp.llama_init_from_model(self._model, options)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = llama_cpp.llama_batch_init(BATCH, 0, 1)
        self.context, self._slots, self._clock = context, [Slot(n) for n in range(slots)], 0
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._waiting: list[Job] = []
        threading.Thread(target=self._work, daemon=True).start()

    def tokenize(self, text: str) -> list[int]:
        """Tokens as the engine reads a prompt: special tokens count, and the beginning's is added where it belongs."""
        bos = self.whole.token_bos()
        tokens = self.whole.tokenize(text.encode(), add_bos=True, special=True)
        return tokens[1:] if tokens[:2] == [bos, bos] else tokens

    def piece(self, token: int) -> bytes:
        """The bytes of a token."""
        return self.whole.detokenize([token], special=True)

    def ends(self, token: int) -> bool:
        """Whether the token ends an answer."""
        return bool(llama_cpp.llama_vocab_is_eog(self.vocab, token))

    def submit(self, job: Job) -> None:
        """Have the job done; its `put` is called from the worker's thread."""
        self._jobs.put(job)

    # ------------------------------------------------------------ the worker

    def _work(self) -> None:
        while True:
            busy = any(slot.job for slot in self._slots) or self._waiting
            try:
                self._waiting.append(self._jobs.get(block=not busy))
                continue
            except queue.Empty:
                pass
            self._assign()
            self._step()

    def _assign(self) -> None:
        """A slot for each job that waits, as long as there is one: what another sequence has read is shared."""
        while self._waiting and (free := [slot for slot in self._slots if slot.job is None]):
            job = self._waiting.pop(0)
            shared = {slot.number: self._shared(slot, job) for slot in self._slots}
            source = max(self._slots, key=lambda slot: shared[slot.number])
            slot = min(free, key=lambda slot: (slot is not source, slot.used))
            keep = shared[source.number]
            if slot is source:
                llama_cpp.llama_memory_seq_rm(self._memory, slot.number, keep, -1)
            else:
                llama_cpp.llama_memory_seq_rm(self._memory, slot.number, -1, -1)
                if keep:  # between sequences only the whole can be copied
                    llama_cpp.llama_memory_seq_cp(self._memory, source.number, slot.number, -1, -1)
                    llama_cpp.llama_memory_seq_rm(self._memory, slot.number, keep, -1)
            known = keep if job.most else keep + 1  # where a prompt is scored, the next token is the same too
            slot.tokens, slot.logprobs = source.tokens[:keep], source.logprobs[:known]
            slot.job, slot.written, job.cached = job, 0, keep
            self._clock += 1
            slot.used = self._clock

    def _shared(self, slot: Slot, job: Job) -> int:
        """Tokens at the beginning that need not be read again. The last one must: its logits are wanted."""
        most = min(len(slot.tokens), len(job.tokens) - 1)
        count = next((i for i in range(most) if slot.tokens[i] != job.tokens[i]), most)
        if not job.most and count:  # each score must be known, and the one behind needs the logits of the last
            known = next((i for i in range(1, count) if slot.logprobs[i] is None), count)
            count = known - 1
        return count

    def _step(self) -> None:
        """One batch: a token of every answer, and as much of the prompts as there is room for."""
        batch, at, wanted = self._batch, 0, []
        active = sorted((s for s in self._slots if s.job), key=lambda s: s.written == 0)
        for slot in active:
            job = slot.job
            assert job is not None
            for position in range(len(slot.tokens), len(job.tokens)):
                if at == BATCH:
                    break
                last = position == len(job.tokens) - 1
                batch.token[at], batch.pos[at] = job.tokens[position], position
                batch.n_seq_id[at], batch.seq_id[at][0] = 1, slot.number
                batch.logits[at] = last if job.most else not last
                if batch.logits[at]:
                    wanted.append((slot, position, at))
                slot.tokens.append(job.tokens[position])
                at += 1
        batch.n_tokens = at
        status = llama_cpp.llama_decode(self._context, batch)
        if status:
            self._fail(f"llama_decode returned {status}")
            return
        scored: dict[int, list[tuple[int, int]]] = {}
        for slot, position, index in wanted:
            if slot.job and slot.job.most:
                self._write(slot, index)
            else:
                scored.setdefault(slot.number, []).append((position, index))
        for number, places in scored.items():
            self._score(self._slots[number], places)
        for slot in active:
            if slot.job and not slot.job.most and len(slot.tokens) == len(slot.job.tokens):
                self._finish(slot, [None, *slot.logprobs[1 : len(slot.tokens)]])

    def _logits(self, index: int) -> np.ndarray:
        pointer = llama_cpp.llama_get_logits_ith(self._context, index)
        return np.ctypeslib.as_array(pointer, shape=(self.size,))

    def _score(self, slot: Slot, places: Sequence[tuple[int, int]]) -> None:
        job = slot.job
        assert job is not None
        for position, index in places:
            logits = self._logits(index)
            highest = logits.max()
            normal = float(np.log(np.exp(logits - highest).sum(dtype=np.float64)) + highest)
            del slot.logprobs[position + 1 :]
            slot.logprobs += [None] * (position + 1 - len(slot.logprobs))
            slot.logprobs.append(float(logits[job.tokens[position + 1]]) - normal)

    def _write(self, slot: Slot, index: int) -> None:
        job = slot.job
        assert job is not None
        logits = self._logits(index).copy()
        if job.penalty != 1.0:
            seen = np.unique(job.tokens)
            logits[seen] = np.where(logits[seen] > 0, logits[seen] / job.penalty, logits[seen] * job.penalty)
        token = int(logits.argmax()) if job.temperature <= 0 else self._drawn(job, logits.astype(np.float64))
        slot.written += 1
        job.put((token, *_likelihoods(logits, token, job.top)))
        if self.ends(token):
            return self._finish(slot, "stop")
        job.tokens.append(token)
        if job.stopped.is_set() or slot.written >= job.most or len(job.tokens) >= self.context:
            return self._finish(slot, "length")
        return None

    def _drawn(self, job: Job, logits: np.ndarray) -> int:
        chances = np.exp((logits - logits.max()) / job.temperature)
        chances /= chances.sum()
        if job.top_p < 1:
            order = np.argsort(-chances)
            kept = order[: int(np.searchsorted(np.cumsum(chances[order]), job.top_p)) + 1]
            return int(job.rng.choice(kept, p=chances[kept] / chances[kept].sum()))
        return int(job.rng.choice(len(chances), p=chances))

    def _finish(self, slot: Slot, what: Any) -> None:
        job, slot.job = slot.job, None
        assert job is not None
        slot.logprobs = (slot.logprobs + [None] * len(slot.tokens))[: len(slot.tokens)]
        job.put(what)

    def _fail(self, why: str) -> None:
        """What is under way ends with an error, and the memory is cleared."""
        llama_cpp.llama_memory_clear(self._memory, True)
        for slot in self._slots:
            slot.tokens, slot.logprobs = [], []
            if slot.job:
                job, slot.job = slot.job, None
                job.put(RuntimeError(why))


def _likelihoods(logits: np.ndarray, token: int, top: int) -> tuple[float, list[tuple[int, float]]]:
    """Of the token and of the `top` likeliest; (nan, []) where nobody asked, for a large vocabulary takes its time."""
    if not top:
        return float("nan"), []
    logits = logits.astype(np.float64) - logits.max()
    logprobs = logits - np.log(np.exp(logits).sum())
    best = np.argpartition(-logprobs, top)[:top]
    return float(logprobs[token]), sorted(((int(i), float(logprobs[i])) for i in best), key=lambda pair: -pair[1])
