"""Pipes to child processes, and how a child ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator


def exit_reason(code: int) -> str:
    """How a process with this exit status came to its end, as a message says it."""
    number = -code if code < 0 else code - 128
    if number > 0 and number in set(signal.Signals):
        return f"was killed by {signal.Signals(number).name}"
    return f"exited with status {code}"


async def pause(seconds: float, until: asyncio.Event) -> None:
    """Sleep, but no longer than until the event."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(until.wait(), seconds)


def visible(line: bytes) -> str:
    """What a terminal would show of a line that is partly drawn over."""
    return line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace")


@contextlib.asynccontextmanager
async def reading(fd: int) -> AsyncIterator[asyncio.StreamReader]:
    """Read a pipe, and close it at the end."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", 0)
    )
    try:
        yield reader
    finally:
        transport.close()


async def writing(fd: int) -> asyncio.WriteTransport:
    """Write to a pipe without ever waiting for its reader."""
    transport, _ = await asyncio.get_running_loop().connect_write_pipe(asyncio.BaseProtocol, os.fdopen(fd, "wb", 0))
    return transport
