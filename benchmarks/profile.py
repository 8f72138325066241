"""python benchmarks/profile.py: where do the microseconds of one request go, layer by layer?

Runs a worker of `trimtab serve` in this process, with one policy after another, before benchmarks/upstream.py and under
wrk, and asks it a thousand times a second of CPU time which function it is in. A sample counts for the innermost layer
on its stack: what a library does for us is the library's, what C does is its caller's. CPU time of other threads
(traces, embedding, search) is read from the kernel. `--functions 30` names the functions too.

    raw, urial chat, urial base     no stage; examples as turns; a base model's prompt, answers translated back
    opo (with --index), bpo         beside urial, of one query that is known by then, and with a rewrite in the cache

`--source FOLDER` profiles another checkout, say an older one. What it does not cover: streams (benchmarks/proxy.py has
their cost a chunk), new queries (benchmarks/retrieval.py latency), and what the profiler itself costs: a few percent.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import traceback
from pathlib import Path
from types import FrameType

HERE = Path(__file__).parent
if __name__ == "profile":
    # Python's own cProfile imports a module of this name, and for a script beside us finds us: it shall have its own.
    spec = importlib.util.spec_from_file_location("profile", f"{sysconfig.get_path('stdlib')}/profile.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules["profile"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["profile"])
else:
    sys.path.remove(str(HERE))  # where a script has the name of one of our packages

POLICIES = {
    "raw": "",
    "urial chat": '[policy.p]\nstages = ["urial"]\nrender = "chat"\n',
    "urial base": '[policy.p]\nstages = ["urial"]\nrender = "base"\n',
    "opo": '[index.law]\npath = "{index}"\n[policy.p]\nstages = ["urial", "opo"]\nbudget_ms = 30000\n'
    '[policy.p.opo]\nindex = ["law"]\n',
    "bpo": '[rewriter.one]\nengine = "main"\nmodel = "rewriter"\n[policy.p]\nstages = ["urial", "bpo"]\n'
    'budget_ms = 30000\n[policy.p.bpo]\nrewriter = "one"\nmode = "replace"\n',
}
CONFIG = """
state_dir = "{folder}/state"
[server]
port = {port}
policy = "{policy}"
[engine.main]
url = "http://127.0.0.1:{engine}"
"""
# The first whose pattern is in a frame's file is its layer.
LAYERS = {
    "client's HTTP": r"uvicorn/|httptools|serve/http/(protocol|call|body|exchange|head|site|clock|gate)\.py",
    "framework (FastAPI, Starlette)": r"fastapi/|starlette/",
    "engine's HTTP (relay)": r"serve/(engine/|chat/service|http/headers)|aiohttp/|multidict|yarl",
    "the request parsed and written": r"serve/dialects/(wire|\w+/(conversation|prompting))\.py|msgspec",
    "the answer passed on or translated": r"serve/(chat/reply|dialects/)|prompt_opt/layout/ending",
    "trace and metrics": r"serve/(chat/record|store/\w+|metrics)\.py|prometheus_client/|uuid\.py",
    "layout": r"prompt_opt/layout/",
    "stages": r"prompt_opt/|retrieval/|serve/chat/(rewriters|indexes)\.py",
    "who, which policy, the line itself": r"serve/",
    "event loop and tasks": r"asyncio/|uvloop/|_weakrefset|contextlib",
}
_KNOWN = [(name, re.compile(pattern)) for name, pattern in LAYERS.items()]


class Sampler:
    """Counts where the main thread is, at each tick of the process's CPU clock."""

    def __init__(self) -> None:
        self.layers: collections.Counter[str] = collections.Counter()
        self.functions: collections.Counter[str] = collections.Counter()
        self.ticks = 0
        signal.signal(signal.SIGPROF, self._tick)

    def run(self, on: bool) -> None:
        signal.setitimer(signal.ITIMER_PROF, *((0.001, 0.001) if on else (0.0, 0.0)))

    def _tick(self, number: int, frame: FrameType | None) -> None:
        self.ticks += 1
        if frame is not None:
            where = frame.f_code.co_filename.partition("site-packages/")[2] or frame.f_code.co_filename
            self.functions[f"{'/'.join(where.split('/')[-2:])}:{frame.f_code.co_qualname}"] += 1
        while frame is not None:
            path = frame.f_code.co_filename
            for name, pattern in _KNOWN:
                if name != "event loop and tasks" and pattern.search(path):
                    self.layers[name] += 1
                    return
            frame = frame.f_back
        self.layers["event loop and tasks"] += 1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def thread_cpu_s() -> dict[str, float]:
    """CPU seconds of each thread, the main one under "main"."""
    ticks = os.sysconf("SC_CLK_TCK")
    out: dict[str, float] = collections.defaultdict(float)
    for task in Path("/proc/self/task").iterdir():
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        name = "main" if int(task.name) == os.getpid() else "others"
        out[name] += (int(fields[11]) + int(fields[12])) / ticks
    return out


def load(url: str, arguments: argparse.Namespace, seconds: int) -> int:
    """Requests that wrk had answered."""
    script = HERE / "profile.lua"
    command = ["wrk", f"-c{arguments.concurrency}", "-t1", f"-d{seconds}s", "-s", str(script), url]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in said:
        sys.exit(said)
    return int(re.search(r"(\d+) requests in", said)[1])  # type: ignore[index]


def one(policy: str, arguments: argparse.Namespace) -> None:
    """Profile one policy in this process, print it, and end the process: a worker has no other end."""
    sys.path.insert(0, str(Path(arguments.source or HERE.parent).resolve()))
    import uvloop

    from serve.process import worker

    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        engine, port = free_port(), listener.getsockname()[1]
        text = POLICIES[policy].format(index=arguments.index)
        name = "p" if text else "raw"
        config = Path(folder) / "trimtab.toml"
        config.write_text(CONFIG.format(folder=folder, port=port, policy=name, engine=engine) + text)
        upstream = subprocess.Popen([sys.executable, str(HERE / "upstream.py"), "--port", str(engine)])
        inlet, outlet = os.pipe()
        os.dup2(inlet, 0)  # the parent's line to a worker, which stays open
        state = {"main": {"state": "ready", "url": f"http://127.0.0.1:{engine}"}}
        told = {"config": ["--config", str(config)], "fd": listener.fileno(), "revision": 1, "engines": state}
        told |= {"host": "127.0.0.1", "keyed": False}
        sampler = Sampler()

        def drive() -> None:
            url, status = f"http://127.0.0.1:{port}/v1/chat/completions", 1
            try:
                time.sleep(arguments.settle)
                load(url, arguments, 2)
                before, threads = resource.getrusage(resource.RUSAGE_SELF), thread_cpu_s()
                sampler.run(True)
                count = load(url, arguments, arguments.seconds)
                sampler.run(False)
                after, later = resource.getrusage(resource.RUSAGE_SELF), thread_cpu_s()
                spent = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
                others = later["others"] - threads["others"]
                show(policy, sampler, count, spent, others, arguments)
                status = 0
            finally:
                if (error := sys.exc_info()[1]) is not None:  # else nobody would see it
                    traceback.print_exception(error)
                sys.stdout.flush()
                upstream.kill()
                os._exit(status)

        threading.Thread(target=drive, daemon=True).start()
        uvloop.run(worker.serve(told))
        os.close(outlet)


def show(
    policy: str, sampler: Sampler, count: int, spent: tuple[float, float], others: float, arguments: argparse.Namespace
) -> None:
    """A table of microseconds a request; the samples share what the main thread spent."""
    total = 1e6 * sum(spent) / count
    main = total - 1e6 * others / count
    print(f"\n### {policy}: {total:.0f} µs a request ({1e6 * spent[0] / count:.0f} in user space, "
          f"{1e6 * spent[1] / count:.0f} in the kernel; {count} requests)\n")  # fmt: skip
    print("| layer | µs | share |")
    print("|---|---|---|")
    for name in LAYERS:
        if share := sampler.layers[name] / sampler.ticks:
            print(f"| {name} | {main * share:.1f} | {100 * main * share / total:.0f}% |")
    print(f"| other threads | {total - main:.1f} | {100 * (total - main) / total:.0f}% |")
    for name, ticks in sampler.functions.most_common(arguments.functions):
        print(f"    {main * ticks / sampler.ticks:6.1f}  {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", action="append", choices=list(POLICIES), help="repeatable; all that can be run")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--settle", type=float, default=2, help="seconds to start up; an index takes longer")
    parser.add_argument("--index", help="the folder of an index of principles, for opo")
    parser.add_argument("--functions", type=int, default=0, help="name so many functions, by their own time")
    parser.add_argument("--source", help="another checkout to profile")
    parser.add_argument("--here", choices=list(POLICIES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    chosen = arguments.policy or [name for name in POLICIES if name != "opo" or arguments.index]
    if arguments.here:
        return one(arguments.here, arguments)
    for policy in chosen:  # each in a process of its own: a worker runs until it dies
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--here", policy], check=True)


if __name__ == "__main__":
    main()
