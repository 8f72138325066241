"""`[limits]`: what keys and tenants may use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from importlib.util import find_spec
from typing import Any

from retrieval.extra import lacking
from serve.config import Allowance, Key, Limits
from serve.configure.toml import Toml

_TABLES = ("key", "tenant", "keys", "tenants")


def read_limits(toml: Toml, keys: Sequence[Key], environ: Mapping[str, str]) -> Limits:
    """The limits of the file; those of one key or tenant inherit what they do not say from the default.

    Raises:
        ConfigError: a limit is negative, or of a key or tenant that does not exist; Redis is named and missing.
    """
    table = toml.section("limits")
    toml.known("limits", table, [f.name for f in fields(Limits)])
    key = _allowance(toml, "limits.key", table.get("key", {}), Allowance())
    tenant = _allowance(toml, "limits.tenant", table.get("tenant", {}), Allowance())
    named = {"keys": (key, {k.id for k in keys}), "tenants": (tenant, {k.tenant for k in keys})}
    one: dict[str, dict[str, Allowance]] = {}
    for kind, (default, valid) in named.items():
        rows = table.get(kind, {})
        toml.known(f"limits.{kind}", rows, sorted(valid))
        one[kind] = {name: _allowance(toml, f"limits.{kind}.{name}", row, default) for name, row in rows.items()}
    rest = {name: value for name, value in table.items() if name not in _TABLES}
    limits = toml.fill(Limits, "limits", rest, key=key, tenant=tenant, keys=one["keys"], tenants=one["tenants"])
    if limits.redis_s <= 0:
        raise toml.fail("limits", "redis_s", "must be more than zero")
    if limits.redis_env and not environ.get(limits.redis_env):
        raise toml.fail("limits", "redis_env", f"the environment has no {limits.redis_env}")
    if limits.redis_env and find_spec("redis") is None:
        raise toml.fail("limits", "redis_env", lacking("redis", "redis"))
    return limits


def _allowance(toml: Toml, section: str, table: Any, default: Allowance) -> Allowance:
    if not isinstance(table, dict):
        raise toml.fail(section, "", "must be a table")
    allowance = toml.fill(Allowance, section, {**asdict(default), **table})
    for name, value in asdict(allowance).items():
        if not value >= 0:
            raise toml.fail(section, name, "must not be negative")
    return allowance
