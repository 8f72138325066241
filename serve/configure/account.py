"""`[account]`: how the account is written."""

from __future__ import annotations

from serve.config import AccountSpec
from serve.configure.toml import Toml


def read_account(toml: Toml) -> AccountSpec:
    """The section, checked.

    Raises:
        ConfigError: a number is out of its range.
    """
    spec = toml.fill(AccountSpec, "account", toml.section("account"))
    for name in ("flush_ms", "segment_mb", "checkpoint_s"):
        if getattr(spec, name) <= 0:
            raise toml.fail("account", name, "must be more than zero")
    return spec
