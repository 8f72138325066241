"""A worker as the parent keeps it: told of the engines over a pipe, heard over another, started again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve.configure.grants import grants
from serve.process.pipes import exit_reason, pause, reading, writing

if TYPE_CHECKING:
    from serve.process.parent import _Supervisor


class WorkerChild:
    """One worker process after another, in the same place. `channel` is an end of the socket pair for large bodies: one
    that gives, or, where the worker is `for_large` bodies, the one that takes."""

    def __init__(
        self,
        index: int,
        owner: _Supervisor,
        argv: Sequence[str],
        config: list[str],
        env: dict[str, str],
        channel: socket.socket | None = None,
        *,
        for_large: bool = False,
    ) -> None:
        self.index, self.owner, self.argv, self.config, self.env = index, owner, argv, config, env
        self.channel, self.for_large = channel, for_large
        self.name = "worker for large bodies" if for_large else f"worker {index}"
        self.process: asyncio.subprocess.Process | None = None
        self.orders: asyncio.WriteTransport | None = None
        self.report_fd = -1
        self.ready, self.answered = False, 0

    async def run(self) -> None:
        """Start the worker, again and again with growing pauses, until the parent stops."""
        pace, stopping = self.owner.pace, self.owner.stopping
        retry_s = pace.worker_retry[0]
        while not stopping.is_set():
            since = time.monotonic()
            code, error = await self._live()
            if stopping.is_set():
                return
            if time.monotonic() - since >= pace.settled:
                retry_s = pace.worker_retry[0]
            self.owner.worker_failed(hopeless=bool(error))
            again = "" if stopping.is_set() else f"; starting again in {retry_s:g} s"
            self.owner.console.say(f"{self.name}: {exit_reason(code)}{again}")
            await pause(retry_s, stopping)
            retry_s = min(2 * retry_s, pace.worker_retry[1])

    async def _live(self) -> tuple[int, str]:
        """One life of the worker: its exit status, and the error that it reported before it was ready."""
        # Pipes of our own: asyncio's would let an exit wait for whoever else holds them.
        stdin, orders = os.pipe()
        reports, self.report_fd = os.pipe()
        self.process = process = await asyncio.create_subprocess_exec(
            *self.argv,
            stdin=stdin,
            pass_fds=(self.owner.fd, self.report_fd, *([self.channel.fileno()] if self.channel else [])),
            start_new_session=True,  # the terminal's Ctrl-C is ours to pass on
            env=self.env,
        )
        os.close(stdin)
        os.close(self.report_fd)
        self.orders = await writing(orders)
        self.tell(grants=grants(self.owner.config))
        if self.owner.stopping.is_set():
            process.terminate()
        hearing = asyncio.create_task(self._hear(reports))
        try:
            code = await process.wait()
            await asyncio.wait({hearing}, timeout=1)
            return code, hearing.result() if hearing.done() else ""
        finally:
            hearing.cancel()
            self.orders.close()
            self.orders, self.ready = None, False
            self.owner.news.set()
            if self.for_large:
                self.owner.tell()
            self._forget(process.pid)

    def tell(self, *, reload: bool = False, **more: Any) -> None:
        """Write a line to the worker, if it lives, with `more` in it."""
        if self.orders:
            fds = {"fd": self.owner.fd, "report_fd": self.report_fd}
            fds |= {"large_fd": self.channel.fileno()} if self.channel else {}
            line = {"config": self.config, **fds, "worker": self.index, **self.owner.message(), **more}
            line |= {"for_large": True} if self.for_large else {}
            line |= {"reload": True} if reload else {}
            self.orders.write(json.dumps(line).encode() + b"\n")

    def signal(self, number: signal.Signals) -> None:
        """Signal the process, if it runs."""
        if self.process and self.process.returncode is None:
            self.process.send_signal(number)

    async def _hear(self, fd: int) -> str:
        """Read the worker's reports until it is gone; the error that kept it from being ready."""
        error = ""
        async with reading(fd) as reader:
            while (line := await reader.readline()).endswith(b"\n"):
                report = json.loads(line)
                if "error" in report:
                    error = "" if self.ready else str(report["error"])
                    self.answered = self.owner.revision
                    self.owner.console.say(f"{self.name}: {report['error']}")
                elif report.get("ready"):
                    self.ready, self.answered = True, self.owner.revision
                    self.owner.worker_ready()
                    if self.for_large:
                        self.owner.tell()
                elif report.get("large"):
                    self.owner.start_large()
                self.answered = max(self.answered, report.get("reloaded", 0))
                self.owner.news.set()
        return error

    def _forget(self, pid: int) -> None:
        """Drop a dead worker's live gauges, as prometheus_client's mark_process_dead does."""
        if folder := self.env.get("PROMETHEUS_MULTIPROC_DIR"):
            for file in Path(folder).glob(f"gauge_live*_{pid}.db"):
                file.unlink(missing_ok=True)
