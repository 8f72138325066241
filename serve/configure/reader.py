"""Read `trimtab.toml` and the flags, once, at boot. Every mistake dies here, with its line and the valid names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from prompt_opt import profile as profiles
from prompt_opt.core import Profile
from retrieval.extra import lacking
from serve.config import (
    EMBEDDED,
    Config,
    ConfigError,
    Engine,
    Flags,
    IndexSpec,
    Marking,
    RewriterSpec,
    Server,
)
from serve.configure.access import read_aliases, read_keys
from serve.configure.account import read_account
from serve.configure.limits import read_limits
from serve.configure.policies import read_policies
from serve.configure.reach import read_reach
from serve.configure.server import read_server
from serve.configure.toml import Toml, given
from serve.engine.features import APIS, FEATURES
from serve.engine.fields import GUARDED, STORED
from serve.store.place import STORES

_SECTIONS = (
    "state_dir",
    "server",
    "engine",
    "profile",
    "index",
    "rewriter",
    "policy",
    "alias",
    "key",
    "limits",
    "account",
    "marking",
    "store",
)


def load(flags: Flags | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """Read, merge and check the configuration.

    Raises:
        ConfigError: anything wrong, with the line where it stands.
    """
    flags = flags or Flags()
    environ = os.environ if environ is None else environ
    text, where = "", "the command line"
    if flags.config is not None:
        where = flags.config
        try:
            text = Path(flags.config).read_text("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{flags.config}: cannot be read: {error}") from None
    return _read(Toml(text, where), flags, environ)


def _read(toml: Toml, flags: Flags, environ: Mapping[str, str]) -> Config:
    toml.known("", toml.values, _SECTIONS)
    server = toml.fill(Server, "server", toml.section("server"))
    server = replace(server, **given(host=flags.host, port=flags.port, workers=flags.workers, policy=flags.policy))
    engines = _engines(toml, flags, environ)
    loaded = _profiles(toml)
    state = flags.state_dir or toml.values.get("state_dir", "state")
    if not isinstance(state, str):
        raise toml.fail("", "state_dir", "must be a path")
    store = toml.values.get("store", "sqlite")
    toml.names("", "store", [store], STORES, "store")
    indexes = _indexes(toml, Path(state))
    rewriters = _rewriters(toml, engines)
    policies = read_policies(toml, engines, loaded, indexes, rewriters, flags, server.cache_salt)
    aliases = read_aliases(toml, policies)
    keys = read_keys(toml, policies, indexes)
    server = read_server(toml, server, policies, keys, engines, flags)
    limits = read_limits(toml, keys, environ)
    account = read_account(toml)
    marking = toml.fill(Marking, "marking", toml.section("marking"))
    return Config(
        server,
        engines,
        loaded,
        policies,
        aliases,
        keys,
        indexes,
        rewriters,
        Path(state),
        store,
        limits,
        account,
        marking,
    )


# Sections

# The least that a number of an engine's may be.
_LEAST = (
    ("max_stop", 0), ("affinity", 0), ("retries", 0), ("context", 1), ("start_s", 1), ("tensor_parallel", 1),
    ("pipeline_parallel", 1),
)  # fmt: skip


def _engines(toml: Toml, flags: Flags, environ: Mapping[str, str]) -> dict[str, Engine]:
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
        toml.names(section, "fields_pass", engine.fields_pass, {**GUARDED, **STORED}, "guarded field")
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
    """The engine that the flags ask for; the embedded model when they ask for none."""
    if flags.upstream:
        if flags.engine:
            raise ConfigError("--engine launches a model; it can't be given with --upstream")
        return Engine("main", url=flags.upstream, model=flags.model or "", key_env=flags.key_env or "")
    launchers = ("auto", "vllm", "transformers", "llama.cpp", "onnx")
    if flags.engine and flags.engine not in launchers:
        raise ConfigError(f"--engine {flags.engine}: valid are {', '.join(launchers)}")
    launcher: Any = flags.engine or ("auto" if flags.model else "transformers")
    return Engine("main", model=flags.model or str(EMBEDDED), launcher=launcher)


def _check_urls(toml: Toml, section: str, engine: Engine) -> None:
    if engine.url or engine.launched:
        raise toml.fail(section, "urls", "an engine has a url, or urls, or is launched (launcher, command)")
    if not engine.urls:
        raise toml.fail(section, "urls", "lists no URL")


def _profiles(toml: Toml) -> dict[str, Profile]:
    out = {name: profiles.load(name) for name in profiles.shipped()}
    for name, table in toml.section("profile").items():
        section = f"profile.{name}"
        toml.known(section, table, ("file",))
        if not isinstance(table.get("file"), str):
            raise toml.fail(section, "file", "must be the path of a profile")
        file = Path(table["file"])
        file = file if file.is_absolute() or not Path(toml.where).is_file() else Path(toml.where).parent / file
        try:
            out[name] = replace(profiles.load(file), name=name)
        except profiles.ProfileError as error:
            raise toml.fail(section, "file", str(error)) from None
    return out


def _indexes(toml: Toml, state: Path) -> dict[str, IndexSpec]:
    out = {}
    for name, table in toml.section("index").items():
        section = f"index.{name}"
        toml.name(section, name)
        spec = toml.fill(IndexSpec, section, table, name=name)
        if spec.path and spec.url:
            raise toml.fail(section, "url", "an index is either a path or a url, not both")
        missing = [p for p in ("faiss", "tantivy", "numpy") if not spec.url and find_spec(p) is None]
        missing += ["pymilvus"] if spec.url and find_spec("pymilvus") is None else []
        if missing:
            extra = "milvus" if spec.url else "retrieval"
            raise toml.fail(section, "", lacking(", ".join(missing), extra))
        out[name] = spec if spec.location else replace(spec, path=str(state / "indexes" / name))
    return out


def _rewriters(toml: Toml, engines: Mapping[str, Engine]) -> dict[str, RewriterSpec]:
    if not (named := toml.section("rewriter")):
        return {}
    from prompt_opt.rewriter.settings import rewriter

    out = {}
    for name, table in named.items():
        section = f"rewriter.{name}"
        toml.name(section, name)
        spec = toml.fill(RewriterSpec, section, table, name=name)
        toml.one(section, "engine", spec.engine, engines, "engine")
        try:
            rewriter(name, spec.engine, spec.template, spec.decoding)
        except ValueError as error:
            raise toml.fail(section, "template" if "template" in str(error) else "decoding", str(error)) from None
        if spec.embedder and find_spec("sentence_transformers") is None:
            raise toml.fail(section, "embedder", lacking("sentence_transformers", "retrieval"))
        for limit in ("timeout_s", "cache_mb", "max_tokens"):
            if getattr(spec, limit) <= 0:
                raise toml.fail(section, limit, "must be more than zero")
        out[name] = spec
    return out
