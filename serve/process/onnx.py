"""Launching our own engine: a GGUF file of the Llama family on ONNX Runtime (`serve.engine.local`)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from retrieval.extra import install
from serve.config import Engine
from serve.gguf import GgufError, metadata
from serve.process.launch import QUIET, Launch

_NEEDED = ("gguf", "jinja2", "numpy", "onnx", "onnxruntime", "tokenizers")


def missing(engine: Engine, file: Path) -> str:
    """What stands in its way: packages, or a model that it does not compute; "" for nothing."""
    if lacks := [name for name in _NEEDED if not importlib.util.find_spec(name)]:
        return f"the engine on ONNX Runtime needs {', '.join(lacks)}: {install('demo')}"
    try:
        architecture = metadata(file).get("general.architecture")
    except (OSError, GgufError) as error:
        return f"model {engine.model!r} cannot be read: {error}"
    if architecture != "llama":
        return f"the engine on ONNX Runtime computes the architecture 'llama', not {architecture!r}: install llama.cpp"
    return ""


def command(engine: Engine, file: Path, port: int) -> Launch:
    """How to start it on a loopback port."""
    name = engine.public_name
    argv = (sys.executable, "-m", "serve.engine.local", str(file), "--port", str(port), "--name", name)
    url = f"http://127.0.0.1:{port}"
    return Launch("the engine on ONNX Runtime", (*argv, *engine.args), QUIET, None, url, ("/health",), name)
