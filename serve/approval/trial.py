"""A change tried before it is in force: its configuration, and copies of the indexes whose rules it touches.

The copies lie in the state folder under the digest of what they hold, so that the next try finds them; nobody answers
a request from them.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve.approval import checks
from serve.approval.desk import Desk
from serve.approval.items import rules_by_index, split
from serve.approval.judge import judge
from serve.config import Config, ConfigError, IndexSpec
from serve.errors import ApiError
from serve.store.changes import Change, Item

if TYPE_CHECKING:
    from retrieval.search.index import Index

_KEPT = 8  # copies of indexes that stay on disk
_SERVED = "served-"  # the state folder of a server that tries a change


@dataclass(frozen=True, slots=True)
class Trial:
    """What a change would make of the server. Implements the `Indexes` of stages."""

    config: Config
    touched: tuple[str, ...]  # the policies that it puts, or whose rules it changes
    copies: Mapping[str, Index]
    live: Callable[[str], Index]

    def opened(self, name: str) -> Index | None:
        """The index, if it is open: the copies always are."""
        return self.copies.get(name)

    def open(self, name: str) -> Index:
        """The index: the copy where there is one, else the one in use."""
        return self.copies.get(name) or self.live(name)

    def close(self) -> None:
        """Close the copies."""
        for index in self.copies.values():
            index.close()


def prepare(desk: Desk, change: Change) -> Trial:
    """Make ready what the change would put into force. Blocks: an index is copied, and its caches are built.

    Raises:
        BadRequest, Conflict: the change could not be submitted as it is.
        ValueError: an index that it touches cannot be copied.
    """
    config = judge(desk, change, desk.changes.managed())
    copies: dict[str, Index] = {}
    try:
        for name, items in rules_by_index(change.items).items():
            copies[name] = _copy(desk, desk.config.indexes[name], items)
    except BaseException:
        for index in copies.values():
            index.close()
        raise
    return Trial(config, checks.touched(desk, change, config), copies, desk.open_index)


def served(desk: Desk, ident: str) -> Config:
    """The configuration of a server that answers as if the change were in force, with a state folder of its own.

    Raises:
        ConfigError: there is no such change, or it cannot be tried; the message says why.
    """
    change = desk.changes.find(ident)
    if change is None:
        raise ConfigError(f"--trial: no change {ident!r} in {desk.changes.where}")
    try:
        with closing(prepare(desk, change)) as trial:
            places = {name: str(_place(desk, name, items)) for name, items in rules_by_index(change.items).items()}
    except (ApiError, ValueError, OSError, sqlite3.Error) as error:
        raise ConfigError(f"--trial {ident}: {error}") from None
    indexes = {name: replace(spec, path=places.get(name, spec.path)) for name, spec in trial.config.indexes.items()}
    state = desk.config.state_dir / "trials" / f"{_SERVED}{ident}"
    return replace(trial.config, indexes=indexes, state_dir=state)


def _place(desk: Desk, name: str, items: list[Item]) -> Path:
    """Where the copy of an index with these items is."""
    return desk.config.state_dir / "trials" / desk.open_index(name).state_after(*split(items))


def _copy(desk: Desk, spec: IndexSpec, items: list[Item]) -> Index:
    from retrieval.search.index import Index
    from retrieval.search.replica import copy_record

    folder = _place(desk, spec.name, items)
    trials = folder.parent
    options: dict[str, Any] = {"embedder": spec.embedder or None, "reranker": spec.reranker or None}
    if not folder.exists():
        trials.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=trials, prefix="making-"))
        copy_record(spec.location, scratch)
        with closing(Index.open(scratch, create=True, **options)) as index:
            index.add(*split(items))
        try:
            scratch.rename(folder)
        except OSError:  # another process was quicker
            shutil.rmtree(scratch)
        _tidy(trials)
    return Index.open(folder, **options)


def _tidy(trials: Path) -> None:
    """Remove all copies but the newest."""
    copies = [path for path in trials.iterdir() if not path.name.startswith(_SERVED)]
    found = sorted(copies, key=lambda path: path.stat().st_mtime, reverse=True)
    for folder in found[_KEPT:]:
        shutil.rmtree(folder, ignore_errors=True)
