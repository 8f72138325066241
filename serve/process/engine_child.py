"""A launched engine as the parent keeps it: started through the guard, watched, started again."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from serve.config import Engine
from serve.process import guard
from serve.process.console import Console
from serve.process.launch import Launch
from serve.process.launcher import ask_health, command, free_port
from serve.process.pipes import exit_reason, pause, reading, visible


@dataclass(frozen=True, slots=True)
class Pace:
    """How often and how long, in seconds."""

    probe_starting: float = 0.5
    probe: float = 5.0
    patience: float = 60.0  # an engine that is unwell for so long is started again
    engine_retry: tuple[float, float] = (1.0, 30.0)  # doubling from … to …
    worker_retry: tuple[float, float] = (0.1, 5.0)
    settled: float = 60.0  # after so long in health the wait is the shortest again
    grace: float = 5.0  # what an engine gets between SIGTERM and SIGKILL
    reload: float = 30.0  # what the workers get to load their configuration again
    progress: float = 5.0  # between progress lines where there is no terminal


class EngineChild:
    """A launched engine: one process after another, each on a port of its own, until `stop`."""

    def __init__(self, engine: Engine, pace: Pace, console: Console, changed: Callable[[], None]) -> None:
        self.engine, self.pace, self.console, self.changed = engine, pace, console, changed
        self.stopped = asyncio.Event()
        self.process: asyncio.subprocess.Process | None = None
        self.phase = self.reason = self.last_line = ""
        self.since = self.healthy_since = 0.0
        self.launch = self._next_launch()

    @property
    def state(self) -> dict[str, str]:
        """What the workers are told of it."""
        kind = self.engine.kind or self.launch.kind or ("" if self.engine.command else self.engine.launcher)
        known = {"url": self.launch.base_url, "model": self.launch.model_name, "kind": kind}
        return known | {"state": self.phase, "reason": self.reason}

    def stop(self, *, at_once: bool = False) -> None:
        """End the engine and all that it started, with a grace or at once."""
        self.stopped.set()
        if self.process and self.process.returncode is None:
            self.process.send_signal(signal.SIGQUIT if at_once else signal.SIGTERM)

    def progress(self) -> str:
        """What a starting engine is doing, in a line; "" for any other."""
        if self.phase != "starting" or self.stopped.is_set():
            return ""
        doing = f" ({self.last_line[:60]})" if self.last_line else ""
        seconds = time.monotonic() - self.since
        return f"engine {self.engine.name}: starting {self.launch.what} … {seconds:.0f} s{doing}"

    async def run(self) -> None:
        """Start the engine, again and again with growing pauses, until `stop`."""
        retry_s = self.pace.engine_retry[0]
        while not self.stopped.is_set():
            reason = await self._live()
            if self.stopped.is_set():
                break
            if self.healthy_since and time.monotonic() - self.healthy_since >= self.pace.settled:
                retry_s = self.pace.engine_retry[0]
            self._become("down", reason)
            self.console.say(f"engine {self.engine.name}: {reason}; starting again in {retry_s:g} s")
            await pause(retry_s, self.stopped)
            retry_s = min(2 * retry_s, self.pace.engine_retry[1])
            self.launch = self._next_launch()
            self.changed()
        self._become("down", "stopped")

    def _next_launch(self) -> Launch:
        launch = command(self.engine, free_port())
        self.since, self.healthy_since, self.last_line = time.monotonic(), 0.0, ""
        self.phase, self.reason = "starting", f"starting {launch.what}"
        return launch

    def _become(self, phase: str, reason: str = "") -> None:
        self.phase, self.reason = phase, reason
        self.changed()

    async def _live(self) -> str:
        """One life of the engine; why it ended."""
        mark = os.urandom(8).hex()
        guarded = (sys.executable, "-I", "-S", guard.__file__, "--grace", str(self.pace.grace), "--", *self.launch.argv)
        # Pipes of our own: asyncio's would let an exit wait for an orphan that holds them.
        stdin, lifeline = os.pipe()
        output, stdout = os.pipe()
        try:
            self.process = process = await asyncio.create_subprocess_exec(
                *guarded,
                stdin=stdin,
                stdout=stdout,
                stderr=stdout,
                start_new_session=True,
                cwd=self.launch.cwd,
                env=os.environ | dict(self.launch.env) | {guard.MARK: mark},
            )
        except OSError as error:
            os.close(lifeline)
            os.close(output)
            return f"could not be started: {error.strerror}"
        finally:
            os.close(stdin)
            os.close(stdout)
        exited = asyncio.create_task(process.wait())
        unwell = asyncio.create_task(self._watch())
        logs = asyncio.create_task(self._pass_on(output))
        try:
            if self.stopped.is_set():
                process.terminate()
            await asyncio.wait({exited, unwell}, return_when=asyncio.FIRST_COMPLETED)
            if exited.done():
                return exit_reason(exited.result())
            process.terminate()
            await exited
            return unwell.result()
        finally:
            os.close(lifeline)
            if (process.returncode or 0) < 0:
                guard.sweep(mark)
            unwell.cancel()
            exited.cancel()
            await asyncio.wait({logs}, timeout=1)
            logs.cancel()

    async def _watch(self) -> str:
        """Ask for the engine's health until it must be started again; why."""
        while reason := await ask_health(self.launch, 2.0):
            if time.monotonic() - self.since > self.engine.start_s:
                return f"was not ready within {self.engine.start_s:g} s ({reason})"
            await asyncio.sleep(self.pace.probe_starting)
        self.healthy_since = well = time.monotonic()
        self.console.say(f"engine {self.engine.name}: ready after {well - self.since:.1f} s")
        self._become("ready")
        misses = 0
        while True:
            await asyncio.sleep(self.pace.probe)
            reason = await ask_health(self.launch, 5.0)
            misses = misses + 1 if reason else 0
            if not reason:
                well = time.monotonic()
                self._become("ready")
            elif time.monotonic() - well > self.pace.patience:
                return f"has been unwell for {self.pace.patience:g} s ({reason})"
            elif misses >= 3:  # one slow answer is no illness: it may be busy with a prompt
                self._become("down", reason)

    async def _pass_on(self, fd: int) -> None:
        """Print the engine's log with its name before each line; what is drawn over (…\\r) is progress only."""
        rest = b""
        async with reading(fd) as reader:
            while chunk := await reader.read(65536):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._say(visible(line))
                rest = rest[-16384:]
                self.last_line = visible(rest).strip() or self.last_line
        if rest:
            self._say(visible(rest))

    def _say(self, line: str) -> None:
        if '"GET /health ' not in line:  # an access log's echo of our own questions
            self.last_line = line.strip() or self.last_line
            self.console.say(f"[{self.engine.name}] {line}")
