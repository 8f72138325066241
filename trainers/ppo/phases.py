"""Seconds, CPU time, tokens and peak memory of a step's phases: generate, score, evaluate, update."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Phase:
    """Sums over all steps; `cpu_seconds` counts all threads, and on a busy machine it says more than `seconds`.

    `peak` is the most memory in bytes, None where it cannot be read.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    tokens: int = 0
    peak: int | None = None


class Phases:
    """Of this process, over all parts of a run that was resumed."""

    def __init__(self) -> None:
        self.known: dict[str, Phase] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Time what happens within."""
        phase = self.known.setdefault(name, Phase())
        forget_peak()
        start, worked = time.perf_counter(), time.process_time()
        yield
        phase.seconds += time.perf_counter() - start
        phase.cpu_seconds += time.process_time() - worked
        if (bytes_now := peak()) is not None:
            phase.peak = max(phase.peak or 0, bytes_now)

    def count(self, name: str, tokens: int) -> None:
        """Answers' tokens that the phase worked on."""
        self.known[name].tokens += tokens

    def state(self) -> dict[str, dict[str, Any]]:
        """For a checkpoint."""
        return {name: asdict(phase) for name, phase in self.known.items()}

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Go on from a `state`."""
        self.known = {name: Phase(**values) for name, values in state.items()}

    def table(self) -> dict[str, dict[str, Any]]:
        """For run.json."""
        whole = sum(phase.seconds for phase in self.known.values()) or 1.0
        return {
            name: {
                "seconds": round(phase.seconds, 2), "cpu_seconds": round(phase.cpu_seconds, 2),
                "share": round(phase.seconds / whole, 3), "tokens": phase.tokens,
                "tokens_per_s": round(phase.tokens / phase.seconds, 1) if phase.seconds else None,
                "peak_mb": None if phase.peak is None else round(phase.peak / 2**20),
            }
            for name, phase in self.known.items()
        }  # fmt: skip

    def lines(self) -> str:
        """For a terminal."""
        rows = [f"{'phase':<10} {'seconds':>9} {'CPU s':>9} {'share':>6} {'tokens/s':>9} {'peak MB':>8}"]
        rows += [
            f"{name:<10} {row['seconds']:>9.1f} {row['cpu_seconds']:>9.1f} {row['share']:>6.0%} "
            f"{row['tokens_per_s'] or 0:>9.1f} {row['peak_mb'] or 0:>8}"
            for name, row in self.table().items()
        ]
        return "\n".join(rows)


def forget_peak() -> None:
    """Begin a new peak: of the GPU's memory, or on Linux of this process's resident memory."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif CLEAR.exists():
        CLEAR.write_text("5")


def peak() -> int | None:
    """The most bytes since `forget_peak`; None where the system does not say."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    if not STATUS.exists():
        return None
    found = [line.split()[1] for line in STATUS.read_text().splitlines() if line.startswith("VmHWM")]
    return int(found[0]) * 1024 if found else None
