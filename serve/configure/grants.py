"""What a running configuration lets its keys do, and whether the one that is to replace it lets them do more.

A file that lost a line is valid: without `policies` a key may use all of them, without `tenant` an index is shared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serve.config import Config, ConfigError, Key


def grants(config: Config) -> dict[str, Any]:
    """What the configuration's keys may do, and whose its indexes are; can be written as JSON."""
    return {
        "policies": list(config.policies),
        "keys": {key.id: _may(key) for key in config.keys},
        "secrets": {key.sha256: key.id for key in config.keys},
        "tenants": {name: spec.tenant for name, spec in config.indexes.items() if spec.tenant},
    }


def _may(key: Key) -> dict[str, Any]:
    return {"tenant": key.tenant, "policies": list(key.policies), "rights": list(key.rights)}


def refuse_widening(config: Config, running: Mapping[str, Any]) -> None:
    """Hold a configuration that is to replace a running one against what that one `grants`.

    New keys, policies and indexes are no matter: what was there must be as well guarded as it was. A key is known by
    its secret as well as by its id: where lines between two keys are lost, the secret of one stands under the other.

    Raises:
        ConfigError: a key may do more than it may now, or an index has another tenant.
    """
    known = set(running["policies"])
    for key in config.keys:
        owner = running["secrets"].get(key.sha256, key.id)
        before = running["keys"].get(owner)
        if before is None:
            continue
        if key.tenant != before["tenant"]:
            whose = f"key {key.id!r}" if owner == key.id else f"the secret of key {owner!r}"
            raise ConfigError(
                f"{whose} would be of tenant {key.tenant!r}, and is now of {before['tenant']!r}: restart for that"
            )
        if more := sorted(set(key.rights) - set(before["rights"])):
            raise ConfigError(f"key {key.id!r} would get the right {more[0]!r}: restart to give it")
        if more := sorted(known & set(key.policies) - set(before["policies"])):
            raise ConfigError(
                f"key {key.id!r} could use the policy {more[0]!r}, which it may not now: restart for that"
            )
    for name, tenant in running["tenants"].items():
        spec = config.indexes.get(name)
        if spec is not None and spec.tenant != tenant:
            whose = f"tenant {spec.tenant!r}" if spec.tenant else "all tenants"
            raise ConfigError(f"index {name!r} of tenant {tenant!r} would be open to {whose}: restart to allow it")
