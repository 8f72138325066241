"""The sections that say who may use what: aliases and keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from prompt_opt import pipeline
from prompt_opt.core import Policy
from serve.chat.keys import Caller
from serve.config import RAW, RIGHTS, Alias, IndexSpec, Key
from serve.configure.toml import Toml


def read_aliases(toml: Toml, policies: Mapping[str, Policy]) -> dict[str, Alias]:
    """The model names that stand for a policy.

    Raises:
        ConfigError: an alias is no table, or names a policy that does not exist.
    """
    out = {}
    for name, table in toml.section("alias").items():
        if not isinstance(table, dict):
            raise toml.fail("alias", name, 'must be a table: { policy = "NAME", model = "NAME" }')
        alias = toml.fill(Alias, "alias", table, name=name, spot=name)
        toml.one("alias", name, alias.policy, policies, "policy")
        out[name] = alias
    return out


def read_keys(toml: Toml, policies: Mapping[str, Policy], indexes: Mapping[str, IndexSpec]) -> tuple[Key, ...]:
    """The API keys, each with its tenant, and with its policies: those that it lists, or all that it may use.

    Raises:
        ConfigError: a key is wrong, has the id or the secret of another, or may not use what it names; the message
            never quotes the hash.
    """
    rows = toml.values.get("key", [])
    if not isinstance(rows, list):
        raise toml.fail("key", "", "write [[key]], with two brackets: there may be several")
    owners = _owners(toml, policies, indexes) if rows else {}
    out: list[Key] = []
    for toml.row, row in enumerate(rows):
        key = toml.fill(Key, "key", row)
        if not re.fullmatch(r"[0-9a-fA-F]{64}", key.sha256):
            raise toml.fail("key", "sha256", f"key {key.id!r}: must be the SHA-256 of the secret in hexadecimal")
        if any(other.id == key.id for other in out):
            raise toml.fail("key", "id", f"duplicate key id {key.id!r}")
        toml.names("key", "policies", key.policies, policies, "policy")
        toml.names("key", "rights", key.rights, RIGHTS, "right")
        if key.policy:
            toml.names("key", "policy", [key.policy], policies, "policy")
        if any(other.sha256 == key.sha256.lower() for other in out):
            raise toml.fail("key", "sha256", f"key {key.id!r} has the same secret as another key")
        key = replace(key, sha256=key.sha256.lower(), tenant=key.tenant or key.id)
        if foreign := [name for name in key.policies if owners[name] not in ("", key.tenant)]:
            why = f"key {key.id!r} of tenant {key.tenant!r} may not use {foreign[0]!r}: it reads an index of tenant"
            raise toml.fail("key", "policies", f"{why} {owners[foreign[0]]!r}")
        own = tuple(name for name, owner in owners.items() if name != RAW and owner in ("", key.tenant))
        key = replace(key, policies=key.policies or own)
        if key.policy and not Caller(key.tenant, key).may_use(key.policy):
            raise toml.fail("key", "policy", f"key {key.id!r} may not use its own default {key.policy!r}")
        if not key.id:
            raise toml.fail("key", "id", "must not be empty")
        out.append(key)
    return tuple(out)


def _owners(toml: Toml, policies: Mapping[str, Policy], indexes: Mapping[str, IndexSpec]) -> dict[str, str]:
    """Whose each policy is: the tenant's whose indexes it reads, "" where all of them are shared."""
    out = {}
    for name, policy in policies.items():
        tenants = {indexes[index].tenant for index in pipeline.indexes(policy)} - {""}
        if len(tenants) > 1:
            raise toml.fail(
                f"policy.{name}", "", f"no key may use it: it reads indexes of {', '.join(sorted(tenants))}"
            )
        out[name] = next(iter(tenants), "")
    return out
