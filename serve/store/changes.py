"""The store of changes: what was drafted, submitted and approved, and the managed policies and profiles in force.

draft ──submit──► submitted ──approve──► approved ──date──► in_force ──roll back, supersede──► retired
  ▲ └─withdraw─► withdrawn  └─reject──► rejected      └─base changed─► blocked
  └──────────────revise───────────┘
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, get_args

import msgspec

State = Literal["draft", "submitted", "approved", "in_force", "retired", "rejected", "withdrawn", "blocked"]
STATES: tuple[str, ...] = get_args(State)
Kind = Literal["rule", "policy", "profile"]
Op = Literal["add", "change", "withdraw"]
Wanted = Literal["add", "change", "withdraw", ""]  # "": added or changed, by what is there


class Item(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that a change does: to a rule of an index, to a policy, or to a profile."""

    kind: Kind
    op: Wanted
    name: str  # a rule's id, or the name of the policy or profile
    index: str = ""  # of a rule
    content: Any = None  # a rule's fields, a policy's settings, a profile's TOML text; None where it is withdrawn
    before: Any = None  # the same of what stood there when the item was drafted; None: nothing did
    base: str = ""  # the digest of `before`; "": nothing stood there

    @property
    def target(self) -> tuple[str, str, str]:
        """What it is done to: kind, index, name."""
        return self.kind, self.index, self.name

    @property
    def label(self) -> str:
        """Its target as messages name it."""
        return f"rule {self.index}/{self.name}" if self.kind == "rule" else f"{self.kind} {self.name}"


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that happened to a change. `by` is a key's id; "" without keys, or for what happens by itself."""

    at: float
    did: str
    by: str = ""
    comment: str = ""


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """A set of items with its reason and its history. `version` grows with whatever happens to it."""

    id: str
    title: str = ""
    author: str = ""
    reason: str = ""
    state: State = "draft"
    version: int = 1
    created: float = 0.0
    effective: str = ""  # the date or time (UTC, ISO 8601) from which it is in force; "": from its approval
    items: tuple[Item, ...] = ()
    editors: tuple[str, ...] = ()  # the keys that wrote or submitted it, none of which may approve it
    history: tuple[Event, ...] = ()
    requires: tuple[str, ...] = ()  # policies whose release check must have passed before approval
    checks: Mapping[str, Any] = {}  # by policy: what was read from a passed check
    inverts: str = ""  # the change that this one rolls back

    @property
    def heading(self) -> str:
        """Its title, or what its first items do."""
        return self.title or ", ".join(f"{it.op} {it.label}" for it in self.items[:3])[:200] or "an empty draft"


class Managed(msgspec.Struct, frozen=True):
    """The managed policies and profiles in force. `revision` grows with each change that comes into force."""

    revision: int = 0
    policies: Mapping[str, Mapping[str, Any]] = {}  # by name: its settings, as a table of TOML
    profiles: Mapping[str, str] = {}  # by name: its TOML text
    origins: Mapping[str, str] = {}  # "policy NAME" or "profile NAME": the change that put it in force


def managed_after(managed: Managed, change: Change) -> Managed:
    """What is in force once the change's policies and profiles are."""
    policies, profiles, origins = dict(managed.policies), dict(managed.profiles), dict(managed.origins)
    for item in change.items:
        if item.kind == "rule":
            continue
        table: dict[str, object] = policies if item.kind == "policy" else profiles  # type: ignore[assignment]
        table.pop(item.name, None)
        origins.pop(f"{item.kind} {item.name}", None)
        if item.op != "withdraw":
            table[item.name] = item.content
            origins[f"{item.kind} {item.name}"] = change.id
    return Managed(managed.revision + 1, policies, profiles, origins)


class Intent(msgspec.Struct, frozen=True):
    """A step that has been decided: whoever finds it unfinished finishes it."""

    id: str  # names the step's entries in the account, however often these are written
    change: Change  # as it will be
    entries: tuple[Mapping[str, Any], ...]  # for the account: on disk before the step holds
    applies: bool  # its items come into force with it
    retires: tuple[str, ...] = ()  # changes that end with it


class Watch(Protocol):
    """One process's eye on the record; a look costs microseconds while nothing has happened."""

    def changed(self) -> bool:
        """Whether the record may be another than at the last look."""

    def close(self) -> None:
        """Let go of the file."""


class Changes(Protocol):
    """The record of changes, shared by all processes. Every call blocks; what was written is on disk."""

    @property
    def where(self) -> str:
        """The store, as a message names it."""

    def find(self, ident: str) -> Change | None:
        """A change; None where there is none."""

    def page(self, states: Sequence[str] = (), after: str = "", limit: int = 100) -> list[Change]:
        """Changes in these states (in any, where none is named), newest first, from the one older than `after`."""

    def add(self, change: Change) -> Change:
        """Keep a new change; it gets its id here."""

    def replace(self, change: Change) -> bool:
        """Store the next version of a change; False where another one came first."""

    def managed(self) -> Managed:
        """What is in force."""

    def due(self) -> list[Change]:
        """The changes that are approved and not in force yet."""

    def intent(self) -> Intent | None:
        """The step that was decided and not finished."""

    def decide(self, intent: Intent) -> bool:
        """Record a step before it is taken; False where its change has another version by now."""

    def finish(self, intent: Intent) -> None:
        """Store the intent's change and, where it applies, its policies and profiles: in one transaction."""

    def watch(self) -> Watch:
        """An eye on the record."""
