"""stderr, shared by everything that the parent reports."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from datetime import UTC, datetime
from typing import IO


class Console:
    """stderr, line by line; on a terminal, with one more line below that is drawn over."""

    def __init__(self, *, as_json: bool = False) -> None:
        """`as_json` is for what goes to stderr: a JSON object a line, as the workers log then."""
        self.as_json = as_json
        self.terminal = sys.stderr.isatty() and not as_json
        self.below = ""

    def say(self, line: str, stream: IO[str] | None = None) -> None:
        """Print a line, above the one that is drawn over; to `stream`, else to stderr."""
        if self.terminal:
            self._write("\r\x1b[K")
        if self.as_json and stream is None:
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            line = json.dumps({"time": now, "level": "info", "logger": "trimtab", "message": line}, ensure_ascii=False)
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
