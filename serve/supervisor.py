"""The parent process: it owns the port, the workers, the launched engines and the signals. It answers no request.

    parent ── worker 0…n    one JSON object per line on stdin; its reports on a pipe of its own
           └─ guard ── engine ── whatever it starts

SIGTERM, SIGINT: the workers drain for up to `drain_s`, then the engines stop. A second one kills at once.
SIGHUP: the configuration is loaded again; a wrong one changes nothing.
kill -9: the pipes to workers and guards close, which is what they watch; nothing is left within two seconds.

What a worker reads (each line is the whole truth; only the highest `revision` counts):

    {"config": [...], "fd": 3, "report_fd": 5, "worker": 0, "revision": 7,
     "engines": {"main": {"url": "http://127.0.0.1:4711", "model": "tiny", "kind": "transformers",
                          "state": "starting" | "ready" | "down", "reason": ""}}}

with `"reload": true` where it must load its configuration again. End of file: the parent is dead, leave at once.
What it reports: {"ready": true} once it listens; {"reloaded": REVISION}; {"error": "…"}, then the old stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from serve import guard
from serve.config import Config, ConfigError, Engine
from serve.launcher import Launch, ask_health, command, free_port, resolve

# -P: a folder called serve where the user stands must not become our worker.
WORKER = (sys.executable, "-P", "-m", "serve.worker")


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


def run(
    load: Callable[[], Config], *, argv: Sequence[str], worker: Sequence[str] = WORKER, pace: Pace | None = None
) -> int:
    """Serve until told to stop; the exit status. Raises ConfigError for what is wrong before anything has started.

    `argv` is what a worker needs to load the same configuration.
    """
    config = load()
    engines = _resolved(config)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_listen(config.server.host, config.server.port))
        env = dict(os.environ)
        if config.server.workers > 1:
            import tempfile

            env["PROMETHEUS_MULTIPROC_DIR"] = stack.enter_context(tempfile.TemporaryDirectory(prefix="trimtab-"))
        return asyncio.run(_Supervisor(load, config, argv, worker, pace or Pace(), listener, env).serve(engines))


class _Supervisor:
    """The one owner of every child."""

    def __init__(
        self,
        load: Callable[[], Config],
        config: Config,
        argv: Sequence[str],
        worker: Sequence[str],
        pace: Pace,
        listener: socket.socket,
        env: dict[str, str],
    ) -> None:
        self.load, self.config, self.pace = load, config, pace
        self.listener, self.fd = listener, listener.fileno()
        self.console = _Console()
        self.stopping, self.reload_wanted, self.news = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.status = 0
        self.boots = 0  # workers that died before any was ever ready
        self.announced = False
        self.revision, self.told = 1, ""
        self.engines: dict[str, _EngineChild] = {}  # those of the configuration in force
        self.children: set[_EngineChild] = set()  # these, the ones being tried and the ones being retired
        self.workers = [_Worker(i, self, worker, list(argv), env) for i in range(config.server.workers)]

    async def serve(self, engines: Mapping[str, Engine]) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        # Should one of these tasks raise, the group ends the others, we end, and what is left sees its pipe close.
        async with asyncio.TaskGroup() as self.tasks:
            self.engines = {name: self._start(engine) for name, engine in engines.items()}
            running = [self.tasks.create_task(worker.run()) for worker in self.workers]
            aside = [self.tasks.create_task(self._reloads()), self.tasks.create_task(self._show_progress())]
            await self.stopping.wait()
            self.console.say(f"trimtab: stopping; running answers have {self.config.server.drain_s:g} s")
            self.listener.close()
            for worker in self.workers:
                worker.signal(signal.SIGTERM)
            await asyncio.wait(running, timeout=self.config.server.drain_s + 5)
            for worker in self.workers:
                worker.signal(signal.SIGKILL)
            for task in aside:
                task.cancel()
            for child in self.children:
                child.stop()
        return self.status

    def _start(self, engine: Engine) -> _EngineChild:
        child = _EngineChild(engine, self.pace, self.console, self.tell)
        self.children.add(child)
        self.tasks.create_task(child.run()).add_done_callback(lambda _: self.children.discard(child))
        return child

    def _on_stop(self, number: signal.Signals) -> None:
        if not self.stopping.is_set():
            self.stopping.set()
            return
        self.status = 128 + number
        for worker in self.workers:
            worker.signal(signal.SIGKILL)
        for child in self.children:
            child.stop(at_once=True)

    def _on_hangup(self) -> None:
        if self.console.terminal and not os.isatty(2):
            self.stopping.set()  # the terminal that we were started from is gone
        else:
            self.reload_wanted.set()

    def message(self) -> dict[str, Any]:
        """What every worker must know now."""
        return {"revision": self.revision, "engines": {name: child.state for name, child in self.engines.items()}}

    def tell(self, *, reload: bool = False) -> None:
        """Send the workers the state of the engines, if it is news."""
        self.news.set()
        news = json.dumps(self.message()["engines"])
        if news != self.told or reload:
            self.told = news
            self.revision += 1
            for worker in self.workers:
                worker.tell(reload=reload)

    def worker_ready(self) -> None:
        if not self.announced:
            self.announced = True
            host, port = self.config.server.host, self.listener.getsockname()[1]
            self.console.say(f"trimtab: serving on http://{f'[{host}]' if ':' in host else host}:{port}", sys.stdout)

    def worker_failed(self, *, hopeless: bool) -> None:
        """A worker died. Before any has ever listened, the third time is a mistake that waiting won't mend."""
        self.boots += not self.announced
        if not self.announced and not self.stopping.is_set() and (hopeless or self.boots >= 3):
            self.console.say("trimtab: the workers do not start; giving up")
            self.status = 1
            self.stopping.set()

    async def _reloads(self) -> None:
        while True:
            await self.reload_wanted.wait()
            self.reload_wanted.clear()
            try:
                await self._reload(self.load())
            except (ValueError, OSError) as error:  # ConfigError or not: no slip of a file's editor may end us
                self.console.say(f"trimtab: not reloaded, the old configuration stays: {error}")

    async def _reload(self, config: Config) -> None:
        """Start what is new, switch the workers over, retire what is old. What is unchanged runs on."""
        engines = _resolved(config)
        kept = {n: c for n, c in self.engines.items() if n in engines and _spec(c.engine) == _spec(engines[n])}
        new = {name: self._start(engine) for name, engine in engines.items() if name not in kept}
        await self._until(lambda: not any(child.phase == "starting" for child in new.values()))
        if failed := [c for c in new.values() if c.phase == "down"]:
            for child in new.values():
                child.stop()
            raise ConfigError("; ".join(f"engine {c.engine.name} {c.reason}" for c in failed))
        old = [child for name, child in self.engines.items() if name not in kept]
        for name, child in kept.items():
            child.engine = engines[name]
        self.engines = {name: (kept | new)[name] for name in engines}
        fixed = [k for k in ("host", "port", "workers") if getattr(config.server, k) != getattr(self.config.server, k)]
        self.config = config
        self.tell(reload=True)
        revision = self.revision
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.pace.reload):
                await self._until(lambda: not any(w.ready and w.answered < revision for w in self.workers))
        self.console.say("trimtab: reloaded" + (f"; server.{', '.join(fixed)} after a restart" if fixed else ""))
        if old:
            self.tasks.create_task(self._retire(old))

    async def _until(self, met: Callable[[], bool]) -> None:
        """Wait for something that engines and workers bring about."""
        while not met():
            self.news.clear()
            await self.news.wait()

    async def _retire(self, old: Sequence[_EngineChild]) -> None:
        """Stop engines once the requests that began with them have had their time."""
        await _pause(self.config.server.drain_s, self.stopping)
        for child in old if not self.stopping.is_set() else ():
            child.stop()

    async def _show_progress(self) -> None:
        said = time.monotonic()
        while True:
            texts = [text for child in self.children if (text := child.progress())]
            if self.console.terminal:
                self.console.show(" · ".join(texts))
            elif time.monotonic() - said >= self.pace.progress:
                said = time.monotonic()
                for text in texts:
                    self.console.say(text)
            await asyncio.sleep(0.25)


class _Worker:
    """One worker process after another, in the same place."""

    def __init__(self, index: int, owner: _Supervisor, argv: Sequence[str], config: list[str], env: dict[str, str]):
        self.index, self.owner, self.argv, self.config, self.env = index, owner, argv, config, env
        self.process: asyncio.subprocess.Process | None = None
        self.orders: asyncio.WriteTransport | None = None
        self.report_fd = -1
        self.ready, self.answered = False, 0

    async def run(self) -> None:
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
            self.owner.console.say(f"worker {self.index}: {_ended(code)}{again}")
            await _pause(retry_s, stopping)
            retry_s = min(2 * retry_s, pace.worker_retry[1])

    async def _live(self) -> tuple[int, str]:
        """One life of the worker: its exit status, and the error that it reported before it was ready."""
        # Pipes of our own: asyncio's would let an exit wait for whoever else holds them.
        stdin, orders = os.pipe()
        reports, self.report_fd = os.pipe()
        self.process = process = await asyncio.create_subprocess_exec(
            *self.argv,
            stdin=stdin,
            pass_fds=(self.owner.fd, self.report_fd),
            start_new_session=True,  # the terminal's Ctrl-C is ours to pass on
            env=self.env,
        )
        os.close(stdin)
        os.close(self.report_fd)
        self.orders = await _writing(orders)
        self.tell()
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
            self._forget(process.pid)

    def tell(self, *, reload: bool = False) -> None:
        """Write a line to the worker, if it lives."""
        if self.orders:
            fds = {"fd": self.owner.fd, "report_fd": self.report_fd}
            line = {"config": self.config, **fds, "worker": self.index, **self.owner.message()}
            line |= {"reload": True} if reload else {}
            self.orders.write(json.dumps(line).encode() + b"\n")

    def signal(self, number: signal.Signals) -> None:
        if self.process and self.process.returncode is None:
            self.process.send_signal(number)

    async def _hear(self, fd: int) -> str:
        """Read the worker's reports until it is gone; the error that kept it from being ready."""
        error = ""
        async with _reading(fd) as reader:
            while (line := await reader.readline()).endswith(b"\n"):
                report = json.loads(line)
                if "error" in report:
                    error = "" if self.ready else str(report["error"])
                    self.answered = self.owner.revision
                    self.owner.console.say(f"worker {self.index}: {report['error']}")
                elif report.get("ready"):
                    self.ready, self.answered = True, self.owner.revision
                    self.owner.worker_ready()
                self.answered = max(self.answered, report.get("reloaded", 0))
                self.owner.news.set()
        return error

    def _forget(self, pid: int) -> None:
        """Drop a dead worker's live gauges, as prometheus_client's mark_process_dead does."""
        if folder := self.env.get("PROMETHEUS_MULTIPROC_DIR"):
            for file in Path(folder).glob(f"gauge_live*_{pid}.db"):
                file.unlink(missing_ok=True)


class _EngineChild:
    """A launched engine: one process after another, each on a port of its own, until `stop`."""

    def __init__(self, engine: Engine, pace: Pace, console: _Console, changed: Callable[[], None]) -> None:
        self.engine, self.pace, self.console, self.changed = engine, pace, console, changed
        self.stopped = asyncio.Event()
        self.process: asyncio.subprocess.Process | None = None
        self.phase = self.reason = self.last_line = ""
        self.since = self.healthy_since = 0.0
        self.launch = self._next_launch()

    @property
    def state(self) -> dict[str, str]:
        """What the workers are told of it."""
        kind = self.engine.kind or ("" if self.engine.command else self.engine.launcher)
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
        retry_s = self.pace.engine_retry[0]
        while not self.stopped.is_set():
            reason = await self._live()
            if self.stopped.is_set():
                break
            if self.healthy_since and time.monotonic() - self.healthy_since >= self.pace.settled:
                retry_s = self.pace.engine_retry[0]
            self._become("down", reason)
            self.console.say(f"engine {self.engine.name}: {reason}; starting again in {retry_s:g} s")
            await _pause(retry_s, self.stopped)
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
                return _ended(exited.result())
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
        async with _reading(fd) as reader:
            while chunk := await reader.read(65536):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._say(_visible(line))
                rest = rest[-16384:]
                self.last_line = _visible(rest).strip() or self.last_line
        if rest:
            self._say(_visible(rest))

    def _say(self, line: str) -> None:
        if '"GET /health ' not in line:  # an access log's echo of our own questions
            self.last_line = line.strip() or self.last_line
            self.console.say(f"[{self.engine.name}] {line}")


class _Console:
    """stderr, line by line; on a terminal, with one more line below that is drawn over."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.below = ""

    def say(self, line: str, stream: IO[str] | None = None) -> None:
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


def _resolved(config: Config) -> dict[str, Engine]:
    return {name: resolve(engine) for name, engine in config.engines.items() if engine.launched}


def _spec(engine: Engine) -> tuple[object, ...]:
    """What an engine must be started again for."""
    return (engine.launcher, engine.command, engine.model, engine.served_name)


def _listen(host: str, port: int) -> socket.socket:
    """Listen, as ConfigError where we can't. Connections wait in the backlog until a worker takes them."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048, dualstack_ipv6=host == "::")
    except OSError as error:
        why = {
            errno.EADDRINUSE: f"port {port} is in use, try --port",
            errno.EACCES: f"port {port} is not ours to open, try --port with one above 1023",
            errno.EADDRNOTAVAIL: f"server.host {host!r} is no address of this machine",
        }
        raise ConfigError(why.get(error.errno or 0, f"server.host {host!r}: {error.strerror}")) from error


def _ended(code: int) -> str:
    number = -code if code < 0 else code - 128
    if number > 0 and number in set(signal.Signals):
        return f"was killed by {signal.Signals(number).name}"
    return f"exited with status {code}"


async def _pause(seconds: float, until: asyncio.Event) -> None:
    """Sleep, but no longer than until the event."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(until.wait(), seconds)


def _visible(line: bytes) -> str:
    """What a terminal would show of a line that is partly drawn over."""
    return line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace")


@contextlib.asynccontextmanager
async def _reading(fd: int) -> AsyncIterator[asyncio.StreamReader]:
    """Read a pipe, and close it at the end."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", 0)
    )
    try:
        yield reader
    finally:
        transport.close()


async def _writing(fd: int) -> asyncio.WriteTransport:
    """Write to a pipe without ever waiting for its reader."""
    transport, _ = await asyncio.get_running_loop().connect_write_pipe(asyncio.BaseProtocol, os.fdopen(fd, "wb", 0))
    return transport
