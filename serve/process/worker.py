"""One worker process: the application on a socket that the parent owns, told by the parent how the engines are.

It reads JSON lines on stdin (`serve.process.parent` has their shape) and leaves at once when stdin closes: the parent
is dead then, and nobody would stop this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from serve import metrics
from serve.api.application import Application
from serve.api.routes import lines
from serve.config import ConfigError
from serve.dialects import openai
from serve.engine.watch import watch
from serve.http.listener import Listener, context, run
from serve.http.site import Site
from serve.observe import logs
from serve.process import handover
from serve.process.current import Worker
from serve.process.heap import Heap
from serve.process.parts import drain_s

# libuv accepts one connection of a listening socket in a turn of the loop, and a busy loop has few turns: of 256 who
# come at once the last would wait for more than a second. So we listen on the same socket several times over.
_ACCEPT = 16
# Threads work on large bodies. After each wait for the network the loop needs the interpreter's lock again, for which
# it would wait for Python's 5 ms, many times in a request.
_SWITCH_S = 0.0005
_FILES = 2**16  # open files, nearly all of them connections
_COUNT_S = 1.0  # between looks at how many tasks there are, which would tell of a leak
_HEAP_S = 10.0  # between looks at how much freed memory is kept


async def serve(told: Mapping[str, Any]) -> None:
    """Serve until SIGTERM, then drain."""
    stopped, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    try:
        worker = Worker(told)
    except ConfigError as error:  # the file has changed since the parent read it
        os.write(told["report_fd"], json.dumps({"error": str(error)}).encode() + b"\n")
        sys.exit(2)
    large = bool(told.get("for_large"))
    worker.server = server = _server(worker, large=large)
    _share(worker, server, told)

    async def announce() -> None:
        worker.report({"ready": True})
        await worker.probe()

    async def follow() -> None:
        while True:
            await worker.service.indexes.keep_up()

    async def count() -> None:
        while True:
            metrics.Tally.flush()  # for another worker's /metrics
            metrics.tasks.set(len(asyncio.all_tasks()))
            worker.ledgers.sweep()
            await asyncio.sleep(_COUNT_S)

    async def give_back() -> None:
        heap = Heap()
        while True:
            await asyncio.sleep(_HEAP_S)
            await asyncio.to_thread(heap.give_back)

    async def follow_changes() -> None:
        while True:
            await worker.follow_changes()

    watching = watch(worker.checked, lambda: worker.service.relay)
    parts = (worker.listen_to_parent(), announce(), follow(), follow_changes(), watching, count(), give_back())
    # What is alive now lives as long as the process: the collector needn't look at it again and again.
    gc.collect()
    gc.freeze()
    await server.start([] if large else [socket.socket(fileno=os.dup(told["fd"])) for _ in range(_ACCEPT)])
    stopping = asyncio.create_task(stopped.wait())
    tasks = [asyncio.create_task(it) for it in parts]
    # None of the others ends before the server does, unless by a bug: then we go, and the parent starts us again.
    await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        if task.done():
            task.result()
        task.cancel()
    server.site.hand_over = None
    await server.stop()
    metrics.Tally.flush()
    await worker.close()


def _share(worker: Worker, server: Listener, told: Mapping[str, Any]) -> None:
    """Hand requests with large bodies over, or take those that are handed over."""
    if told.get("for_large"):
        handover.Receiver(socket.socket(fileno=told["large_fd"]), server.site).start()
    elif "large_fd" in told and server.tls is None:  # what TLS knows of a connection stays in the process
        channel = socket.socket(fileno=told["large_fd"])
        server.site.hand_over = handover.Sender(channel, lambda: worker.report({"large": True}))
        worker.hand_over_by(server.site.hand_over, told)


def _server(worker: Worker, *, large: bool = False) -> Listener:
    config = worker.service.config
    shown = config.server
    site = Site(
        lines(lambda: worker.service),
        Application(lambda: worker.service, worker.desk),
        shape=openai,
        gate=lambda: worker.gate,
        pace=worker.pace,
        once=large,  # its next request may be a small one, which a worker answers sooner
    )
    tls = context(shown.tls_cert, shown.tls_key or None) if shown.tls_cert else None
    return Listener(site, tls=tls, drain_s=drain_s(config))


def raise_descriptors() -> None:
    """Let this process open as many files as it may, up to `_FILES`. Most start with 1,024, which a single client takes
    up with connections on which it says nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # a system's own limit may be below the one that it names
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main() -> None:
    """Run as `python -m serve.process.worker`, by the supervisor."""
    logs.install("text")
    # Until `serve` listens to them, and once it has ended.
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda number, frame: None)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # Unbuffered: a buffer would swallow a second line that is there already, which `listen_to_parent` is to read.
    with open(0, "rb", buffering=0, closefd=False) as orders:
        line = orders.readline()
    if not line:
        sys.exit(1)
    told = msgspec.json.decode(line)
    raise_descriptors()
    sys.setswitchinterval(_SWITCH_S)
    if told.get("for_large"):
        os.nice(handover.NICE)
    run(serve(told))


if __name__ == "__main__":
    main()
