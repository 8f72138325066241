"""The configuration as a worker loads it, and the desk beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any

from serve.approval.desk import Desk
from serve.approval.trial import served
from serve.chat.indexes import Indexes
from serve.config import Config
from serve.configure.flags import parse
from serve.configure.grants import refuse_widening
from serve.configure.reader import Source, read, resolve
from serve.configure.server import refuse_opening
from serve.store.place import open_account, open_changes


def loaded(argv: Sequence[str], told: Mapping[str, Any]) -> tuple[Source, Config]:
    """The configuration, unless it opens the server further: the file may have changed since the parent read it.

    Raises:
        ConfigError: it is wrong, or too open.
    """
    source, managed = read(parse(argv))
    config = resolve(source, managed)
    if source.flags.trial:
        with closing(Indexes(config.indexes)) as indexes:
            config = served(desk_of(source, config, indexes), source.flags.trial)
    refuse_opening(config, told["host"], keyed=told["keyed"])
    if running := told.get("grants"):
        refuse_widening(config, running)
    return source, config


def desk_of(source: Source, config: Config, indexes: Indexes) -> Desk:
    """Where changes of rules and policies are made."""
    changes = open_changes(config.store, config.state_dir)
    return Desk(source, config, changes, indexes.open, partial(open_account, config))
