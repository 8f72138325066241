"""What the benchmarks of the proxy put before an engine: how each is started, found, and weighed while it runs."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import psutil

HERE = Path(__file__).parent
PEERS = Path(os.environ.get("TRIMTAB_PEERS", Path.home() / ".cache" / "trimtab" / "peers"))
NGINX = """
daemon off; worker_processes {workers}; pid {folder}/pid; error_log {folder}/error.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path {folder}/body; client_body_buffer_size 1m; keepalive_requests 1000000;
  upstream engine {{ server {engine}; keepalive 512; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://engine; proxy_buffering off; proxy_http_version 1.1; proxy_set_header Connection "";
    }}
  }}
}}
"""
TRIMTAB = """
state_dir = "{folder}/state"
[server]
port = {port}
workers = {workers}
policy = "{policy}"
[engine.main]
url = "http://{engine}"
"""
# What follows that, by policy. The budget is long, so that what is measured is the stage and not its being left out.
POLICIES = {
    "raw": "",
    "chat": '[policy.chat]\nstages = ["urial"]\nrender = "chat"\n',
    "base": '[policy.base]\nstages = ["urial"]\nrender = "base"\n',
    "opo": '[index.law]\npath = "{index}"\n[policy.opo]\nstages = ["urial", "opo"]\nrender = "chat"\n'
    'budget_ms = 30000\n[policy.opo.opo]\nindex = ["law"]\n',
    "bpo": '[rewriter.one]\nengine = "main"\nmodel = "rewriter"\ntimeout_s = 30.0\n'
    '[policy.bpo]\nstages = ["urial", "bpo"]\nrender = "chat"\nbudget_ms = 30000\n'
    '[policy.bpo.bpo]\nrewriter = "one"\nmode = "replace"\n',
}
LITELLM = """
model_list:
  - model_name: "*"
    litellm_params: {{model: "openai/*", api_base: "http://{engine}/v1", api_key: none}}
litellm_settings: {{telemetry: false, set_verbose: false}}
"""
NEMO = """
models:
  - {{type: main, engine: openai, model: bench, parameters: {{base_url: "http://{engine}/v1", api_key: none}}}}
passthrough: true
"""
Asked = Literal["equal", "unseen", "cached"]


@dataclass(frozen=True)
class Place:
    """What a proxy is told: a folder of its own, the engine as host:port, its port and its number of processes."""

    folder: Path
    engine: str
    port: int
    workers: int

    def write(self, name: str, text: str, **more: object) -> Path:
        file = self.folder / name
        file.write_text(
            text.format(folder=self.folder, engine=self.engine, port=self.port, workers=self.workers, **more)
        )
        return file


@dataclass(frozen=True)
class Recipe:
    """How a proxy is started. `command` None: nothing is, the load goes to the engine itself."""

    name: str
    command: Callable[[Place], list[str]] | None = None
    ready: str = "/v1/models"
    headers: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    asked: Asked = "equal"  # which chats it gets: always one, never the same, or one of a few that it has seen
    shares: str = ""  # the recipe whose process this one uses
    alone: str = ""  # why it can't have several workers
    version: str = ""


@dataclass
class Target:
    """A recipe that runs."""

    recipe: Recipe
    url: str
    process: psutil.Process | None = None

    @property
    def name(self) -> str:
        return self.recipe.name

    def tree(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)] if self.process else []

    def cpu(self) -> float:
        """CPU seconds of all its processes so far.

        By the clock that Linux keeps for each process (clock_getcpuclockid(3)): /proc counts in hundredths of a second.
        """
        return sum(time.clock_gettime((~p.pid << 3) | 2) for p in self.tree())

    def rss_mb(self) -> float:
        return float(sum(p.memory_info().rss for p in self.tree())) / 2**20

    def settled(self, most_s: float = 20.0) -> float:
        """`cpu()`, once what the load left behind is done: a proxy may work on though its clients went."""
        until, before = time.monotonic() + most_s, self.cpu()
        while self.process and time.monotonic() < until:
            time.sleep(0.1)
            now = self.cpu()
            if now - before < 0.02:
                return now
            before = now
        return before


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(
    command: list[str], ready: str, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[psutil.Process]:
    """A process that has answered at `ready`, for as long as the block lasts.

    Raises:
        RuntimeError: it ended, or did not answer within two minutes; with the end of what it wrote.
    """
    given = {**os.environ, **(environment or {})}
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output, env=given) as process:
        family = [psutil.Process(process.pid)]
        try:
            for _ in range(1200):
                if process.poll() is not None:
                    raise RuntimeError(f"{command[0]} ended with {process.returncode}:\n{log.read_text()[-2000:]}")
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(ready, timeout=5).close()
                    break
                time.sleep(0.1)
            else:
                raise RuntimeError(f"{ready} did not answer in two minutes:\n{log.read_text()[-2000:]}")
            yield family[0]
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                family += family[0].children(recursive=True)
            process.terminate()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
            for child in family[1:]:  # not every peer ends its workers
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()


def engine_command(port: int, chunks: int = 100, interval_ms: float = 10, reply_ms: float = 0) -> list[str]:
    command = [sys.executable, str(HERE / "upstream.py"), "--port", str(port), "--chunks", str(chunks)]
    return [*command, "--interval-ms", str(interval_ms), "--reply-ms", str(reply_ms)]


def trimtab(command: str, policy: str, index: Path | None = None) -> Callable[[Place], list[str]]:
    """`trimtab serve` with one policy, by a file of its own."""

    def started(place: Place) -> list[str]:
        text = TRIMTAB + POLICIES[policy]
        return [
            *command.split(),
            "serve",
            "--config",
            str(place.write("trimtab.toml", text, policy=policy, index=index)),
        ]

    return started


def ours(command: str, index: Path | None) -> tuple[list[Recipe], dict[str, str]]:
    """Trimtab's recipes, and why some are left out."""

    def recipe(name: str, policy: str, asked: Asked = "equal", shares: str = "") -> Recipe:
        return Recipe(name, trimtab(command, policy, index), "/readyz", asked=asked, shares=shares)

    found = [
        recipe("raw", "raw"),
        recipe("urial chat", "chat"),
        recipe("urial base", "base"),
        recipe("bpo warm", "bpo"),
    ]
    if index is None:
        return found, {"opo": "no --index was given"}
    return [*found, recipe("opo new", "opo", "unseen"), recipe("opo cached", "opo", "cached", "opo new")], {}


def nginx() -> Recipe:
    """Raises FileNotFoundError where it is not installed."""
    found = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if found is None:
        raise FileNotFoundError("not installed (Debian: apt-get install nginx-light)")
    said = subprocess.run([found, "-v"], capture_output=True, text=True, check=True).stderr
    return Recipe(
        "nginx", lambda place: [found, "-c", str(place.write("nginx.conf", NGINX))], version=said.strip().split("/")[-1]
    )


def litellm(home: Path) -> Recipe:
    def command(place: Place) -> list[str]:
        config = place.write("litellm.yaml", LITELLM)
        where = ["--host", "127.0.0.1", "--port", str(place.port), "--num_workers", str(place.workers)]
        return [str(home / "bin" / "litellm"), "--config", str(config), "--telemetry", "False", *where]

    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    quiet["LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"] = (
        "true"  # it listens here only; no keys, as the others
    )
    return Recipe("LiteLLM", command, "/health/liveliness", environment=quiet, version=_of(home, "litellm"))


def optillm(home: Path) -> Recipe:
    def command(place: Place) -> list[str]:
        where = ["--host", "127.0.0.1", "--port", str(place.port), "--base-url", f"http://{place.engine}/v1"]
        return [str(home / "bin" / "optillm"), "--approach", "none", "--log", "error", *where]

    alone = "its server has one process"
    return Recipe(
        "optillm", command, "/health", environment={"OPENAI_API_KEY": "none"}, alone=alone, version=_of(home, "optillm")
    )


def nemo(home: Path) -> Recipe:
    def command(place: Place) -> list[str]:
        (place.folder / "bench").mkdir()
        place.write("bench/config.yml", NEMO)
        program = [str(home / "bin" / "nemoguardrails"), "server", "--port", str(place.port)]
        return [*program, "--config", str(place.folder), "--default-config-id", "bench", "--disable-chat-ui"]

    quiet = {"OPENAI_API_KEY": "none", "NEMO_GUARDRAILS_TELEMETRY": "0"}
    alone, named = "its server has one process", _of(home, "nemoguardrails")
    return Recipe("NeMo Guardrails", command, "/v1/rails/configs", environment=quiet, alone=alone, version=named)


def portkey(home: Path, engine: str) -> Recipe:
    package = home / "node_modules" / "@portkey-ai" / "gateway"
    if not package.is_dir():
        raise FileNotFoundError(f"nothing in {home}")
    if (node := shutil.which("node")) is None:
        raise FileNotFoundError("node is not installed")
    ran = subprocess.run([node, "--version"], capture_output=True, text=True, check=True)
    named = f"{json.loads((package / 'package.json').read_text())['version']}, node {ran.stdout.strip()}"
    headers = ("authorization: Bearer none", "x-portkey-provider: openai", f"x-portkey-custom-host: http://{engine}/v1")
    program = [node, str(package / "build" / "start-server.js"), "--headless"]
    return Recipe(
        "Portkey",
        lambda place: [*program, f"--port={place.port}"],
        "/",
        headers,
        alone="its server has one process",
        version=named,
    )


def rust_router(home: Path, program: str, *first: str) -> Recipe:
    """A gateway in Rust that routes to vLLM or SGLang engines."""

    def command(place: Place) -> list[str]:
        where = ["--host", "127.0.0.1", "--port", str(place.port), "--prometheus-port", str(free_port())]
        engine = ["--worker-urls", f"http://{place.engine}", "--policy", "round_robin", "--log-level", "error"]
        return [str(home / "bin" / program), *first, *where, *engine]

    return Recipe(program, command, "/health", alone="it is one process of several threads", version=_of(home, program))


def _of(home: Path, package: str) -> str:
    """The version in a virtual environment. Raises FileNotFoundError where it has none."""
    named = package.replace("-", "_")
    found = [p.name.split("-")[1] for p in home.glob(f"lib/python3*/site-packages/{named}-*.dist-info")]
    if not found or not (home / "bin" / package).is_file():
        raise FileNotFoundError(f"nothing in {home}")
    return found[0].removesuffix(".dist")


def machine() -> dict[str, str]:
    """What a figure depends on, in words."""
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.machine())  # fmt: skip
    names = ("trimtab", "uvloop", "httptools", "msgspec")
    return {
        "cores": str(os.cpu_count()),
        "cpu": cpu,
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {version(name)}" for name in names),
        "load average": ", ".join(f"{load:.1f}" for load in os.getloadavg()),
    }
