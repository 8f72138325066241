"""The parent process: it owns the port, the workers, the launched engines and the signals. It answers no request.

    parent ── worker 0…n    one JSON object per line on stdin; its reports on a pipe of its own
           ├─ one for large bodies beside four workers, from the first body on (`serve.process.handover`)
           └─ guard ── engine ── whatever it starts

SIGTERM, SIGINT: the workers drain for up to `drain_s`, then the engines stop. A second one kills at once.
SIGHUP: the configuration is loaded again; a wrong one changes nothing.
kill -9: the pipes to workers and guards close, which is what they watch; nothing is left within two seconds.

What a worker reads (each line is the whole truth; only the highest `revision` counts):

    {"config": [...], "fd": 3, "report_fd": 5, "worker": 0, "revision": 7,
     "host": "0.0.0.0", "keyed": true, "large": false, "large_fd": 7, "metrics": "",
     "engines": {"main": {"url": "http://127.0.0.1:4711", "model": "tiny", "kind": "transformers",
                          "state": "starting" | "ready" | "down", "reason": ""}}}

with `"reload": true` where it must load its configuration again. `host` is what the socket is bound to, `keyed` whether
callers need keys, and the first line's `grants` what keys may do: a configuration that would open the server further
is refused. `large` says that the worker for large bodies is ready, `large_fd` is the socket on the way to it, `metrics`
the folder in which it counts if the others do not; with `"for_large": true` the worker is that one.
End of file: the parent is dead, leave at once.
What it reports: {"ready": true} once it listens; {"reloaded": REVISION}; {"error": "…"}, then the old stays;
{"large": true} when it has read the head of a request with a large body for the first time.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import math
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from serve.config import Config, ConfigError, Engine
from serve.configure.grants import grants, refuse_widening
from serve.configure.server import refuse_opening
from serve.process import handover, heap
from serve.process.console import Console
from serve.process.engine_child import EngineChild, Pace
from serve.process.launcher import resolve
from serve.process.pipes import pause
from serve.process.worker_child import WorkerChild

_BESIDE = 4  # workers that one worker for large bodies is enough for: it moves some 100 MB of them a second
WORKER = (sys.executable, "-P", "-m", "serve.process.worker")


def run(
    load: Callable[[], Config], *, argv: Sequence[str], worker: Sequence[str] = WORKER, pace: Pace | None = None
) -> int:
    """Serve until told to stop; the exit status. Raises ConfigError for what is wrong before anything has started.

    `argv` is what a worker needs to load the same configuration.
    """
    config = load()
    engines = _resolved(config)
    _check_writable(config.state_dir)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_listen(config.server.host, config.server.port))
        env = {**heap.THRESHOLDS, **os.environ}
        if config.server.workers > 1:
            env["PROMETHEUS_MULTIPROC_DIR"] = _counts(stack)
        return asyncio.run(_Supervisor(load, config, argv, worker, pace or Pace(), listener, env, stack).serve(engines))


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
        stack: contextlib.ExitStack,
    ) -> None:
        self.load, self.config, self.pace = load, config, pace
        self.listener, self.fd = listener, listener.fileno()
        self.bound = config.server.host  # a reload does not bind anew
        self.console = Console(as_json=config.server.log == "json")
        self.stopping, self.reload_wanted, self.news = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.status = 0
        self.boots = 0  # workers that died before any was ever ready
        self.announced = False
        self.revision, self.told = 1, ""
        self.engines: dict[str, EngineChild] = {}  # those of the configuration in force
        self.children: set[EngineChild] = set()  # these, the ones being tried and the ones being retired
        self.worker, self.argv, self.env, self.stack = worker, list(argv), env, stack
        self.metrics = ""  # where the worker for large bodies counts, beside a single worker
        give, take = handover.pair() or (None, None)
        self.take = take
        self.workers = [WorkerChild(i, self, worker, self.argv, env, give) for i in range(config.server.workers)]
        self.running: list[asyncio.Task[None]] = []  # of these

    async def serve(self, engines: Mapping[str, Engine]) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        # Should one of these tasks raise, the group ends the others, we end, and what is left sees its pipe close.
        async with asyncio.TaskGroup() as self.tasks:
            self.engines = {name: self._start(engine) for name, engine in engines.items()}
            self.running = [self.tasks.create_task(worker.run()) for worker in self.workers]
            aside = [self.tasks.create_task(self._reloads()), self.tasks.create_task(self._show_progress())]
            await self.stopping.wait()
            self.console.say(f"trimtab: stopping; running answers have {self.config.server.drain_s:g} s")
            self.listener.close()
            deadline = loop.time() + self.config.server.drain_s + 5
            for large in (False, True):  # that for large bodies stops when nobody hands anything over to it any more
                stopped = [it for it in zip(self.workers, self.running, strict=True) if it[0].for_large == large]
                for worker, _ in stopped:
                    worker.signal(signal.SIGTERM)
                if stopped:
                    await asyncio.wait([task for _, task in stopped], timeout=deadline - loop.time())
            for worker in self.workers:
                worker.signal(signal.SIGKILL)
            for task in aside:
                task.cancel()
            for child in self.children:
                child.stop()
        return self.status

    def _start(self, engine: Engine) -> EngineChild:
        child = EngineChild(engine, self.pace, self.console, self.tell)
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
        engines = {name: child.state for name, child in self.engines.items()}
        told = {"revision": self.revision, "host": self.bound, "keyed": bool(self.config.keys), "engines": engines}
        large = any(worker.ready and worker.for_large for worker in self.workers)
        return told | {"large": large, "metrics": self.metrics}

    def tell(self, *, reload: bool = False) -> None:
        """Send the workers the state of the engines and of the worker for large bodies, if it is news."""
        self.news.set()
        message = self.message()
        news = json.dumps([message["engines"], message["large"]])
        if news != self.told or reload:
            self.told = news
            self.revision += 1
            for worker in self.workers:
                worker.tell(reload=reload)

    def start_large(self) -> None:
        """Start the workers for large bodies, if there are none."""
        if not self.stopping.is_set() and not any(worker.for_large for worker in self.workers):
            if "PROMETHEUS_MULTIPROC_DIR" not in self.env:
                try:
                    self.metrics = _counts(self.stack)
                except OSError as error:
                    self.console.say(f"trimtab: no worker for large bodies, nowhere to count: {error}")
                    return
            env = {"PROMETHEUS_MULTIPROC_DIR": self.metrics, **self.env}
            for index in range(len(self.workers), len(self.workers) + math.ceil(len(self.workers) / _BESIDE)):
                large = WorkerChild(index, self, self.worker, self.argv, env, self.take, for_large=True)
                self.workers.append(large)
                self.running.append(self.tasks.create_task(large.run()))

    def worker_ready(self) -> None:
        if not self.announced:
            self.announced = True
            host, port = self.config.server.host, self.listener.getsockname()[1]
            scheme = "https" if self.config.server.tls_cert else "http"
            self.console.say(
                f"trimtab: serving on {scheme}://{f'[{host}]' if ':' in host else host}:{port}", sys.stdout
            )

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
                self.console.say(f"trimtab: configuration not reloaded, the running one stays in force: {error}")

    async def _reload(self, config: Config) -> None:
        """Start what is new, switch the workers over, retire what is old. What is unchanged runs on.

        Raises:
            ConfigError: the configuration would open the server further, or one of its engines does not start.
        """
        refuse_opening(config, self.bound, keyed=bool(self.config.keys))
        refuse_widening(config, grants(self.config))
        _check_writable(config.state_dir)
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
        wanted, running = config.server, self.config.server
        fixed = [k for k in ("host", "port", "workers", "otlp") if getattr(wanted, k) != getattr(running, k)]
        fixed += ["tls_cert"] if bool(wanted.tls_cert) != bool(running.tls_cert) else []
        said = [f"server.{', '.join(fixed)} after a restart"] if fixed else []
        # Valid, and perhaps wanted; it is also what is left of a file that has lost its end.
        if self.config.limits.on and not config.limits.on:
            said.append("nothing is limited any more")
        if self.config.account.record == "requests" != config.account.record:
            said.append("requests are no longer recorded")
        self.config = config
        self.tell(reload=True)
        revision = self.revision
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.pace.reload):
                await self._until(lambda: not any(w.ready and w.answered < revision for w in self.workers))
        self.console.say("; ".join(["trimtab: reloaded", *said]))
        if old:
            self.tasks.create_task(self._retire(old))

    async def _until(self, met: Callable[[], bool]) -> None:
        """Wait for something that engines and workers bring about."""
        while not met():
            self.news.clear()
            await self.news.wait()

    async def _retire(self, old: Sequence[EngineChild]) -> None:
        """Stop engines once the requests that began with them have had their time."""
        await pause(self.config.server.drain_s, self.stopping)
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


def _counts(stack: contextlib.ExitStack) -> str:
    """A folder for counts of several processes, until the stack is left."""
    return stack.enter_context(tempfile.TemporaryDirectory(prefix="trimtab-"))


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"state_dir {str(folder)!r} cannot be written: {error.strerror}") from None


def _resolved(config: Config) -> dict[str, Engine]:
    return {name: resolve(engine) for name, engine in config.engines.items() if engine.launched}


def _spec(engine: Engine) -> tuple[object, ...]:
    """What an engine must be started again for."""
    return (
        engine.launcher, engine.command, engine.model, engine.served_name, engine.python, engine.args,
        tuple(engine.adapters.items()), engine.tensor_parallel, engine.pipeline_parallel,
    )  # fmt: skip


def _listen(host: str, port: int) -> socket.socket:
    """Listen, as ConfigError where we can't. Connections wait in the backlog until a worker takes them."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048, dualstack_ipv6=host == "::")
    except OSError as error:
        why = {
            errno.EADDRINUSE: f"port {port} is in use, try --port",
            errno.EACCES: f"no permission to open port {port}; choose one above 1023 with --port",
            errno.EADDRNOTAVAIL: f"server.host {host!r} is not an address of this machine",
        }
        raise ConfigError(why.get(error.errno or 0, f"server.host {host!r}: {error.strerror}")) from error
