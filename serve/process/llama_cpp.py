"""Launching llama.cpp on a GGUF file: `llama-server` on the PATH, or llama-cpp-python's server.

The second wants a compiler to install, so it usually lives in an environment of its own, which `python` names.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

from serve.config import Engine
from serve.gguf import GgufError, context_length, metadata
from serve.process.launch import QUIET, Launch

_SERVER = "llama-server"


def missing(engine: Engine, file: Path) -> str:
    """What stands in its way: no llama.cpp, or a file that is no model; "" for nothing."""
    try:
        metadata(file)
    except (OSError, GgufError) as error:
        return f"model {engine.model!r} cannot be read: {error}"
    if engine.python:
        return "" if shutil.which(engine.python) else f"python: {engine.python!r} is not a program on this machine"
    if shutil.which(_SERVER) or (importlib.util.find_spec("llama_cpp") and importlib.util.find_spec("sse_starlette")):
        return ""
    return (
        f"llama.cpp was not found: put {_SERVER} on the PATH, or name the interpreter of an environment with "
        'llama-cpp-python[server]: python = "/path/to/bin/python"'
    )


def command(engine: Engine, file: Path, port: int) -> Launch:
    """How to start it on a loopback port, with the context that is configured, or else the model's own."""
    name, context = engine.public_name, engine.context or context_length(metadata(file)) or 0
    url, where = f"http://127.0.0.1:{port}", ("--host", "127.0.0.1", "--port", str(port))
    if not engine.python and (program := shutil.which(_SERVER)):
        argv = (program, "-m", str(file), *where, "--alias", name, "-c", str(context), "--jinja")
        return Launch(_SERVER, (*argv, *engine.args), {}, None, url, ("/health",), name)
    start = (engine.python or sys.executable, "-m", "llama_cpp.server", "--model", str(file), *where)
    # Log-probabilities of a prompt need all of its logits. By default a request would end the one before it.
    flags = ("--model_alias", name, "--n_ctx", str(context), "--logits_all", "true", "--interrupt_requests", "false")
    # Its /v1/models waits for the answer that is being generated; its own description does not.
    line = (*start, *flags, *engine.args)
    return Launch("llama_cpp.server", line, QUIET, None, url, ("/openapi.json",), name, "llama-cpp-python")
