"""The real command in front of the fake engine, and real clients in front of the command."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from openai import AsyncOpenAI

from prompt_opt.pipeline import build as build_stages
from serve.api.app import build
from serve.api.routes import DIALECTS, lines
from serve.chat.indexes import Indexes
from serve.chat.service import Service
from serve.config import Flags
from serve.configure.reader import load
from serve.dialects import openai
from serve.dialects.dialect import Dialect
from serve.engine.live import LiveEngine
from serve.engine.relay import Relay
from serve.http.listener import Listener
from serve.http.site import Site
from serve.store.sqlite_traces import SqliteTraces
from tests.upstream import FakeUpstream, Recorded

# `main` is an engine of unknown make, `vllm` and `hf` speak those dialects, `dead` is none at all.
CONFIG = """
state_dir = "{state}"
[server]
max_body_mb = 1
max_messages = 64
max_n = 4
connect_s = 2
drain_s = 2
{server}
[engine.main]
url = "{url}/v1"
fields_pass = ["chat_template_kwargs"]
[engine.vllm]
url = "{url}"
kind = "vllm"
warm_up = false
[engine.hf]
url = "{url}"
kind = "transformers"
[engine.narrow]
url = "{url}"
max_stop = 1
supports = ["n", "tools"]
[engine.dead]
url = "http://127.0.0.1:1"
[policy.chat]
stages = ["urial"]
render = "chat"
optional = ["urial"]
[policy.base]
stages = ["urial"]
render = "base"
[policy.base-vllm]
engine = "vllm"
render = "base"
[policy.base-plain]
engine = "vllm"
render = "base"
profile = "plain"
[policy.base-hf]
engine = "hf"
render = "base"
[policy.raw-hf]
engine = "hf"
stages = []
render = "chat"
[policy.base-narrow]
engine = "narrow"
render = "base"
[policy.raw-narrow]
engine = "narrow"
stages = []
render = "chat"
[policy.dead]
engine = "dead"
stages = []
render = "chat"
[policy.dead-base]
engine = "dead"
render = "base"
[alias]
"gpt-aligned" = {{ policy = "chat", model = "echo" }}
"gpt-base" = {{ policy = "base", model = "echo" }}
{more}
"""
SECRETS = {"house": "sk-house-0123456789", "guest": "sk-guest-0123456789", "bare": "sk-bare-0123456789"}
KEYS = """
[engine.keyed]
url = "{url}"
key_env = "UPSTREAM_KEY"
[policy.keyed]
engine = "keyed"
stages = []
render = "chat"
[policy.keyed-base]
engine = "keyed"
render = "base"
[[key]]
id = "house"
sha256 = "{house}"
rights = ["raw", "traces", "metrics", "explain"]
[[key]]
id = "guest"
sha256 = "{guest}"
policies = ["chat"]
policy = "chat"
rights = ["traces"]
[[key]]
id = "bare"
sha256 = "{bare}"
"""


class Served:
    """A running `trimtab serve`: its address, its process, and all that it has said."""

    def __init__(self, argv: list[str], config: Path, env: dict[str, str] | None = None) -> None:
        self.config = config
        self.said: list[str] = []
        self._asked = False
        self.process = subprocess.Popen(
            [sys.executable, "-m", "serve.cli.command", "serve", *argv],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **(env or {})},
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        line = self.wait_for(r"serving on (https?://\S+)|Error|trimtab serve:", 90)
        assert "serving on" in line, "\n".join(self.said)
        self.url = line.rsplit(" ", 1)[1]

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line.rstrip("\n"))

    def wait_for(self, pattern: str, timeout: float = 60) -> str:
        """The first line that matches; AssertionError if none comes."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for line in tuple(self.said):
                if re.search(pattern, line):
                    return line
            time.sleep(0.01)
        raise AssertionError(f"no line {pattern!r} in:\n" + "\n".join(self.said))

    def until_ready(self, headers: Mapping[str, str] | None = None) -> None:
        """Wait until /readyz answers 200."""
        deadline = time.monotonic() + 90
        while httpx.get(f"{self.url}/readyz", headers=headers, timeout=30, verify=False).status_code != 200:
            assert time.monotonic() < deadline, "\n".join(self.said)
            time.sleep(0.05)

    def workers(self) -> list[int]:
        """The ids of its worker processes."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [
            pid for pid in map(int, children) if b"serve.process.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    def ask_to_stop(self) -> None:
        """SIGTERM, once: a second one would cut answers off."""
        if self.process.poll() is None and not self._asked:
            self.process.send_signal(signal.SIGTERM)
        self._asked = True

    def stop(self) -> None:
        self.ask_to_stop()
        self.process.wait(60)
        self._reader.join(60)
        assert self.process.stdout is not None
        self.process.stdout.close()


Start = Callable[..., Served]


@contextlib.contextmanager
def starting(folders: pytest.TempPathFactory, upstream: FakeUpstream) -> Iterator[Start]:
    """Starts servers before the fake engine; all of them end with the block."""
    running: list[Served] = []

    def begin(
        *flags: str,
        server: str = "timeout_s = 30",
        more: str = "",
        file: str | None = None,
        env: dict[str, str] | None = None,
    ) -> Served:
        """`file` is a configuration instead of CONFIG, in which {url} and {state} are filled in; "" for none."""
        folder = folders.mktemp("served")
        path = folder / "trimtab.toml"
        if file is None:
            text = CONFIG.format(state=folder / "state", url=upstream.url, server=server, more=more)
        else:
            text = file.replace("{url}", upstream.url).replace("{state}", str(folder / "state"))
        path.write_text(text)
        served = Served([*(["--config", str(path)] if text else []), "--port", "0", *flags], path, env)
        running.append(served)
        return served

    yield begin
    for served in running:
        served.ask_to_stop()
    for served in running:
        served.stop()


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, upstream: FakeUpstream) -> Iterator[Start]:
    """Starts servers that end with the file's tests: a whole run would hold some seventy of them."""
    with starting(tmp_path_factory, upstream) as begin:
        yield begin


@pytest.fixture(scope="session")
def start_shared(tmp_path_factory: pytest.TempPathFactory, upstream: FakeUpstream) -> Iterator[Start]:
    """Starts servers that the tests of several files share; they end with the run."""
    with starting(tmp_path_factory, upstream) as begin:
        yield begin


@pytest.fixture(scope="session")
def served(start_shared: Start) -> Served:
    """A server without keys, shared by all tests that do not change it."""
    return start_shared()


@pytest.fixture(scope="session")
def keyed(start_shared: Start, upstream: FakeUpstream) -> Served:
    """A server with three keys and an engine that has one of its own."""
    hashes = {name: hashlib.sha256(secret.encode()).hexdigest() for name, secret in SECRETS.items()}
    more = KEYS.format(url=upstream.url, **hashes)
    own = {"UPSTREAM_KEY": "sk-upstream-secret"}
    return start_shared(server="timeout_s = 1\ntrace_content = true", more=more, env=own)


@pytest.fixture
async def http(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(verify=False, base_url=served.url, timeout=60) as client:
        yield client


@pytest.fixture
async def client(served: Served) -> AsyncIterator[AsyncOpenAI]:
    """OpenAI's own client, pointed at the server."""
    async with AsyncOpenAI(
        base_url=served.url + "/v1",
        api_key="sk-client",
        max_retries=0,
        timeout=60,
        http_client=httpx.AsyncClient(verify=False),
    ) as it:
        yield it


@pytest.fixture
def sent(upstream: FakeUpstream) -> Callable[[], Recorded]:
    """The last request that reached the engine in this test."""
    before = len(upstream.requests)

    def last() -> Recorded:
        posts = [r for r in upstream.requests[before:] if r.method == "POST"]
        assert posts, "nothing reached the engine"
        return posts[-1]

    return last


def key_table(name: str, secret: str, rights: Sequence[str], tenant: str = "") -> str:
    """A [[key]] of the configuration."""
    digest = hashlib.sha256(secret.encode()).hexdigest()
    owner = f'tenant = "{tenant}"\n' if tenant else ""
    return f'[[key]]\nid = "{name}"\nsha256 = "{digest}"\nrights = {json.dumps(list(rights))}\n{owner}'


def chat(content: str = "hello there", model: str = "echo", **fields: Any) -> dict[str, Any]:
    """A request's body."""
    return {"model": model, "messages": [{"role": "user", "content": content}], **fields}


def events(text: str) -> list[Any]:
    """The data of the events of a stream, [DONE] as it is."""
    lines = re.split(r"\r\n|\r|\n", text)  # str.splitlines would also break at U+0085 and its like
    data = [line[6:] for line in lines if line.startswith("data: ")]
    return [row if row == "[DONE]" else json.loads(row) for row in data]


@contextlib.asynccontextmanager
async def in_process(
    file: str, folder: Path, *, upstream: str | None = None, dialects: Sequence[Dialect] = DIALECTS
) -> AsyncIterator[str]:
    """The application in this very event loop; its address. `file` is a configuration's text, "" for none."""
    (path := folder / "trimtab.toml").write_text(file)
    config = load(Flags(config=str(path) if file else None, upstream=upstream, state_dir=str(folder)), {})
    traces = SqliteTraces(folder, 60)
    relay = Relay(connect_s=2, timeout_s=10)
    stages = {name: build_stages(policy) for name, policy in config.policies.items()}
    engines = {name: LiveEngine(spec) for name, spec in config.engines.items()}
    service = Service(config, engines, stages, relay, traces, Indexes({}))
    server = Listener(Site(lines(lambda: service, dialects), build(lambda: service), shape=openai), drain_s=1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await server.start([listener])
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        await server.stop()
    await relay.close()
    traces.close()


# ---------------------------------------------------------------- the embedded model


class Running:
    """A server of our own command; `url` without /v1."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.log = folder / "log"
        trimtab = str(Path(sys.executable).with_name("trimtab"))
        argv = [trimtab, "serve", "--port", "0", "--state-dir", str(folder / "state"), *flags]
        # One thread: the model is tiny, and two that wait for each other on a busy machine are slower by far.
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=log, text=True, env=env)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert "serving on" in line, line + self.log.read_text()
        self.url = line.split()[-1]

    def get(self, path: str) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def wait(self, status: int, seconds: float = 90) -> None:
        """Until /readyz answers with that status."""
        deadline = time.monotonic() + seconds
        while self.get("/readyz")[0] != status:
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def engine(self) -> str:
        """The address of its engine."""
        lines = [p.cmdline() for p in self.family()]
        return next("http://127.0.0.1:" + line[line.index("--port") + 1] for line in lines if "--dtype" in line)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=60)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The embedded model behind the command; its engine takes seconds to start, so all tests share it."""
    running = Running(tmp_path_factory.mktemp("embedded"), "--model", "trimtab-tiny", "--engine", "transformers")
    running.wait(200)
    yield running
    running.stop()
