"""An engine that a round starts on its actor's weights and stops when it has sampled.

The command is the recipe's, with {model} and {port} filled in: `vllm serve {model} --port {port}` for one. It runs in a
process group of its own. Where this process is killed, the kernel sends the engine SIGTERM (Linux).
"""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from trainers.ask.engine import EngineError

POLL_S = 0.2
STOP_S = 20.0


@contextmanager
def running(
    command: str, model: Path, log: Path, timeout_s: float, port: int | None = None
) -> Iterator[tuple[str, str]]:
    """(URL, the model's name there) of the engine, once it answers; on a free port unless one is given.

    Raises:
        EngineError: it cannot be started, ends, or does not answer in `timeout_s`; the message names its log.
    """
    port = port or free_port()
    line = [part.replace("{model}", str(model)).replace("{port}", str(port)) for part in shlex.split(command)]
    with log.open("ab") as file:
        try:
            process = subprocess.Popen(
                line,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent,  # noqa: PLW1509
            )
        except OSError as error:
            raise EngineError(f"engine_command cannot be started: {error}") from error
        try:
            url = f"http://127.0.0.1:{port}"
            yield url, wait(url, process, log, time.monotonic() + timeout_s)
        finally:
            stop(process)


def end_with_parent() -> None:
    """In the child: have SIGTERM sent when the parent dies, however that is (prctl(2), PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait(url: str, process: subprocess.Popen[bytes], log: Path, deadline: float) -> str:
    """The name of the engine's first model, once it lists its models."""
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise EngineError(f"the engine ended with status {process.returncode} before it answered; see {log}")
        try:
            reply = httpx.get(f"{url}/v1/models", timeout=5)
            if reply.status_code == httpx.codes.OK:
                return str(reply.json()["data"][0]["id"])
        except (httpx.TransportError, ValueError, KeyError, IndexError):
            pass  # it is still starting
        time.sleep(POLL_S)
    raise EngineError(f"the engine did not answer in time; see {log}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the engine and its children: politely, then not."""
    for sign, patience in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, STOP_S)):
        try:
            os.killpg(process.pid, sign)
            process.wait(patience)
            return
        except ProcessLookupError:
            process.wait()
            return
        except subprocess.TimeoutExpired:
            continue


def load_adapter(url: str, name: str, folder: Path) -> None:
    """Have a running vLLM serve a LoRA adapter under this name (POST /v1/load_lora_adapter).

    vLLM allows it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1. The folder must be one that it can read.

    Raises:
        EngineError: the engine cannot be reached or refuses.
    """
    _tell(url, "load_lora_adapter", {"lora_name": name, "lora_path": str(folder.resolve())})


def unload_adapter(url: str, name: str) -> None:
    """Have a running vLLM forget an adapter. Raises EngineError as `load_adapter` does."""
    _tell(url, "unload_lora_adapter", {"lora_name": name})


def _tell(url: str, what: str, body: dict[str, str]) -> None:
    try:
        reply = httpx.post(f"{url.rstrip('/').removesuffix('/v1')}/v1/{what}", json=body, timeout=300)
    except httpx.TransportError as error:
        raise EngineError(f"engine {url} cannot be reached: {error}") from error
    if reply.status_code != httpx.codes.OK:
        raise EngineError(f"engine {url}: {what} of {body['lora_name']} failed: {reply.status_code} {reply.text[:200]}")
