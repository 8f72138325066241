"""What starts an engine: the launcher that fits the machine, its command line, and how to tell that it answers.

Everything is found out without importing an engine: a look at the files, not a second of start-up.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from retrieval.extra import install
from serve.config import EMBEDDED, ConfigError, Engine
from serve.gguf import PACKAGE, located
from serve.process import llama_cpp, onnx
from serve.process.launch import QUIET, Launch

# transformers' `serve` needs all of these; its own check leaves out torch and accelerate.
_LOCAL = ("torch", "transformers", "accelerate", "fastapi", "uvicorn", "pydantic", "openai")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?(:[\w./-]+\.gguf)?")
_handed_out: deque[int] = deque(maxlen=64)


def resolve(engine: Engine) -> Engine:
    """Choose the launcher where it is "auto" and check that it and the model are there; ConfigError if not."""
    if engine.command:
        return _checked_command(engine)
    if not engine.launcher:
        raise ConfigError(f"engine.{engine.name}: nothing to launch: it has no launcher and no command")
    launcher = engine.launcher
    if launcher in ("auto", *_OF_GGUF) and _is_gguf(engine.model):  # vLLM reads one too, and checks it itself
        return _resolved_gguf(engine)
    if launcher == "onnx" and (model := _folder(engine.model)):
        _check_model(engine, launcher)
        return _unhindered(engine, model)
    if launcher in _OF_GGUF:
        needs = "a GGUF file" + (" or a folder" if launcher == "onnx" else "")
        raise ConfigError(f"engine.{engine.name}: model {engine.model!r} is not {needs}, which {launcher} needs")
    if launcher == "auto":
        wanted = bool(engine.python or engine.adapters)  # only vLLM has these
        launcher = "vllm" if wanted or (_vllm(engine) and has_nvidia_gpu()) else "transformers"
    if launcher == "vllm" and not _vllm(engine):
        raise ConfigError(
            f"engine.{engine.name}: vllm is neither beside this Python nor on the PATH: {install('vllm')}, "
            'or name the interpreter of an environment that has it: python = "/path/to/bin/python"'
        )
    if launcher == "transformers" and (missing := _missing_for_transformers()):
        other = ", or give a server that you have: --upstream URL" if engine.model == str(EMBEDDED) else ""
        raise ConfigError(
            f"engine.{engine.name}: transformers serve needs {', '.join(missing)}: {install('local')}{other}"
        )
    _check_model(engine, launcher)
    _check_vllm_only(engine, launcher)
    return replace(engine, launcher=launcher)


def command(engine: Engine, port: int) -> Launch:
    """How to start a resolved engine on a loopback port."""
    if engine.command:
        return _own(engine, port)
    if engine.launcher in _OF_GGUF:
        file = located(engine.model) or _folder(engine.model)
        assert file is not None  # `resolve` has seen it
        return _OF_GGUF[engine.launcher].command(engine, file, port)
    # A folder is served under its own name, from beside it: so no path of ours reaches a client.
    folder = _folder(engine.model)
    model = folder.name if folder else engine.model
    env = QUIET | ({"HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1")} if folder else {})
    cwd = str(folder.parent) if folder else None
    where = ("--host", "127.0.0.1", "--port", str(port))
    url = f"http://127.0.0.1:{port}"
    if engine.launcher == "vllm":
        name = engine.served_name or (folder.name if folder else engine.public_name)
        argv = (*_vllm(engine), model, *where, "--served-model-name", name, *_vllm_flags(engine), *engine.args)
        env |= {"VLLM_NO_USAGE_STATS": "1"}
        if not _has_accelerator():  # on a CPU it would reserve half of the memory for its cache
            env |= {"VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "2")}
        return Launch("vllm serve", argv, env, cwd, url, ("/health",), name)
    if not _has_accelerator():
        # A thread for each core, not for each of its halves: those wait for one another, for seconds on a busy machine.
        env |= {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // 2)))}
    serve = (sys.executable, "-m", "transformers.cli.transformers", "serve", model)
    argv = (*serve, *where, "--dtype", "auto", "--device", "auto" if _has_accelerator() else "cpu", *engine.args)
    # It answers to the name that it was started with, and to no other (though it reports NAME@main).
    return Launch("transformers serve", argv, env, cwd, url, ("/health",), model)


class _OfGguf(Protocol):
    def missing(self, engine: Engine, file: Path) -> str: ...
    def command(self, engine: Engine, file: Path, port: int) -> Launch: ...


# Launchers of a GGUF file (onnx takes a folder, too): each has `missing`, what stands in its way on this machine
# ("" for nothing), and `command`.
_OF_GGUF: Mapping[str, _OfGguf] = {"llama.cpp": llama_cpp, "onnx": onnx}


def _is_gguf(model: str) -> bool:
    return model.startswith(PACKAGE) or (model.endswith(".gguf") and ":" not in model)


def _resolved_gguf(engine: Engine) -> Engine:
    """The launcher for a GGUF file: llama.cpp where it is there, else our own engine on ONNX Runtime."""
    at = f"engine.{engine.name}:"
    file = located(engine.model)
    if file is None:
        what = "is not installed, or holds no single GGUF file" if engine.model.startswith(PACKAGE) else "is no file"
        raise ConfigError(f"{at} model {engine.model!r} {what}")
    launcher = engine.launcher
    if launcher == "auto":
        launcher = "llama.cpp" if engine.python or not llama_cpp.missing(engine, file) else "onnx"
    return _unhindered(replace(engine, launcher=launcher), file)


def _unhindered(engine: Engine, model: Path) -> Engine:
    """The engine, if nothing stands in its launcher's way; ConfigError says what does."""
    if missing := _OF_GGUF[engine.launcher].missing(engine, model):
        raise ConfigError(f"engine.{engine.name}: {missing}")
    _check_vllm_only(engine, engine.launcher)
    return engine


def free_port() -> int:
    """A loopback port that is free now and was not handed out lately: two engines that start together never share one.

    A stranger may still take it before the engine does; that start then fails and the next one gets another.
    """
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port not in _handed_out:
            _handed_out.append(port)
            return port


async def ask_health(launch: Launch, timeout_s: float) -> str:
    """ "" where the engine answers that it is well, else what is wrong."""
    reason = ""
    for path in launch.health_paths:
        try:
            async with asyncio.timeout(timeout_s):
                status = await _get(launch.base_url, path)
        except TimeoutError:
            return f"{path} does not answer within {timeout_s:g} s"
        except (OSError, ValueError) as error:
            return f"{path}: {error}"
        if 200 <= status < 300 or status in (401, 403):  # it is up; our keys are the workers' business
            return ""
        reason = f"{path} answers {status}"
        if status not in (404, 405, 501):
            return reason
    return reason


def has_nvidia_gpu() -> bool:
    """Is there an NVIDIA GPU that CUDA would use?"""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        return False
    if any(Path("/dev").glob("nvidia[0-9]*")):
        return True
    if not (smi := shutil.which("nvidia-smi")):
        return False
    try:  # where devices have other names (WSL)
        listed = subprocess.run([smi, "-L"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.stdout.startswith(b"GPU ")


def _has_accelerator() -> bool:
    """Should torch choose the device? (NVIDIA, AMD, Apple)"""
    return has_nvidia_gpu() or os.path.exists("/dev/kfd") or sys.platform == "darwin"


_MODULE = ("-m", "vllm.entrypoints.openai.api_server", "--model")  # not every build's script starts


def _vllm(engine: Engine) -> tuple[str, ...]:
    """The start of vLLM's command line, up to the model; () where there is no vLLM."""
    if engine.python:
        return (engine.python, *_MODULE)
    if importlib.util.find_spec("vllm"):
        return (sys.executable, *_MODULE)
    beside = shutil.which("vllm", path=str(Path(sys.executable).parent))
    script = beside or shutil.which("vllm")
    return (script, "serve") if script else ()


def _vllm_flags(engine: Engine) -> tuple[str, ...]:
    """What its defaults lack: the cache that keeps a policy's constant part, and its share told in every usage."""
    flags = ["--enable-prefix-caching", "--enable-prompt-tokens-details"]
    if engine.tensor_parallel > 1:
        flags += ["--tensor-parallel-size", str(engine.tensor_parallel)]
    if engine.pipeline_parallel > 1:
        flags += ["--pipeline-parallel-size", str(engine.pipeline_parallel)]
    if engine.adapters:
        folders = {name: Path(os.path.abspath(Path(path).expanduser())) for name, path in engine.adapters.items()}
        rank = max(_rank(folder) for folder in folders.values())
        flags += ["--enable-lora", "--max-lora-rank", str(next(r for r in _RANKS if r >= rank))]
        flags += ["--lora-modules", *(f"{name}={folder}" for name, folder in folders.items())]
    return tuple(flags)


_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM has kernels for


def _rank(adapter: Path) -> int:
    return int(json.loads((adapter / "adapter_config.json").read_text("utf-8"))["r"])


def _check_vllm_only(engine: Engine, launcher: str) -> None:
    at = f"engine.{engine.name}:"
    if launcher != "vllm":
        given = [name for name in ("python", "adapters") if getattr(engine, name)]
        given += [name for name in ("tensor_parallel", "pipeline_parallel") if getattr(engine, name) != 1]
        if launcher == "llama.cpp":
            given = [name for name in given if name != "python"]
        if given:
            raise ConfigError(f'{at} {given[0]} is for vllm: set launcher = "vllm"')
        return
    if engine.python and not shutil.which(engine.python):
        raise ConfigError(f"{at} python: {engine.python!r} is not a program on this machine")
    for name, path in engine.adapters.items():
        try:
            rank = _rank(Path(path).expanduser())
        except (OSError, ValueError, KeyError, TypeError):
            raise ConfigError(
                f"{at} adapters.{name}: {path!r} holds no LoRA adapter (an adapter_config.json with r)"
            ) from None
        if rank > _RANKS[-1]:
            raise ConfigError(f"{at} adapters.{name}: its rank {rank} is more than the {_RANKS[-1]} that vLLM serves")


def _missing_for_transformers() -> list[str]:
    missing = [name for name in _LOCAL if not importlib.util.find_spec(name)]
    spec = importlib.util.find_spec("transformers")
    folders = spec.submodule_search_locations or [] if spec else []
    if spec and not any(Path(folder, "cli", "serving").is_dir() for folder in folders):
        missing.append("transformers>=5.17")
    return missing


def _folder(model: str) -> Path | None:
    """The model's folder, absolute, under the name that the user gave it (links are not followed)."""
    path = Path(os.path.abspath(Path(model).expanduser()))
    return path if path.is_dir() else None


def _check_model(engine: Engine, launcher: str) -> None:
    at = f"engine.{engine.name}: model"
    if not engine.model:
        raise ConfigError(f"{at} is missing: give a folder or a hub id (OWNER/NAME)")
    if folder := _folder(engine.model):
        if not any((folder / name).is_file() for name in ("config.json", "params.json")):
            raise ConfigError(f"{at} {engine.model!r} is a folder without a config.json")
        if launcher == "transformers" and ("@" in folder.name or ":" in folder.name):
            raise ConfigError(f"{at} {folder.name!r}: transformers serve reads @ and : in a name: rename the folder")
    elif Path(engine.model).is_file():
        if launcher == "transformers":
            raise ConfigError(f"{at} {engine.model!r} is a file: give the folder that it is in")
    elif not _HUB_ID.fullmatch(engine.model):
        raise ConfigError(f"{at} {engine.model!r}: no such folder, and not a hub id (OWNER/NAME)")


def _checked_command(engine: Engine) -> Engine:
    at = f"engine.{engine.name}: command"
    if not shutil.which(engine.command[0]):
        raise ConfigError(f"{at}: {engine.command[0]!r} is not a program on this machine")
    if not any("{port}" in part for part in engine.command):
        raise ConfigError(f"{at} must say where {{port}} goes: the engine gets a free one at each start")
    return engine


def _own(engine: Engine, port: int) -> Launch:
    """The user's own command line. Placeholders are replaced one by one: its JSON arguments keep their braces."""
    name = engine.public_name or engine.name
    fill = {"{model}": engine.model, "{name}": name, "{port}": str(port)}
    argv = list(engine.command)
    for placeholder, value in fill.items():
        argv = [part.replace(placeholder, value) for part in argv]
    text = " ".join(engine.command)
    # What it calls its model: the name that we gave it, else the path or id that we gave it, else we can't know.
    known = name if "{name}" in text else engine.model if "{model}" in text else ""
    url = f"http://127.0.0.1:{port}"
    what = Path(engine.command[0]).name
    return Launch(what, tuple(argv), {}, None, url, ("/health", "/v1/models"), known or engine.served_name)


async def _get(base_url: str, path: str) -> int:
    """GET over a connection of its own; the status. Raw, as the parent carries no HTTP client."""
    host, _, port = base_url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
        words = (await reader.readline()).split()
        if len(words) < 2 or not words[0].startswith(b"HTTP/"):
            raise ValueError("what answers does not speak HTTP")
        return int(words[1])
    finally:
        writer.close()
