"""Launching our own engine: a model of the Llama family, in a GGUF file or a folder, on ONNX Runtime."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

from retrieval.extra import install
from serve.config import Engine
from serve.gguf import metadata
from serve.process.launch import QUIET, Launch

_NEEDED = ("gguf", "jinja2", "numpy", "onnx", "onnxruntime", "tokenizers")


def missing(engine: Engine, model: Path) -> str:
    """What stands in its way: packages, or a model that it does not compute; "" for nothing."""
    needed = (*_NEEDED, "ml_dtypes", "safetensors") if model.is_dir() else _NEEDED
    if lacks := [name for name in needed if not importlib.util.find_spec(name)]:
        return f"the engine on ONNX Runtime needs {', '.join(lacks)}: {install('demo')}"
    try:
        architecture = _architecture(model)
    except (OSError, ValueError) as error:
        return f"model {engine.model!r} cannot be read: {error}"
    if architecture != "llama":
        other = "" if model.is_dir() else ": install llama.cpp"
        return f"the engine on ONNX Runtime computes the architecture 'llama', not {architecture!r}{other}"
    if model.is_dir() and not any(model.glob("*.safetensors")):
        return f"model {engine.model!r} is a folder without *.safetensors, which the engine on ONNX Runtime reads"
    return ""


def _architecture(model: Path) -> object:
    if model.is_dir():
        return json.loads((model / "config.json").read_text("utf-8")).get("model_type")
    return metadata(model).get("general.architecture")


def command(engine: Engine, model: Path, port: int) -> Launch:
    """How to start it on a loopback port."""
    name = engine.public_name
    argv = (sys.executable, "-m", "serve.engine.local", str(model), "--port", str(port), "--name", name)
    url = f"http://127.0.0.1:{port}"
    return Launch("the engine on ONNX Runtime", (*argv, *engine.args), QUIET, None, url, ("/health",), name)
