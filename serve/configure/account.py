"""`[account]`: what the account records, and what happens where it cannot."""

from __future__ import annotations

from importlib.util import find_spec

from retrieval.extra import lacking
from serve.config import AccountSpec
from serve.configure.toml import Toml


def read_account(toml: Toml) -> AccountSpec:
    """The section, checked.

    Raises:
        ConfigError: a number is out of its range, or `cryptography` is missing where requests are recorded.
    """
    spec = toml.fill(AccountSpec, "account", toml.section("account"))
    for name in ("flush_ms", "keep_days", "segment_mb", "checkpoint_s"):
        if getattr(spec, name) <= 0:
            raise toml.fail("account", name, "must be more than zero")
    if spec.record == "requests" and find_spec("cryptography") is None:
        raise toml.fail("account", "record", lacking("cryptography", "account"))
    return spec
