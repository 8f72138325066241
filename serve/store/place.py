"""Which stores of traces, of feedback and of the account there are, and the ones that a configuration names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from serve.config import Config
from serve.store.account import Account
from serve.store.feedback import Verdicts
from serve.store.traces import Traces


@dataclass(frozen=True, slots=True)
class Store:
    """Each is a "module:function" that takes the configuration; loaded when a configuration names the store."""

    traces: str
    verdicts: str
    account: str = "serve.store.account.journal:from_config"


STORES: Mapping[str, Store] = {
    "sqlite": Store("serve.store.sqlite_traces:from_config", "serve.store.sqlite_feedback:from_config"),
}


def open_traces(config: Config) -> Traces:
    """The store of traces.

    Raises:
        ConfigError: it cannot be opened; the message says where and why.
    """
    traces: Traces = _maker(STORES[config.store].traces)(config)
    return traces


def open_verdicts(config: Config) -> Verdicts:
    """The store of feedback; it opens what it needs with each call."""
    verdicts: Verdicts = _maker(STORES[config.store].verdicts)(config)
    return verdicts


def open_account(config: Config) -> Account:
    """The account, to which any number of processes may write.

    Raises:
        ConfigError: it cannot be opened; the message says where and why.
    """
    account: Account = _maker(STORES[config.store].account)(config)
    return account


def _maker(named: str) -> Callable[[Config], Any]:
    module, _, function = named.partition(":")
    made: Callable[[Config], Any] = getattr(import_module(module), function)
    return made
