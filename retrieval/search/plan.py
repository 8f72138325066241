"""Making an index what its source is: what is new, changed, gone or renamed, and the versions that stay as history.

A passage whose text or title changes is kept under `ID@LAST-DAY` with that day as its last in force, so that a
search as of a day finds the law as it stood. A passage's own date in force decides when the new version begins; where
it states none, that is the day of the sync.
"""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Literal

from retrieval.passage import Passage

Op = Literal["new", "changed", "corrected", "gone", "renamed"]
SIGNS: dict[Op, str] = {"new": "+", "changed": "~", "corrected": "=", "gone": "-", "renamed": ">"}
_HISTORY = re.compile(r".*@(\d{4}-\d{2}-\d{2})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Change:
    """One step of a plan: what stands in the index, what will, and the version that is kept as history."""

    op: Op
    before: Passage | None = None
    after: Passage | None = None
    history: Passage | None = None
    replaced: str = ""  # the id of a kept version whose last day has changed

    @property
    def passages(self) -> list[Passage]:
        """What is to be written."""
        return [p for p in (self.history, self.after) if p is not None]

    @property
    def withdrawn(self) -> list[str]:
        """The ids that are to go; a changed passage replaces the one with its id."""
        gone = [self.before.id] if self.before is not None and self.op in ("gone", "renamed") else []
        return [*gone, self.replaced] if self.replaced else gone


@dataclass(frozen=True, slots=True)
class Plan:
    """The changes in the order of ids, and how many passages stay as they are."""

    changes: tuple[Change, ...]
    unchanged: int

    def count(self, op: Op) -> int:
        """How many changes of this kind there are."""
        return sum(change.op == op for change in self.changes)

    def __str__(self) -> str:
        counted = ", ".join(f"{self.count(op)} {op}" for op in SIGNS)
        return f"{counted}, {self.unchanged} unchanged"


def plan(stored: Iterable[Passage], wanted: Mapping[str, Passage], day: str, *, first: bool | None = None) -> Plan:
    """What makes the stored documents the wanted ones (by id), as of an ISO date.

    In the `first` sync (by default, when nothing is stored) a passage without a date counts as always in force. A past
    version that a source holds too, as an export does, is a passage like any other.
    """
    everything = {p.id: p for p in stored}
    current = {key: p for key, p in everything.items() if key in wanted or not is_history(p)}
    changes: list[Change] = []
    unchanged = 0
    written: set[str] = set()  # new ids that are written with the change of the passage that they are a version of
    earlier = defaultdict[str, list[Passage]](list)
    for p in wanted.values():
        if is_history(p):
            earlier[p.id.rpartition("@")[0]].append(p)
    for key in current.keys() & wanted.keys():
        change = _compared(current[key], wanted[key], everything, day)
        if change and (versions := [p for p in earlier.get(key, []) if p.id not in current]):
            change, done = _with_versions(change, versions, day)
            written |= done
        changes += [change] if change else []
        unchanged += change is None
    new = [wanted[key] for key in sorted(wanted.keys() - current.keys() - written)]
    gone = [current[key] for key in sorted(current.keys() - wanted.keys())]
    renamed = _renamed(gone, new)
    changes += [Change("renamed", old, _dated(p, old)) for old, p in renamed]
    moved = {p.id for pair in renamed for p in pair}
    began = "" if first or (first is None and not current) else day
    changes += [Change("new", None, replace(p, in_force_from=p.in_force_from or _not_after(began, p)))
                for p in new if p.id not in moved]  # fmt: skip
    changes += [Change("gone", p, None, ended(p, day)) for p in gone if p.id not in moved]
    return Plan(tuple(sorted(changes, key=lambda c: (c.after or c.before or Passage("-", "-")).id)), unchanged)


def is_history(passage: Passage) -> bool:
    """Whether a passage is an earlier version that a sync has kept."""
    found = _HISTORY.fullmatch(passage.id)
    return bool(found and found[1] == passage.in_force_to)


def ended(passage: Passage, start: str) -> Passage | None:
    """The version that was in force until the day before `start`; None where it never was for a whole day."""
    last = _day_before(start)
    last = min(last, passage.in_force_to or last)
    if passage.in_force_from > last:
        return None
    return replace(passage, id=f"{passage.id}@{last}", in_force_to=last)


def _compared(old: Passage, new: Passage, everything: Mapping[str, Passage], day: str) -> Change | None:
    own = new.in_force_from
    if own and own < old.in_force_from > day and (change := _brought_forward(old, new, everything)):
        return change
    # A start that a sync has set stays, until the source states a later one.
    before = f"{old.id}@{_day_before(old.in_force_from)}" if old.in_force_from else ""
    if not own or (before in everything and own < old.in_force_from):
        new = replace(new, in_force_from=_not_after(old.in_force_from, new))
    if new.signature == old.signature:
        return None
    if (new.text, new.title) == (old.text, old.title):
        return Change("corrected", old, new)
    start = own if own > old.in_force_from else max(day, old.in_force_from)
    new = replace(new, in_force_from=_not_after(start, new))
    # A version that was over before the sync follows on the old one too, unless that began after it.
    until = start if new.in_force_from <= old.in_force_from else new.in_force_from
    return Change("changed", old, new, ended(old, until))


def _with_versions(change: Change, versions: list[Passage], day: str) -> tuple[Change, set[str]]:
    """A change whose source also states earlier versions, and the ids of those that it writes.

    A version with the old text, or one in place of a passage that now begins later, goes on from the old one's start:
    it is the history. Before one with another text the old passage stays as the history, until that one begins.
    """
    old, kept = change.before, change.history
    assert old is not None
    if change.replaced:  # the history is a version that stood before the old one
        return change, set()
    if change.op == "corrected":
        covering = [p for p in versions if not p.in_force_from]
    else:
        covering = [p for p in versions if kept and p.in_force_from <= kept.in_force_to
                    and p.in_force_to >= kept.in_force_from]  # fmt: skip
    for p in covering:
        if change.op == "corrected" or (p.text, p.title) == (old.text, old.title):
            version = replace(p, in_force_from=p.in_force_from or _not_after(old.in_force_from, p))
            return replace(change, history=version), {p.id}
    if covering:
        start = min(p.in_force_from or _not_after(max(day, old.in_force_from), p) for p in covering)
        return replace(change, history=ended(old, start)), set()
    return change, set()


def _brought_forward(old: Passage, new: Passage, everything: Mapping[str, Passage]) -> Change | None:
    """A version that was not in force yet begins earlier than was stated: the one before it ends earlier."""
    before = everything.get(f"{old.id}@{_day_before(old.in_force_from)}")
    if before is None or new.in_force_from <= before.in_force_from:
        return None
    history = ended(replace(before, id=old.id, in_force_to=""), new.in_force_from)
    return Change("changed", old, new, history, before.id)


def _day_before(day: str) -> str:
    return (date.fromisoformat(day) - timedelta(days=1)).isoformat()


def _not_after(start: str, passage: Passage) -> str:
    """A start in force that lies before the passage's own end."""
    return min(start, passage.in_force_to) if passage.in_force_to else start


def _renamed(gone: list[Passage], new: list[Passage]) -> list[tuple[Passage, Passage]]:
    """Pairs with one text and title under two ids, in the order of ids."""
    waiting = defaultdict[tuple[str, str], list[Passage]](list)
    for p in reversed(gone):
        waiting[p.text, p.title].append(p)
    return [(waiting[p.text, p.title].pop(), p) for p in new if waiting[p.text, p.title]]


def _dated(new: Passage, old: Passage) -> Passage:
    start = new.in_force_from or _not_after(old.in_force_from, new)
    return replace(new, in_force_from=start)


def shown(change: Change, lines: int = 12) -> Iterator[str]:
    """A change for people: its sign, id and title, and what differs in the text, at most so many lines."""
    passage = change.after or change.before
    assert passage is not None
    old = f" (was {change.before.id})" if change.op == "renamed" and change.before else ""
    until = f" (until {change.history.in_force_to})" if change.history else ""
    yield f"{SIGNS[change.op]} {passage.id}  {passage.title}{old}{until}"
    if change.op == "changed" and change.before and change.after:
        old_side, new_side = (_sentences(f"{p.title}\n{p.text}") for p in (change.before, change.after))
        differs = [line for line in difflib.ndiff(old_side, new_side) if line[0] in "+-"]
        yield from (f"    {line}" for line in differs[:lines])
        if len(differs) > lines:
            yield f"    … {len(differs) - lines} more lines"


def _sentences(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"(?<=[.!?;])\s+|(?<=[。！？；])|\n", text) if part.strip()]
