"""The sections that say which engines there are, and the engine that the flags ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from serve.config import DEMO, EMBEDDED, ConfigError, Engine, Flags
from serve.configure.reach import read_reach
from serve.configure.toml import Toml
from serve.engine.features import APIS, FEATURES
from serve.engine.fields import GUARDED, STORED
from serve.engine.kinds import BEYOND
from serve.gguf import located

# The least that a number of an engine's may be.
_LEAST = (
    ("max_stop", 0), ("affinity", 0), ("retries", 0), ("context", 1), ("start_s", 1), ("tensor_parallel", 1),
    ("pipeline_parallel", 1),
)  # fmt: skip

# What `fields_pass` may name.
_FIELDS = frozenset({*GUARDED, *STORED, *BEYOND, *FEATURES})


def read_engines(toml: Toml, flags: Flags, environ: Mapping[str, str]) -> dict[str, Engine]:
    """The engines by name.

    Raises:
        ConfigError: one is wrong; the message has the line.
    """
    engines: dict[str, Engine] = {}
    for name, table in toml.section("engine").items():
        section = f"engine.{name}"
        toml.name(section, name)
        engine = toml.fill(Engine, section, table, name=name)
        if not all(isinstance(path, str) and path for path in engine.adapters.values()):
            raise toml.fail(section, "adapters", "must name a folder for each model name")
        if "urls" in table:
            _check_urls(toml, section, engine)
        if engine.launched and not engine.url and not engine.model:
            raise toml.fail(section, "", "a launched engine needs a model (a folder or a hub id)")
        if engine.launched and engine.url:
            raise toml.fail(section, "url", "an engine has either a url or a launcher/command, not both")
        if not engine.launched and not engine.url and not engine.urls:
            if not engine.model:
                raise toml.fail(section, "", "needs a url, or a model to launch")
            engine = replace(engine, launcher="auto")
        engines[name] = engine
    if flags.upstream or flags.model or flags.engine or not engines:
        engines = {"main": _main(flags), **{n: e for n, e in engines.items() if n != "main"}}
    for name, engine in engines.items():
        section = f"engine.{name}"
        engines[name] = engine = read_reach(toml, section, engine)
        if engine.launched and engine.model == EMBEDDED.name and not Path(engine.model).exists():
            engines[name] = engine = replace(engine, model=str(EMBEDDED))
        toml.names(section, "fields_pass", engine.fields_pass, _FIELDS, "field")
        if engine.supports is not None:
            toml.names(section, "supports", engine.supports, (*FEATURES, *APIS.values()), "feature")
        if engine.key_env and not environ.get(engine.key_env):
            raise toml.fail(section, "key_env", f"the environment has no {engine.key_env}")
        for limit, least in _LEAST:
            if (value := getattr(engine, limit)) is not None and value < least:
                raise toml.fail(section, limit, f"must be at least {least}")
        if engine.tokenizer and not Path(engine.tokenizer).exists():
            raise toml.fail(section, "tokenizer", f"no file or folder {engine.tokenizer!r}")
        if engine.command and "{port}" not in " ".join(engine.command):
            raise toml.fail(section, "command", "must contain {port}: the engine has to listen on the port it is given")
    return engines


def _main(flags: Flags) -> Engine:
    """What the flags ask for; where they name nothing, the demo's model if it is installed, else the embedded toy."""
    if flags.upstream:
        if flags.engine:
            raise ConfigError("--engine launches a model; it can't be given with --upstream")
        return Engine("main", url=flags.upstream, model=flags.model or "", key_env=flags.key_env or "")
    launchers = ("auto", "vllm", "transformers", "llama.cpp", "onnx")
    if flags.engine and flags.engine not in launchers:
        raise ConfigError(f"--engine {flags.engine}: valid are {', '.join(launchers)}")
    if not flags.model and flags.engine in (None, "onnx", "llama.cpp") and located(DEMO) and find_spec("onnxruntime"):
        return Engine("main", model=DEMO, launcher=flags.engine or "onnx", served_name="smollm2-135m")  # type: ignore[arg-type]
    launcher: Any = flags.engine or ("auto" if flags.model else "transformers")
    return Engine("main", model=flags.model or str(EMBEDDED), launcher=launcher)


def _check_urls(toml: Toml, section: str, engine: Engine) -> None:
    if engine.url or engine.launched:
        raise toml.fail(section, "urls", "an engine has a url, or urls, or is launched (launcher, command)")
    if not engine.urls:
        raise toml.fail(section, "urls", "lists no URL")
