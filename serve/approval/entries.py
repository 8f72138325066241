"""What the account says of a step of a change: who took it, under whose approval, and what is in force from then on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, get_args

import msgspec

from serve.approval.checks import digests
from serve.approval.desk import Desk
from serve.approval.items import digest
from serve.approval.judge import fingerprint
from serve.configure.reader import resolve
from serve.store.account.change import Change as Entry
from serve.store.account.change import Step
from serve.store.changes import Change, managed_after


def entries(
    desk: Desk, change: Change, did: str, by: str, comment: str, retired: tuple[str, ...]
) -> tuple[Mapping[str, Any], ...]:
    """The entries of a step: of itself, of the change coming into force with it, and of those that end with it."""
    return tuple(msgspec.to_builtins(entry) for entry in _entries(desk, change, did, by, comment, retired))


def _entries(desk: Desk, change: Change, did: str, by: str, comment: str, retired: tuple[str, ...]) -> Iterator[Entry]:
    about = Entry(
        change.id, "in_force", by, desk.owner(change.items), change.author, change.heading, comment or change.reason,
        fingerprint(change), digest([item.base for item in change.items]), since=change.effective,
        check=" ".join(found["digest"] for found in change.checks.values()), undoes=change.inverts,
    )  # fmt: skip
    if did in get_args(Step) and did != "in_force":
        yield msgspec.structs.replace(about, step=did)
    if change.state == "in_force":
        now = desk.changes.managed()
        config = resolve(desk.source, managed_after(now, change))
        indexes = sorted({item.index for item in change.items if item.kind == "rule"})
        revisions = {name: desk.open_index(name).revision + 1 for name in indexes}
        there = replace(desk.config, policies=resolve(desk.source, now).policies)
        policies = digests(replace(desk, config=there), change, config)
        yield msgspec.structs.replace(about, policies=policies, indexes=revisions)
    for ident in retired:
        yield Entry(ident, "retired", by, about.tenant, reason=f"nothing of it is left after {change.id}")
