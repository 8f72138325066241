"""The model in memory: logits for tokens; the keys and values of what it has read are kept for the next prompt."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

_GROWTH = 512  # tokens by which a slot's buffers grow
_SHARED = 16  # tokens of common prefix that are worth a copy


class Slot:
    """The keys and values of one text: of `tokens`, in buffers for `capacity` of them."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.tokens: list[int] = []
        self.capacity = 0
        self.busy = False
        self.used = 0  # the session's clock at its last use
        self._buffers: dict[str, Any] = {}
        self._binding: Any = None

    def read(self, ids: Sequence[int], *, first: int = -1) -> np.ndarray[Any, Any]:
        """Read on: the logits (n − first, vocabulary) after each of `ids` from position `first` on; -1: the last."""
        n, total = len(ids), len(self.tokens) + len(ids)
        if total > self.capacity:
            self._grow(total)
        self._binding.bind_output("logits", "cpu")  # anew: their number changes
        bind = self._binding.bind_cpu_input
        bind("ids", np.array([ids], np.int64))
        bind("seqlens", np.array([total - 1], np.int32))
        bind("total", np.array(total, np.int32))
        bind("first", np.array([first % n], np.int64))
        self._session.model.run_with_iobinding(self._binding)
        self.tokens.extend(ids)
        logits: np.ndarray[Any, Any] = self._binding.get_outputs()[0].numpy()[0]
        return logits

    def cut(self, length: int) -> None:
        """Forget all after so many tokens."""
        del self.tokens[length:]

    def copy(self, other: Slot, length: int) -> None:
        """Take over the first `length` tokens of another slot."""
        if length > self.capacity:
            self._grow(length)
        for name, buffer in self._buffers.items():
            buffer.numpy()[:, :, :length] = other._buffers[name].numpy()[:, :, :length]
        self.tokens = other.tokens[:length]

    def _grow(self, length: int) -> None:
        kept, self.capacity = len(self.tokens), -(-length // _GROWTH) * _GROWTH
        binding = self._session.model.io_binding()
        binding.bind_output("logits", "cpu")
        for name, shape in self._session.shapes.items():
            new = np.zeros((1, shape[1], self.capacity, shape[3]), np.float32)
            if kept:
                new[:, :, :kept] = self._buffers[name].numpy()[:, :, :kept]
            self._buffers[name] = value = onnxruntime.OrtValue.ortvalue_from_numpy(new)
            binding.bind_ortvalue_input(f"past.{name}", value)
            binding.bind_ortvalue_output(f"present.{name}", value)  # the same memory: it appends in place
        self._binding = binding


class Session:
    """A converted model and its slots. Not for several threads at once."""

    def __init__(self, file: Path, slots: int, threads: int | None = None) -> None:
        """Load a model; `threads` None: one for each processor that this process may use."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or _processors()
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # a waiting thread burns no core
        self.model = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.shapes = {
            it.name.removeprefix("past."): it.shape for it in self.model.get_inputs() if it.name.startswith("past.")
        }
        self.slots = [Slot(self) for _ in range(slots)]
        self._clock = 0

    def take(self, ids: Sequence[int]) -> Slot | None:
        """A free slot that has read as much of `ids` as any slot has, cut to that; None where all are busy.

        At least one token is left to read, since its logits are wanted.
        """
        free = [slot for slot in self.slots if not slot.busy]
        if not free:
            return None
        known = {id(slot): _common(slot.tokens, ids) for slot in self.slots}
        source = max(self.slots, key=lambda slot: known[id(slot)])
        length = min(known[id(source)], len(ids) - 1)
        # One that it continues is used up; one that it only begins like is left as it is, as long as another is free.
        slot = min(free, key=lambda slot: (slot.used, len(slot.tokens)))
        if not source.busy and (2 * length >= len(source.tokens) or slot is source):
            slot = source
        if slot is not source and length >= _SHARED:
            slot.copy(source, length)
        slot.cut(length if slot is source or length >= _SHARED else 0)
        self._clock += 1
        slot.busy, slot.used = True, self._clock
        return slot


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """The length of the common prefix."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
