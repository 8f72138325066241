"""stderr, shared by everything that the parent reports."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import IO


class Console:
    """stderr, line by line; on a terminal, with one more line below that is drawn over."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.below = ""

    def say(self, line: str, stream: IO[str] | None = None) -> None:
        """Print a line, above the one that is drawn over; to `stream`, else to stderr."""
        if self.terminal:
            self._write("\r\x1b[K")
        self._write(line + "\n", stream)
        self._write(self.below)

    def show(self, text: str) -> None:
        """Draw the line below anew ("" for none)."""
        if text or self.below:
            with contextlib.suppress(OSError):  # the terminal may just have gone
                text = text[: os.get_terminal_size(2).columns - 1]
            self.below = text
            self._write(f"\r\x1b[K{text}")

    def _write(self, text: str, stream: IO[str] | None = None) -> None:
        # Where nobody reads any more (a closed terminal, a pipe's dead end) there is nobody to tell; we serve on.
        with contextlib.suppress(OSError):
            print(text, end="", file=stream or sys.stderr, flush=True)
