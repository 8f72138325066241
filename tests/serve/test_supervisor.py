"""The parent process, with real children: what it starts, tells, restarts, reloads and leaves behind (nothing)."""

import importlib.util
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from serve.config import ConfigError
from serve.process.parent import _listen

FAKE = [sys.executable, str(Path(__file__).with_name("fake_engine.py")), "--port", "{port}", "--name", "{name}"]

# A parent on a configuration that is a JSON file, with short waits.
PARENT = """
import json, sys
from serve.config import Config, ConfigError, Engine, Server
from serve.process.engine_child import Pace
from serve.process.parent import run

def load():
    with open(sys.argv[1]) as file:
        data = json.load(file)
    if "wrong" in data:
        raise ConfigError(data["wrong"])
    engines = {n: Engine(n, **{k: tuple(v) if k == "command" else v for k, v in e.items()})
               for n, e in data["engines"].items()}
    return Config(Server(**data["server"]), engines, {}, {})

pace = Pace(probe_starting=0.05, probe=0.2, patience=2, engine_retry=(0.1, 0.4), grace=20, progress=0.5, settled=1)
try:
    sys.exit(run(load, argv=sys.argv[1:2], worker=[sys.executable, *sys.argv[2:]], pace=pace))
except ConfigError as error:
    sys.exit(f"trimtab: {error}")
"""

# A worker that writes down what it hears; its second argument is its fault.
WORKER = """
import json, os, signal, socket, sys, threading, time

heard, fault = open(sys.argv[1], "a"), sys.argv[2]

def note(**entry):
    heard.write(json.dumps({"pid": os.getpid(), "at": time.time()} | entry) + "\\n")
    heard.flush()

def drain(*_):
    note(event="term")
    time.sleep(0.7)
    note(event="drained")
    os._exit(0)

def serve(listener, me):
    while True:
        connection, _ = listener.accept()
        if b"/die" in connection.recv(4096):
            os._exit(9)
        body = json.dumps(me).encode()
        head = b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body)
        connection.sendall(head + body)
        connection.close()

signal.signal(signal.SIGTERM, signal.SIG_IGN if fault == "deaf" else drain)
first = json.loads(sys.stdin.readline())
note(**first)
report = lambda **said: os.write(first["report_fd"], json.dumps(said).encode() + b"\\n")
if fault == "unable":
    report(error="no worker today")
    sys.exit(1)
if fault == "mute":
    sys.exit(1)
me = {"pid": os.getpid(), "worker": first["worker"], "metrics": os.environ.get("PROMETHEUS_MULTIPROC_DIR")}
threading.Thread(target=serve, args=(socket.socket(fileno=first["fd"]), me), daemon=True).start()
report(ready=True)
for line in sys.stdin:
    state = json.loads(line)
    note(**state)
    if state.get("reload"):
        report(**({"error": "will not"} if fault == "refuses" else {"reloaded": state["revision"]}))
note(event="orphaned")
os._exit(0)
"""


class Parent:
    """A running parent and what can be seen of it from outside."""

    def __init__(self, folder: Path, engines: dict[str, Any], fault: str = "", **server: Any) -> None:
        self.config, self.heard, self.log = folder / "config.json", folder / "heard", folder / "log"
        self.heard.touch()
        self.configure(engines, **server)
        (folder / "parent.py").write_text(PARENT)
        (folder / "worker.py").write_text(WORKER)
        argv = [sys.executable, *(str(folder / f) for f in ("parent.py", "config.json", "worker.py", "heard")), fault]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.below: list[psutil.Process] = []

    def configure(self, engines: dict[str, Any], **server: Any) -> None:
        server = {"port": 0, "drain_s": 3.0} | server
        self.config.write_text(json.dumps({"server": server, "engines": engines}))

    def hup(self) -> None:
        self.process.send_signal(signal.SIGHUP)

    @property
    def said(self) -> str:
        return self.log.read_text()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What the workers wrote down."""
        return [json.loads(line) for line in self.heard.read_text().splitlines()]

    def states(self, engine: str = "main") -> list[str]:
        """The engine's states as the workers heard them, repetitions left out."""
        told = [line["engines"][engine]["state"] for line in self.lines if engine in line.get("engines", ())]
        return [s for i, s in enumerate(told) if i == 0 or told[i - 1] != s]

    def engine(self, name: str = "main") -> dict[str, str]:
        return dict([line["engines"][name] for line in self.lines if name in line.get("engines", ())][-1])

    @property
    def url(self) -> str:
        self.until(lambda: "serving on" in self.said)
        return self.said.partition("trimtab: serving on ")[2].split()[0]

    def until(self, met: Callable[[], object], seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not met():
            assert time.monotonic() < deadline, f"{self.said}\n{self.heard.read_text()}"
            time.sleep(0.02)

    def ready(self, engine: str = "main") -> None:
        self.until(lambda: self.states(engine)[-1:] == ["ready"])

    def descendants(self) -> list[psutil.Process]:
        self.below = psutil.Process(self.process.pid).children(recursive=True)
        return self.below

    def left(self) -> list[psutil.Process]:
        """Which of the descendants seen last still live."""
        return alive(self.below)

    def __enter__(self) -> "Parent":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Parent]]:
    running: list[Parent] = []

    def begin(engines: dict[str, Any] | None = None, fault: str = "", **server: Any) -> Parent:
        running.append(Parent(tmp_path, engines or {}, fault, **server))
        return running[-1]

    yield begin
    for parent in running:
        parent.__exit__()


def fake(*options: str, **fields: Any) -> dict[str, Any]:
    return {"command": [*FAKE, *options]} | fields


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def get(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return dict(json.load(answer))


def crash(engine: dict[str, str]) -> None:
    with pytest.raises(ConnectionError):
        urllib.request.urlopen(urllib.request.Request(engine["url"] + "/crash", b""), timeout=10)


def test_workers_listen_on_the_port_and_hear_of_the_engine(start: Callable[..., Parent]) -> None:
    parent = start({"main": fake("--ready-after", "0.5", model="/m/tiny")}, workers=2)
    parent.ready()
    assert get(parent.url)["worker"] in (0, 1)
    first = parent.lines[0]
    assert first["config"] == [str(parent.config)]
    assert first["engines"]["main"] == {
        "url": first["engines"]["main"]["url"],
        "model": "tiny",
        "kind": "",
        "state": "starting",
        "reason": f"starting {Path(sys.executable).name}",
    }
    assert parent.states() == ["starting", "ready"]
    assert {line["worker"] for line in parent.lines} == {0, 1}
    assert "engine main: ready after" in parent.said


def test_log_of_an_engine_carries_its_name(start: Callable[..., Parent]) -> None:
    parent = start({"main": fake("--ready-after", "1")})
    parent.ready()
    parent.until(lambda: "[main] fake engine main on" in parent.said)
    assert "[main] Loading weights: 100%\n" in parent.said  # what was drawn over is gone
    assert "engine main: starting " in parent.said
    assert "(Loading weights: 100%)" in parent.said


def test_kill_9_of_the_parent_leaves_nothing(start: Callable[..., Parent]) -> None:
    parent = start({"main": fake("--orphan", "--stubborn"), "two": fake("--orphan")}, workers=2)
    parent.ready()
    parent.ready("two")
    assert len(parent.descendants()) == 2 + 2 * 3  # workers; and guard, engine, orphan, twice
    parent.process.kill()
    parent.until(lambda: not parent.left(), 5)


def test_engine_that_crashes_is_reported_and_comes_back_on_its_own(start: Callable[..., Parent]) -> None:
    parent = start({"main": fake("--orphan")})
    parent.ready()
    before, below = parent.engine(), parent.descendants()
    crash(before)
    parent.until(lambda: parent.states() == ["starting", "ready", "down", "starting", "ready"])
    downs = [line["engines"]["main"] for line in parent.lines if line["engines"]["main"]["state"] == "down"]
    assert downs[-1]["reason"] == "exited with status 3"
    assert get(parent.url)["worker"] == 0
    assert len(alive(below)) == 1  # the worker
    assert "engine main: exited with status 3; starting again in 0.1 s" in parent.said


def test_engine_whose_guard_is_killed_leaves_no_orphan(start: Callable[..., Parent]) -> None:
    parent = start({"main": fake("--orphan")})
    parent.ready()
    guards = [p for p in parent.descendants() if "guard.py" in " ".join(p.cmdline())]
    old = guards[0].children(recursive=True)
    guards[0].kill()
    parent.until(lambda: parent.states() == ["starting", "ready", "down", "starting", "ready"])
    parent.until(lambda: not alive(old))


def test_engine_that_is_not_ready_in_time_is_started_again(start: Callable[..., Parent]) -> None:
    parent = start({"main": fake("--ready-after", "600", start_s=0.5)})
    parent.until(lambda: parent.states()[:3] == ["starting", "down", "starting"])
    assert "was not ready within 0.5 s (/health" in parent.said


def test_engine_that_hangs_is_down_then_started_again(start: Callable[..., Parent]) -> None:
    parent = start({"main": fake()})
    parent.ready()
    engine = next(p for p in parent.descendants() if p.cmdline()[1:2] == [FAKE[1]])
    url = parent.engine()["url"]
    urllib.request.urlopen(urllib.request.Request(url + "/sicken", b""), timeout=10).close()
    parent.until(lambda: parent.states()[:3] == ["starting", "ready", "down"])
    parent.until(lambda: parent.states()[-1] == "ready" and not engine.is_running())
    assert "has been unwell for 2 s (/health answers 503)" in parent.said


def test_worker_that_dies_is_replaced_and_told_the_newest_state(start: Callable[..., Parent]) -> None:
    parent = start({"main": fake()})
    parent.ready()
    first = get(parent.url)["pid"]
    with pytest.raises(ConnectionError):
        get(parent.url + "/die")
    assert get(parent.url)["pid"] != first  # the request waited in the backlog
    assert parent.lines[-1]["engines"]["main"]["state"] == "ready"
    assert parent.lines[-1]["pid"] != first
    assert "worker 0: exited with status 9; starting again in 0.1 s" in parent.said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_drain_before_the_engines_stop(start: Callable[..., Parent], number: signal.Signals) -> None:
    parent = start({"main": fake("--orphan")}, workers=2)
    parent.ready()
    parent.descendants()
    parent.process.send_signal(number)
    assert parent.process.wait(30) == 0
    drained = max(line["at"] for line in parent.lines if line.get("event") == "drained")
    left = float(parent.said.partition("[main] leaving at ")[2].split()[0])
    assert left > drained
    assert not parent.left()


def test_worker_that_does_not_drain_is_killed(start: Callable[..., Parent]) -> None:
    parent = start({}, "deaf", drain_s=-4.5)  # five seconds later than this
    assert parent.url
    parent.descendants()
    parent.process.terminate()
    assert parent.process.wait(60) == 0
    assert not parent.left()


def test_second_signal_kills_at_once(start: Callable[..., Parent]) -> None:
    parent = start({"main": fake("--stubborn", "--orphan")}, "deaf", drain_s=600)
    parent.ready()
    parent.descendants()
    parent.process.terminate()
    parent.until(lambda: "stopping" in parent.said)
    parent.process.terminate()
    assert parent.process.wait(60) == 128 + signal.SIGTERM
    assert not parent.left()


def test_wrong_configuration_is_not_loaded_and_the_old_one_stays(start: Callable[..., Parent]) -> None:
    parent = start({"main": fake()})
    parent.ready()
    heard = parent.lines
    parent.config.write_text(json.dumps({"wrong": "line 3: no such key"}))
    parent.hup()
    parent.until(
        lambda: "configuration not reloaded, the running one stays in force: line 3: no such key" in parent.said
    )
    parent.config.unlink()
    parent.hup()
    parent.until(lambda: "configuration not reloaded, the running one stays in force: [Errno 2]" in parent.said)
    assert parent.lines == heard
    assert get(parent.url)["worker"] == 0


def test_reload_starts_what_is_new_keeps_what_is_not_and_retires_the_rest(start: Callable[..., Parent]) -> None:
    parent = start({"main": fake(), "gone": fake(), "changed": fake()}, drain_s=3.0)
    for name in ("main", "gone", "changed"):
        parent.ready(name)
    kept = parent.engine()["url"]
    engines = {p.cmdline()[5]: p for p in parent.descendants() if p.cmdline()[1:2] == [FAKE[1]]}
    parent.configure({"main": fake(), "changed": fake(served_name="better"), "new": fake()}, drain_s=3.0)
    parent.hup()
    parent.until(lambda: "trimtab: reloaded" in parent.said)
    reload = next(line for line in parent.lines if line.get("reload"))
    assert {name: e["state"] for name, e in reload["engines"].items()} == dict.fromkeys(
        ("main", "changed", "new"), "ready"
    )
    assert reload["engines"]["main"]["url"] == kept
    assert reload["engines"]["changed"]["model"] == "better"
    assert engines["gone"].is_running()  # requests that began with it may still run
    parent.until(lambda: not engines["gone"].is_running() and not engines["changed"].is_running())
    assert engines["main"].is_running()
    assert parent.states("changed") == ["starting", "ready"]  # nobody saw it away


def test_reload_to_an_engine_that_does_not_start_keeps_the_old(start: Callable[..., Parent]) -> None:
    parent = start({"main": fake()})
    parent.ready()
    url = parent.engine()["url"]
    parent.configure({"main": {"command": ["false", "{port}"]}})
    parent.hup()
    parent.until(lambda: "not reloaded" in parent.said)
    assert "engine main exited with status 1" in parent.said
    assert parent.engine()["url"] == url
    assert not any(line.get("reload") for line in parent.lines)
    assert len(parent.descendants()) == 3  # worker, guard, engine


def test_worker_that_refuses_a_reload_is_heard(start: Callable[..., Parent]) -> None:
    parent = start({}, "refuses")
    assert parent.url
    parent.configure({}, workers=7)
    parent.hup()
    parent.until(lambda: "trimtab: reloaded; server.workers after a restart" in parent.said)
    assert "worker 0: will not" in parent.said


@pytest.mark.parametrize(("fault", "says"), [("unable", "worker 0: no worker today"), ("mute", "exited with status 1")])
def test_workers_that_never_start_end_the_server(start: Callable[..., Parent], fault: str, says: str) -> None:
    parent = start({"main": fake()}, fault)
    assert parent.process.wait(60) == 1
    assert says in parent.said
    assert "the workers do not start" in parent.said


def test_metrics_folder_is_shared_by_several_workers_and_removed(start: Callable[..., Parent]) -> None:
    parent = start({}, workers=2)
    folder = Path(get(parent.url)["metrics"])
    (folder / "gauge_livesum_1.db").touch()
    assert folder.is_dir()
    parent.process.terminate()
    assert parent.process.wait(60) == 0
    assert not folder.exists()


def test_one_worker_needs_no_metrics_folder(start: Callable[..., Parent]) -> None:
    assert get(start({}).url)["metrics"] is None


def test_port_in_use_is_said_at_boot(start: Callable[..., Parent]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        parent = start({}, port=port)
        assert parent.process.wait(60) == 1
        assert f"trimtab: port {port} is in use, try --port" in parent.said


@pytest.mark.parametrize(
    ("host", "says"), [("192.0.2.1", "not an address of this machine"), ("no.such.host.invalid", "server.host")]
)
def test_host_that_is_not_ours_is_a_configuration_error(host: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        _listen(host, 0)


def test_terminal_sees_one_line_that_is_drawn_over_and_its_end_ends_us(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with Parent(tmp_path, {}) as idle:
        idle.process.terminate()
        idle.process.wait(60)
        idle.configure({"main": fake("--ready-after", "1.5")})
        parent = psutil.Popen(idle.process.args, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        seen = b""
        deadline = time.monotonic() + 30
        while b"ready after" not in seen and time.monotonic() < deadline:
            seen += os.read(ours, 65536)
        assert b"\r\x1b[Kengine main: starting " in seen
        below = parent.children(recursive=True)
        os.close(ours)  # the terminal is closed; as nobody's controlling terminal it sends no signal by itself
        parent.send_signal(signal.SIGHUP)
        assert parent.wait(60) == 0
        assert psutil.wait_procs(below, timeout=10)[1] == []


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("accelerate"), reason="transformers[serving] is not installed")
def test_transformers_serve_answers_under_its_folder_name_and_dies_with_us(
    start: Callable[..., Parent], tmp_path: Path
) -> None:
    tiny_model(tmp_path / "models" / "tiny-base")
    parent = start({"main": {"model": str(tmp_path / "models" / "tiny-base"), "launcher": "auto"}})
    parent.until(lambda: parent.states()[-1:] == ["ready"], 120)
    engine = parent.engine()
    assert (engine["model"], engine["kind"]) == ("tiny-base", "transformers")
    body = json.dumps({"model": "tiny-base", "prompt": "hello", "max_tokens": 4, "temperature": 0}).encode()
    request = urllib.request.Request(engine["url"] + "/v1/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        answer = json.load(reply)
    assert answer["usage"]["completion_tokens"] == 4
    assert answer["model"] == "tiny-base@main"
    assert str(tmp_path) not in json.dumps(answer)
    assert len(parent.descendants()) >= 3
    parent.process.kill()
    parent.until(lambda: not parent.left(), 5)


def tiny_model(folder: Path) -> None:
    """A random Llama of a few kilobytes with a byte-level tokenizer, written without importing torch."""
    import numpy as np
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    width, inner, letters = 16, 32, sorted(pre_tokenizers.ByteLevel.alphabet())
    folder.mkdir(parents=True)
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    shape = {"vocab_size": len(letters), "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 128}
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "bos_token_id": None, "eos_token_id": None}
    (folder / "config.json").write_text(json.dumps(config | shape | heads | {"tie_word_embeddings": True}))
    matrices = dict.fromkeys((f"self_attn.{m}_proj" for m in "qkvo"), (width, width))
    matrices |= {"mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width), "mlp.down_proj": (width, inner)}
    random = np.random.default_rng(0)
    weights = {f"model.layers.0.{name}.weight": random.normal(0, 0.1, size) for name, size in matrices.items()}
    weights |= {f"model.layers.0.{n}.weight": np.ones(width) for n in ("input_layernorm", "post_attention_layernorm")}
    weights |= {"model.norm.weight": np.ones(width), "model.embed_tokens.weight": random.normal(0, 1, (256, width))}
    tensors = {name: value.astype(np.float32) for name, value in weights.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
