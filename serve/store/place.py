"""Which stores of traces, feedback, changes and the account there are, and those that a configuration names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from serve.config import Config
from serve.store.account import Account
from serve.store.changes import Changes
from serve.store.feedback import Verdicts
from serve.store.traces import Traces


@dataclass(frozen=True, slots=True)
class Store:
    """Each is a "module:function", loaded when a configuration names the store.

    The first two take the configuration. Changes are a part of it, so their function takes the state folder.
    """

    traces: str
    verdicts: str
    changes: str
    account: str = "serve.store.account.journal:from_config"


STORES: Mapping[str, Store] = {
    "sqlite": Store(
        "serve.store.sqlite_traces:from_config",
        "serve.store.sqlite_feedback:from_config",
        "serve.store.sqlite_changes:open_in",
    ),
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


def open_changes(store: str, state_dir: Path) -> Changes:
    """The record of changes; it opens what it needs with each call."""
    changes: Changes = _maker(STORES[store].changes)(state_dir)
    return changes


def _maker(named: str) -> Callable[[Any], Any]:
    module, _, function = named.partition(":")
    made: Callable[[Any], Any] = getattr(import_module(module), function)
    return made
