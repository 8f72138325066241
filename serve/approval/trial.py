"""A change tried before it is in force: its configuration, and copies of the indexes whose rules it touches.

The copies lie in the state folder under the digest of what they hold, so that the next try finds them; nobody answers
a request from them.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompt_opt import pipeline
from serve.approval.desk import Desk
from serve.approval.items import passage_of
from serve.approval.judge import judge
from serve.config import Config, ConfigError, IndexSpec
from serve.errors import ApiError
from serve.store.changes import Change, Item

if TYPE_CHECKING:
    from retrieval.passage import Passage
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
    rules = _rules(change)
    copies: dict[str, Index] = {}
    try:
        for name, items in rules.items():
            copies[name] = _copy(desk, desk.config.indexes[name], items)
    except BaseException:
        for index in copies.values():
            index.close()
        raise
    old = desk.config.policies
    touched = tuple(
        name for name, policy in config.policies.items()
        if name not in old or old[name].digest != policy.digest or not pipeline.indexes(policy).isdisjoint(rules)
    )  # fmt: skip
    return Trial(config, touched, copies, desk.open_index)


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
            places = {name: str(_place(desk, name, items)) for name, items in _rules(change).items()}
    except (ApiError, ValueError, OSError, sqlite3.Error) as error:
        raise ConfigError(f"--trial {ident}: {error}") from None
    indexes = {name: replace(spec, path=places.get(name, spec.path)) for name, spec in trial.config.indexes.items()}
    state = desk.config.state_dir / "trials" / f"{_SERVED}{ident}"
    return replace(trial.config, indexes=indexes, state_dir=state)


def _rules(change: Change) -> dict[str, list[Item]]:
    """The items of rules by index."""
    rules: dict[str, list[Item]] = defaultdict(list)
    for item in change.items:
        if item.kind == "rule":
            rules[item.index].append(item)
    return rules


def _place(desk: Desk, name: str, items: list[Item]) -> Path:
    """Where the copy of an index with these items is."""
    puts, gone = _parts(items)
    return desk.config.state_dir / "trials" / desk.open_index(name).state_after(puts, gone)


def _parts(items: list[Item]) -> tuple[list[Passage], list[str]]:
    """The rules that are put, and the ids of those that are withdrawn."""
    puts = [passage_of(item) for item in items if item.op != "withdraw"]
    return puts, [item.name for item in items if item.op == "withdraw"]


def _copy(desk: Desk, spec: IndexSpec, items: list[Item]) -> Index:
    from retrieval.search.index import Index
    from retrieval.search.replica import copy_record

    folder, (puts, gone) = _place(desk, spec.name, items), _parts(items)
    trials = folder.parent
    options: dict[str, Any] = {"embedder": spec.embedder or None, "reranker": spec.reranker or None}
    if not folder.exists():
        trials.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=trials, prefix="making-"))
        copy_record(spec.location, scratch)
        with closing(Index.open(scratch, create=True, **options)) as index:
            index.add(puts, gone)
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
