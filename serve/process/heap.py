"""The freed memory that malloc keeps in a worker, and its return to the kernel.

A worker keeps what its large bodies took (see `THRESHOLDS`), which soon is the most that ever came together, cut into
pieces in between. So from time to time, what is more than `KEPT` goes back: page by page, wherever it lies in the heap.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

# What glibc's malloc reads in a worker. By default it returns the memory of every copy of a large body to the kernel,
# which then has to zero as many pages for the next copy: three quarters of the time that a copy takes.
THRESHOLDS = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**27), "MALLOC_ARENA_MAX": "1"}
KEPT = 2**25  # bytes of freed memory that a worker keeps
_CHANGED = 2**20  # bytes by which it must have grown since the last time


class _Info(ctypes.Structure):
    """mallinfo2(3), since glibc 2.33; `fordblks` are the free bytes."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    )


class Heap:
    """This process's heap, where its C library is one whose malloc can be asked."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        self._trim = getattr(library, "malloc_trim", None)
        self._info = getattr(library, "mallinfo2", None)
        if self._info is not None:
            self._info.restype = _Info
        self._left = 0  # bytes that were resident once it had last been given back

    def give_back(self) -> bool:
        """Return freed memory to the kernel, where there is much of it; whether it was done.

        It takes a tenth of a millisecond a megabyte, without the interpreter's lock but with malloc's: call it beside
        the event loop.
        """
        if self._trim is None or self._info is None:
            return False
        # What has been given back counts as free all the same.
        if _resident() - self._left < _CHANGED or self._info().fordblks < KEPT:
            return False
        self._trim(0)
        self._left = _resident()
        return True


def _resident() -> int:
    """Bytes of this process that are in memory; Linux only."""
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
