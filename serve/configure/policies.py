"""The section that says what is done to a request: policies."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import tomli_w

from prompt_opt import pipeline
from prompt_opt.core import Policy, Profile
from prompt_opt.pipeline import STAGES
from prompt_opt.stages.check import Facts, SettingError
from serve.config import (
    RAW,
    REQUEST_OPTIONS,
    ConfigError,
    Engine,
    Flags,
    IndexSpec,
    RewriterSpec,
    is_base,
)
from serve.configure.toml import Toml, given
from serve.store.changes import Managed

if TYPE_CHECKING:
    from prompt_opt.rewriter.settings import Rewriter

_POLICY_FIELDS = (
    "engine", "stages", "render", "profile", "budget_ms", "on_error", "fallback", "cache_salt", "elsewhere", "optional",
)  # fmt: skip


def read_policies(
    toml: Toml,
    engines: Mapping[str, Engine],
    loaded: Mapping[str, Profile],
    indexes: Mapping[str, IndexSpec],
    rewriters: Mapping[str, RewriterSpec],
    flags: Flags,
    shared: Literal["none", "tenant"],
    managed: Managed,
) -> dict[str, Policy]:
    """The built-in policies, those of the file and the managed ones by name, each complete and hashed.

    `shared` is the cache salt of a policy that names none.

    Raises:
        ConfigError: a policy is wrong; the message has the line and the valid names.
    """
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
    facts = Facts(indexes, _rewriters(rewriters))
    for name, table in toml.section("policy").items():
        policies[name] = _read_policy(toml, name, table, first, engines, loaded, facts, shared)
    for name, settings in managed.policies.items():
        change = managed.origins.get(f"policy {name}", "")
        if name in policies:
            own = f"defined in {toml.where}" if name in toml.section("policy") else "built in"
            raise ConfigError(f"policy {name!r} is {own}, and the change {change} manages one of that name: rename it")
        one = managed_toml(name, settings, change)
        table = one.section("policy")[name]
        policies[name] = replace(
            _read_policy(one, name, table, first, engines, loaded, facts, shared), change=change or "draft"
        )
    return {name: replace(policy, digest=_digest(policy, rewriters)) for name, policy in policies.items()}


def managed_toml(name: str, settings: Mapping[str, Any], change: str) -> Toml:
    """A managed policy as the file would have it; its lines are those that `trimtab change show` prints.

    Raises:
        ConfigError: a value has no form in TOML.
    """
    where = f"change {change}, policy {name}" if change else f"policy {name}"
    try:
        return Toml(tomli_w.dumps({"policy": {name: settings}}), where)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from None


def _read_policy(
    toml: Toml,
    name: str,
    table: Mapping[str, Any],
    first: str,
    engines: Mapping[str, Engine],
    loaded: Mapping[str, Profile],
    facts: Facts,
    shared: Literal["none", "tenant"],
) -> Policy:
    """One of the file's; it gets the `first` engine where it names none."""
    section = f"policy.{name}"
    toml.name(section, name)
    if name == RAW:
        raise toml.fail(section, "", "raw is built in and cannot be redefined")
    subs = {k: v for k, v in table.items() if isinstance(v, dict)}
    toml.known(section, table, (*_POLICY_FIELDS, *STAGES))
    values = dict(given(**{k: table.get(k) for k in _POLICY_FIELDS}))
    values["profile"] = toml.one(section, "profile", values.get("profile", "default"), loaded, "profile")
    engine = toml.one(section, "engine", values.get("engine", first), engines, "engine")
    values["engine"] = engine.name
    values.setdefault("render", "base" if is_base(engine) else "chat")
    values.setdefault("stages", ("urial",))
    values.setdefault("cache_salt", shared)
    policy = toml.fill(Policy, section, values, name=name, options={})
    toml.names(section, "fallback", policy.fallback, set(engines) - {engine.name}, "other engine")
    toml.names(section, "stages", policy.stages, STAGES, "stage")
    if len(set(policy.stages)) < len(policy.stages):
        raise toml.fail(section, "stages", "lists a stage twice")
    toml.names(section, "optional", policy.optional, (*policy.stages, *REQUEST_OPTIONS[1:]), "stage or option")
    tables: dict[str, Any] = {stage: {} for stage in policy.stages} | subs
    filled = {stage: _settings(toml, section, stage, table) for stage, table in tables.items()}
    policy = replace(policy, options={stage: it for stage, it in filled.items() if it is not None})
    _check_stages(toml, section, policy, facts)
    if policy.budget_ms <= 0:
        raise toml.fail(section, "budget_ms", "must be more than zero")
    return policy


def _settings(toml: Toml, section: str, stage: str, table: Any) -> Any:
    """A stage's own table, as the dataclass that its module has for it; None for a stage without settings."""
    cls = pipeline.options(stage)
    if cls is None:
        toml.known(f"{section}.{stage}", table, ())
        return None
    return toml.fill(cls, f"{section}.{stage}", table)


def _check_stages(toml: Toml, section: str, policy: Policy, facts: Facts) -> None:
    """Each stage checks its own settings; what it objects to is reported with its line."""
    for stage in policy.stages:
        try:
            pipeline.check(stage, policy, facts)
        except SettingError as error:
            raise toml.fail(f"{section}.{stage}", error.key, str(error)) from None


def _rewriters(specs: Mapping[str, RewriterSpec]) -> dict[str, Rewriter]:
    if not specs:  # a plain proxy loads none of it
        return {}
    from prompt_opt.rewriter.settings import rewriter

    return {name: rewriter(name, it.engine, it.template, it.decoding) for name, it in specs.items()}


def _digest(policy: Policy, rewriters: Mapping[str, RewriterSpec]) -> str:
    """A hash of everything that the policy does to a prompt, but for the rules of its indexes."""
    used = [getattr(options, "rewriter", "") for options in policy.options.values()]
    table = asdict(replace(policy, change="", digest=""))
    whole = {"policy": table, "rewriters": [asdict(rewriters[name]) for name in used if name in rewriters]}
    return hashlib.sha256(msgspec.json.encode(whole, order="sorted")).hexdigest()[:12]
