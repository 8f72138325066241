"""`trimtab serve` as a process of its own, on a configuration that a round writes: its models side by side."""

from __future__ import annotations

import json
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from trainers.ask.engine import EngineError
from trainers.ask.journal import write_whole
from trainers.rounds.engine_process import POLL_S, free_port, running

PATIENCE_S = 20.0  # for an engine that ended: it is started again, as its port may have been taken
TRIMTAB = (sys.executable, "-m", "serve.cli.command")


def write_settings(
    path: Path, models: Mapping[str, Path], aliases: Mapping[str, str], launcher: str, port: int | None = None
) -> Path:
    """A trimtab.toml: an engine and a policy without stages for each model, and names for clients.

    Args:
        models: name -> folder.
        aliases: the name that a client asks for -> the name of a model.
        port: None leaves it to the command line.
    """
    # JSON's strings are TOML's, too.
    lines = [f"state_dir = {json.dumps(str(path.with_name('state')))}", "", "[server]", "trace_content = true"]
    lines += [f"port = {port}"] if port else []
    for name, folder in models.items():
        lines += [
            "", f"[engine.{name}]", f"model = {json.dumps(str(folder.resolve()))}",
            f"launcher = {json.dumps(launcher)}", f"served_name = {json.dumps(name)}",
            "", f"[policy.{name}]", f"engine = {json.dumps(name)}", "stages = []", 'render = "chat"',
        ]  # fmt: skip
    named = [f"{json.dumps(told)} = {{ policy = {json.dumps(name)} }}" for told, name in aliases.items()]
    lines += ["", "[alias]", *named]
    write_whole(path, "\n".join(lines) + "\n")
    return path


@contextmanager
def serving(settings: Path, timeout_s: float, port: int | None = None) -> Iterator[str]:
    """The server's URL, once all its engines answer. Its log lies beside the settings.

    Raises:
        EngineError: it does not start; the message names its log.
    """
    command = shlex.join([*TRIMTAB, "serve", "--config", str(settings)]) + " --port {port}"
    log = settings.with_suffix(".log")
    with running(command, settings, log, timeout_s, port) as (url, _):
        wait_ready(url, log, time.monotonic() + timeout_s)
        yield url


def wait_ready(url: str, log: Path, deadline: float) -> None:
    """Return once every engine answers.

    Raises:
        EngineError: one does not in time, or ends again and again; the message has the server's reason.
    """
    told, down = "", 0
    while time.monotonic() < deadline and down * POLL_S < PATIENCE_S:
        with suppress(httpx.TransportError, ValueError):
            reply = httpx.get(f"{url}/readyz", timeout=30)
            if reply.status_code == httpx.codes.OK:
                return
            states = reply.json()["engines"]
            told = "; ".join(f"{name}: {each['reason']}" for name, each in states.items() if each["state"] != "ready")
            down += any(each["state"] == "down" for each in states.values())
        time.sleep(POLL_S)
    raise EngineError(f"the server's engines do not answer ({told}); see {log}")


def steady_port(file: Path, evaluation: Path) -> int:
    """The port kept in the file where it is still free, as an evaluation resumes only at the address that it began at.

    Else a new one, and the evaluation begins again.
    """
    if file.is_file() and _free(port := int(file.read_text("utf-8"))):
        return port
    shutil.rmtree(evaluation, ignore_errors=True)
    port = free_port()
    write_whole(file, f"{port}\n")
    return port


def _free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
