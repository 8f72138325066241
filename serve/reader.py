"""Read `trimtab.toml` and the flags, once, at boot. Every mistake dies here, with its line and the valid names."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import msgspec

from prompt_opt import pipeline
from prompt_opt import profile as profiles
from prompt_opt.bpo import form_of
from prompt_opt.core import Policy, Profile
from prompt_opt.pipeline import STAGES
from prompt_opt.rewriter import rewriter
from serve.config import (
    EMBEDDED,
    RAW,
    RIGHTS,
    Alias,
    Config,
    ConfigError,
    Engine,
    Flags,
    IndexSpec,
    Key,
    RewriterSpec,
    Server,
    is_base,
)
from serve.engines import FEATURES
from serve.keys import Caller

_SECTIONS = ("state_dir", "server", "engine", "profile", "index", "rewriter", "policy", "alias", "key")
_POLICY_FIELDS = ("engine", "stages", "render", "profile", "budget_ms", "on_error", "cache_salt")


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
            text = Path(flags.config).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{flags.config}: cannot be read: {error}") from None
    return _Reader(text, where).read(flags, environ)


T = TypeVar("T")

# The least that a number of an engine's may be.
_LEAST = (
    ("max_stop", 0), ("affinity", 0), ("context", 1), ("start_s", 1), ("tensor_parallel", 1), ("pipeline_parallel", 1),
)  # fmt: skip


class _Reader:
    """One pass over one file; it exists to say the line of a mistake."""

    def __init__(self, text: str, where: str) -> None:
        self._text, self._where = text, where
        self._row = 0  # which of the tables of one name ([[key]]) is being read
        try:
            self._table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{where}: {error}") from None

    def fail(self, section: str, key: str, message: str) -> ConfigError:
        line = self._line(section, key)
        spot = f"{self._where}:{line}" if line else self._where
        name = ".".join(part for part in (section, key) if part)
        name = name if re.fullmatch(r"[!-~]*", name) else repr(name)
        return ConfigError(f"{spot}: {name}: {message}" if name else f"{spot}: {message}")

    def _line(self, section: str, key: str) -> int:
        """The line of `key` in `[section]`; of the section's own header if the key has none; 0 if neither is found."""
        current, header, rows = "", 0, 0
        for number, line in enumerate(self._text.splitlines(), 1):
            if match := re.match(r"\s*(\[\[?)\s*([^\]]+?)\s*\]", line):
                current = match[2].replace('"', "").replace("'", "")
                if match[1] == "[[" and current == section:
                    rows += 1
                    current = section if rows == self._row + 1 else ""
                inside = current.startswith(f"{section}.") and not header
                header = number if current == section or inside else header
            elif current == section and key and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]", line):
                return number
        parent, _, last = section.rpartition(".")
        return header or (self._line(parent, last) if parent else 0)

    def read(self, flags: Flags, environ: Mapping[str, str]) -> Config:
        self._known("", self._table, _SECTIONS)
        server = self._dataclass(Server, "server", self._section("server"))
        server = replace(server, **_given(host=flags.host, port=flags.port, workers=flags.workers, policy=flags.policy))
        engines = self._engines(flags, environ)
        loaded = self._profiles()
        state = flags.state_dir or self._table.get("state_dir", "state")
        if not isinstance(state, str):
            raise self.fail("", "state_dir", "must be a path")
        indexes = self._indexes(Path(state))
        rewriters = self._rewriters(engines)
        policies = self._policies(engines, loaded, indexes, rewriters, flags, server.cache_salt)
        aliases = self._aliases(policies)
        keys = self._keys(policies)
        server = self._server(server, policies, keys, engines, flags)
        return Config(server, engines, loaded, policies, aliases, keys, indexes, rewriters, Path(state))

    # -- sections

    def _engines(self, flags: Flags, environ: Mapping[str, str]) -> dict[str, Engine]:
        engines: dict[str, Engine] = {}
        for name, table in self._section("engine").items():
            section = f"engine.{name}"
            self._name(section, name)
            engine = self._dataclass(Engine, section, table, name=name)
            if not all(isinstance(path, str) and path for path in engine.adapters.values()):
                raise self.fail(section, "adapters", "must name a folder for each model name")
            if "urls" in table:
                engine = replace(engine, urls=self._urls(section, engine))
            if engine.launched and not engine.url and not engine.model:
                raise self.fail(section, "", "a launched engine needs a model (a folder or a hub id)")
            if engine.launched and engine.url:
                raise self.fail(section, "url", "an engine is either a URL or launched (launcher, command), not both")
            if not engine.launched and not engine.url and not engine.urls:
                if not engine.model:
                    raise self.fail(section, "", "needs a url, or a model to launch")
                engine = replace(engine, launcher="auto")
            engines[name] = engine
        if flags.upstream or flags.model or flags.engine or not engines:
            engines = {"main": self._main(flags), **{n: e for n, e in engines.items() if n != "main"}}
        for name, engine in engines.items():
            section = f"engine.{name}"
            if engine.url:
                engines[name] = engine = replace(engine, url=self._url(section, engine.url))
            elif engine.launched and engine.model == EMBEDDED.name and not Path(engine.model).exists():
                engines[name] = engine = replace(engine, model=str(EMBEDDED))
            if engine.supports is not None:
                self._names(section, "supports", engine.supports, FEATURES, "feature")
            if engine.key_env and not environ.get(engine.key_env):
                raise self.fail(section, "key_env", f"the environment has no {engine.key_env}")
            for limit, least in _LEAST:
                if (value := getattr(engine, limit)) is not None and value < least:
                    raise self.fail(section, limit, f"must be at least {least}")
            if engine.tokenizer and not Path(engine.tokenizer).exists():
                raise self.fail(section, "tokenizer", f"no file or folder {engine.tokenizer!r}")
            if engine.command and "{port}" not in " ".join(engine.command):
                raise self.fail(section, "command", "must hold {port}: the engine has to listen where we look for it")
        return engines

    def _main(self, flags: Flags) -> Engine:
        """The engine that the flags ask for; the embedded model when they ask for none."""
        if flags.upstream:
            if flags.engine:
                raise ConfigError("--engine launches a model; it can't be given with --upstream")
            return Engine("main", url=flags.upstream, model=flags.model or "", key_env=flags.key_env or "")
        launchers = ("auto", "vllm", "transformers")
        if flags.engine and flags.engine not in launchers:
            raise ConfigError(f"--engine {flags.engine}: valid are {', '.join(launchers)}")
        launcher: Any = flags.engine or ("auto" if flags.model else "transformers")
        return Engine("main", model=flags.model or str(EMBEDDED), launcher=launcher)

    def _urls(self, section: str, engine: Engine) -> tuple[str, ...]:
        if engine.url or engine.launched:
            raise self.fail(section, "urls", "an engine has a url, or urls, or is launched (launcher, command)")
        urls = tuple(self._url(section, url, "urls") for url in engine.urls)
        if not urls:
            raise self.fail(section, "urls", "names no URL")
        if twice := [url for at, url in enumerate(urls) if url in urls[:at]]:
            raise self.fail(section, "urls", f"{twice[0]!r} stands twice")
        return urls

    def _url(self, section: str, url: str, key: str = "url") -> str:
        try:
            parts = urlsplit(url)
            right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # brackets, or a port that is none
            right = False
        if not right or not re.fullmatch(r"[!-~]+", url):
            raise self.fail(section, key, f"{url!r} is no http:// or https:// URL")
        if parts.query or parts.fragment:
            raise self.fail(section, key, "must end with its path: paths are appended to it")
        if parts.username or parts.password:
            raise self.fail(section, key, "must not hold credentials: put the key into the environment (key_env)")
        return re.sub(r"(/v1)?/*$", "", url)

    def _profiles(self) -> dict[str, Profile]:
        out = {name: profiles.load(name) for name in profiles.shipped()}
        for name, table in self._section("profile").items():
            section = f"profile.{name}"
            self._known(section, table, ("file",))
            if not isinstance(table.get("file"), str):
                raise self.fail(section, "file", "must be the path of a profile")
            file = Path(table["file"])
            file = file if file.is_absolute() or not Path(self._where).is_file() else Path(self._where).parent / file
            try:
                out[name] = replace(profiles.load(file), name=name)
            except profiles.ProfileError as error:
                raise self.fail(section, "file", str(error)) from None
        return out

    def _indexes(self, state: Path) -> dict[str, IndexSpec]:
        out = {}
        for name, table in self._section("index").items():
            section = f"index.{name}"
            self._name(section, name)
            spec = self._dataclass(IndexSpec, section, table, name=name)
            if spec.path and spec.url:
                raise self.fail(section, "url", "an index is either a path or a url, not both")
            missing = [p for p in ("faiss", "tantivy", "numpy") if not spec.url and find_spec(p) is None]
            missing += ["pymilvus"] if spec.url and find_spec("pymilvus") is None else []
            if missing:
                extra = "milvus" if spec.url else "retrieval"
                raise self.fail(section, "", f"needs {', '.join(missing)}: pip install 'trimtab[{extra}]'")
            out[name] = spec if spec.location else replace(spec, path=str(state / "indexes" / name))
        return out

    def _rewriters(self, engines: Mapping[str, Engine]) -> dict[str, RewriterSpec]:
        out = {}
        for name, table in self._section("rewriter").items():
            section = f"rewriter.{name}"
            self._name(section, name)
            spec = self._dataclass(RewriterSpec, section, table, name=name)
            self._one(section, "engine", spec.engine, engines, "engine")
            try:
                rewriter(name, spec.engine, spec.template, spec.decoding)
            except ValueError as error:
                raise self.fail(section, "template" if "template" in str(error) else "decoding", str(error)) from None
            if spec.embedder and find_spec("sentence_transformers") is None:
                raise self.fail(section, "embedder", "needs pip install 'trimtab[retrieval]'")
            for limit in ("timeout_s", "cache_mb", "max_tokens"):
                if getattr(spec, limit) <= 0:
                    raise self.fail(section, limit, "must be more than zero")
            out[name] = spec
        return out

    def _policies(
        self,
        engines: Mapping[str, Engine],
        loaded: Mapping[str, Profile],
        indexes: Mapping[str, IndexSpec],
        rewriters: Mapping[str, RewriterSpec],
        flags: Flags,
        shared: Literal["none", "tenant"],
    ) -> dict[str, Policy]:
        if flags.render and flags.render not in ("chat", "base"):
            raise ConfigError(f"--render {flags.render}: valid are chat, base")
        first = "main" if "main" in engines else next(iter(engines))
        render: Any = flags.render or ("base" if is_base(engines[first]) else "chat")
        urial = Policy("urial", first, ("urial",), render, loaded["default"], cache_salt=shared)
        policies = {
            RAW: Policy(RAW, first, cache_salt=shared),
            "urial": urial,
            "urial-helpful": replace(urial, name="urial-helpful", profile=loaded["helpful"]),
            "urial-plain": replace(urial, name="urial-plain", profile=loaded["plain"]),
        }
        for name, table in self._section("policy").items():
            section = f"policy.{name}"
            self._name(section, name)
            if name == RAW:
                raise self.fail(section, "", "raw is built in: it has no stage, and can't be another")
            subs = {k: v for k, v in table.items() if isinstance(v, dict)}
            self._known(section, table, (*_POLICY_FIELDS, *STAGES))
            settings = {stage: self._settings(section, stage, table) for stage, table in subs.items()}
            given = dict(_given(**{k: table.get(k) for k in _POLICY_FIELDS}))
            given["profile"] = self._one(section, "profile", given.get("profile", "default"), loaded, "profile")
            engine = self._one(section, "engine", given.get("engine", first), engines, "engine")
            given["engine"] = engine.name
            given.setdefault("render", "base" if is_base(engine) else "chat")
            given.setdefault("stages", ("urial",))
            given.setdefault("cache_salt", shared)
            policy = self._dataclass(Policy, section, given, name=name, options=settings)
            self._names(section, "stages", policy.stages, STAGES, "stage")
            if len(set(policy.stages)) < len(policy.stages):
                raise self.fail(section, "stages", "each stage stands once")
            if "opo" in policy.stages:
                self._opo(section, policy, indexes)
            if "bpo" in policy.stages:
                self._bpo(section, policy, rewriters)
            if policy.budget_ms <= 0:
                raise self.fail(section, "budget_ms", "must be more than zero")
            policies[name] = policy
        return {name: replace(policy, digest=_digest(policy)) for name, policy in policies.items()}

    def _settings(self, section: str, stage: str, table: Any) -> Any:
        """A stage's own table, as the dataclass that its module has for it."""
        cls = pipeline.options(stage)
        if cls is None:
            self._known(f"{section}.{stage}", table, ())
            return table
        return self._dataclass(cls, f"{section}.{stage}", table)

    def _opo(self, section: str, policy: Policy, indexes: Mapping[str, IndexSpec]) -> None:
        section = f"{section}.opo"
        if "opo" not in policy.options:
            raise self.fail(section, "", 'the stage opo needs a table with index = ["NAME"]')
        options = policy.options["opo"]
        self._names(section, "index", options.index, indexes, "index")
        if not options.index and not options.pinned:
            raise self.fail(section, "index", "names no index to search")
        for name in options.pinned:
            if name.partition("/")[0] not in indexes or not name.partition("/")[2]:
                valid = ", ".join(sorted(indexes)) or "none"
                raise self.fail(section, "pinned", f"{name!r} is no INDEX/ID; indexes are {valid}")
        if options.mode not in ("hybrid", "dense", "lexical"):
            raise self.fail(section, "mode", f"{options.mode!r}: valid are hybrid, dense, lexical")
        for name in ("k", "budget_tokens"):
            if getattr(options, name) <= 0:
                raise self.fail(section, name, "must be more than zero")

    def _bpo(self, section: str, policy: Policy, rewriters: Mapping[str, RewriterSpec]) -> None:
        section = f"{section}.bpo"
        if "bpo" not in policy.options:
            raise self.fail(section, "", 'the stage bpo needs a table with rewriter = "NAME"')
        options = policy.options["bpo"]
        spec = self._one(section, "rewriter", options.rewriter, rewriters, "rewriter")
        try:
            form_of(options, rewriter(spec.name, spec.engine, spec.template, spec.decoding).template)
        except ValueError as error:
            raise self.fail(section, "mode", str(error)) from None
        if options.mode == "demo" and policy.render != "chat":
            raise self.fail(section, "mode", 'demo needs render = "chat": its example is a chat model\'s answer')

    def _aliases(self, policies: Mapping[str, Policy]) -> dict[str, Alias]:
        out = {}
        for name, table in self._section("alias").items():
            if not isinstance(table, dict):
                raise self.fail("alias", name, 'must be a table: { policy = "NAME", model = "NAME" }')
            alias = self._dataclass(Alias, "alias", table, name=name, spot=name)
            self._one("alias", name, alias.policy, policies, "policy")
            out[name] = alias
        return out

    def _keys(self, policies: Mapping[str, Policy]) -> tuple[Key, ...]:
        rows = self._table.get("key", [])
        if not isinstance(rows, list):
            raise self.fail("key", "", "write [[key]], with two brackets: there may be several")
        out: list[Key] = []
        for self._row, row in enumerate(rows):
            key = self._dataclass(Key, "key", row)
            if not re.fullmatch(r"[0-9a-fA-F]{64}", key.sha256):
                raise self.fail("key", "sha256", f"key {key.id!r}: must be the SHA-256 of the secret in hexadecimal")
            if any(other.id == key.id for other in out):
                raise self.fail("key", "id", f"{key.id!r} stands twice")
            self._names("key", "policies", key.policies, policies, "policy")
            self._names("key", "rights", key.rights, RIGHTS, "right")
            if key.policy:
                self._names("key", "policy", [key.policy], policies, "policy")
            if any(other.sha256 == key.sha256.lower() for other in out):
                raise self.fail("key", "sha256", f"key {key.id!r} has the secret of another")
            if key.policy and not Caller(key.tenant, key).may_use(key.policy):
                raise self.fail("key", "policy", f"key {key.id!r} may not use its own default {key.policy!r}")
            if not key.id:
                raise self.fail("key", "id", "must not be empty")
            out.append(replace(key, sha256=key.sha256.lower(), tenant=key.tenant or key.id))
        return tuple(out)

    def _server(
        self,
        server: Server,
        policies: Mapping[str, Policy],
        keys: tuple[Key, ...],
        engines: Mapping[str, Engine],
        flags: Flags,
    ) -> Server:
        if server.policy:
            self._one("server" if not flags.policy else "", "policy", server.policy, policies, "policy")
        else:
            first = "main" if "main" in engines else next(iter(engines))
            server = replace(server, policy="urial" if is_base(engines[first]) else RAW)
        for name in ("workers", "max_depth", "max_n", "max_messages", "max_body_mb", "timeout_s", "connect_s"):
            if getattr(server, name) <= 0:
                raise self.fail("server", name, "must be more than zero")
        for name in ("drain_s", "trace_ttl_s"):
            if getattr(server, name) < 0:
                raise self.fail("server", name, "must not be negative")
        if not 0 <= server.port <= 65535:
            raise self.fail("server", "port", "must be between 0 and 65535")
        if not keys and not server.open and not _loopback(server.host):
            raise self.fail(
                "server",
                "host",
                f"{server.host} is reachable from other hosts, and there is no [[key]]: add one, or set "
                "server.open = true to serve everybody",
            )
        return server

    # -- checks

    def _section(self, name: str) -> dict[str, Any]:
        table = self._table.get(name, {})
        if not isinstance(table, dict):
            raise self.fail("", name, f"must be a table: [{name}.NAME]")
        return table

    def _known(self, section: str, table: Any, valid: Iterable[str], spot: str = "") -> None:
        if not isinstance(table, dict):
            raise self.fail(section, "", "must be a table")
        for key in table:
            if key not in valid:
                choices = ", ".join(valid) or "none"
                # An unknown section has its own header line; an unknown key stands in its section.
                if spot:
                    raise self.fail(section, spot, f"{key} is unknown; valid are {choices}")
                where = (key, "") if not section and self._line(key, "") else (section, key)
                raise self.fail(where[0], where[1], f"unknown; valid are {choices}")

    def _name(self, section: str, name: str) -> None:
        """Policies and engines are named in headers, metrics and messages."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,63}", name):
            raise self.fail(section, "", "a name is made of letters, digits and _ . : / - (64 at most)")

    def _names(self, section: str, key: str, names: Iterable[str], valid: Iterable[str], noun: str) -> None:
        for name in names:
            if name not in valid:
                raise self.fail(section, key, f"no {noun} {name!r}; valid are {', '.join(sorted(valid))}")

    def _one(self, section: str, key: str, name: Any, valid: Mapping[str, T], noun: str) -> T:
        if not isinstance(name, str) or name not in valid:
            raise self.fail(section, key, f"no {noun} {name!r}; valid are {', '.join(sorted(valid))}")
        return valid[name]

    def _dataclass(self, cls: type[T], section: str, table: Any, spot: str = "", **given: Any) -> T:
        """An instance of `cls` from a table: keys and types checked, missing ones by default."""
        hints = get_type_hints(cls)
        names = [f.name for f in fields(cls) if f.name not in given]  # type: ignore[arg-type]
        self._known(section, table, names, spot)
        for key, value in table.items():
            try:
                given[key] = _typed(value, hints[key])
            except TypeError as error:
                raise self.fail(section, spot or key, str(error)) from None
        try:
            return cls(**given)
        except ValueError as error:
            raise self.fail(section, spot, str(error)) from None
        except TypeError as error:
            missing = re.findall(r"'(\w+)'", str(error))
            raise self.fail(section, spot, f"needs {', '.join(missing)}") from None


def _typed(value: Any, hint: Any) -> Any:
    """`value` as `hint` wants it (an int may stand for a float, a list for a tuple); TypeError otherwise."""
    options = get_args(hint)
    if get_origin(hint) is Literal:
        if value in options:
            return value
        raise TypeError(f"{value!r}: valid are {', '.join(repr(o) for o in options if o)}")
    if type(None) in options:
        return _typed(value, next(o for o in options if o is not type(None)))
    if get_origin(hint) is tuple:
        if isinstance(value, (list, tuple)) and all(isinstance(v, options[0]) for v in value):
            return tuple(value)
        raise TypeError(f"must be a list of {options[0].__name__}")
    if not isinstance(hint, type):
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise TypeError(f"must be {'an integer' if hint is int else 'a ' + hint.__name__}")


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _digest(policy: Policy) -> str:
    """A hash of everything that the policy does to a prompt."""
    return hashlib.sha256(msgspec.json.encode(asdict(policy), order="sorted")).hexdigest()[:12]


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
