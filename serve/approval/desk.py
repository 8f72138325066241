"""Where changes are made: what a desk works on, and the one lock of all desks over a state folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prompt_opt import pipeline
from retrieval.lock import locked
from serve.approval.items import fields_of
from serve.chat.keys import Caller
from serve.config import Config
from serve.configure.reader import Source
from serve.errors import Forbidden, NotFound
from serve.store.account import Account
from serve.store.changes import Change, Changes, Item, Managed

if TYPE_CHECKING:
    from retrieval.search.index import Index


@dataclass(frozen=True, slots=True)
class Desk:
    """A configuration, the record of changes beside it, and what they reach. Every call on it blocks."""

    source: Source
    config: Config
    changes: Changes
    open_index: Callable[[str], Index]
    account: Callable[[], Account]  # opened for each step; ConfigError where it cannot be

    @contextmanager
    def alone(self, *, wait: bool = True) -> Iterator[bool]:
        """Held by one process at a time: whoever takes a step. Yields whether it was got; without `wait`, maybe not."""
        self.config.state_dir.mkdir(parents=True, exist_ok=True)
        with locked(self.config.state_dir / "changes.lock", wait=wait) as got:
            yield got

    def standing(self, managed: Managed) -> Callable[[Item], Any]:
        """What stands at an item's target now; None for nothing."""

        def at(item: Item) -> Any:
            if item.kind == "rule":
                return self._rule(item) if item.index in self.config.indexes else None
            return (managed.policies if item.kind == "policy" else managed.profiles).get(item.name)

        return at

    def _rule(self, item: Item) -> dict[str, Any] | None:
        found = self.open_index(item.index).get(item.name)
        return fields_of(found) if found is not None else None

    def owner(self, items: tuple[Item, ...]) -> str:
        """The tenant to whom the items belong, "" where all of them are shared.

        Raises:
            Forbidden: they belong to several.
        """
        owners = {self.config.indexes[it.index].tenant for it in items if it.index in self.config.indexes}
        for item in items:
            policy = self.config.policies.get(item.name) if item.kind == "policy" else None
            named = set(pipeline.indexes(policy)) if policy is not None else set()
            named |= _named(item)
            owners |= {self.config.indexes[name].tenant for name in named if name in self.config.indexes}
        owners -= {""}
        if len(owners) > 1:
            raise Forbidden("a change must not touch what belongs to several tenants: make one for each")
        return next(iter(owners), "")

    def shows(self, who: Caller, change: Change) -> bool:
        """Whether the caller may see a change."""
        try:
            return who.sees(self.owner(change.items))
        except Forbidden:  # its indexes were given to several tenants since it was drafted
            return who.key is None

    def find(self, who: Caller, ident: str) -> Change:
        """A change that the caller may see.

        Raises:
            NotFound: there is none, or it is another tenant's.
        """
        change = self.changes.find(ident)
        if change is None or not self.shows(who, change):
            raise NotFound(f"no change {ident!r}: unknown, or another tenant's", code="change_not_found")
        return change


def _named(item: Item) -> set[str]:
    """The indexes that a policy's settings name, before anybody has checked them."""
    opo = item.content.get("opo") if item.kind == "policy" and isinstance(item.content, dict) else None
    if not isinstance(opo, dict):
        return set()
    index, pinned = opo.get("index"), opo.get("pinned")
    names = [name for name in index if isinstance(name, str)] if isinstance(index, list) else []
    pins = [name.partition("/")[0] for name in pinned if isinstance(name, str)] if isinstance(pinned, list) else []
    return {*names, *pins}
