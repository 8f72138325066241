"""What is decided about changes: submit, approve, reject, withdraw, roll back. Each has its entry in the account."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from serve.approval.checks import missing
from serve.approval.desk import Desk
from serve.approval.drafts import at, require, text_of
from serve.approval.enact import caught_up, step
from serve.approval.items import digest, inverse
from serve.approval.judge import judge, starts
from serve.chat.keys import Caller
from serve.errors import BadRequest, Conflict, Forbidden
from serve.store.changes import Change, Event

_DAY_S = 86400.0


def submit(desk: Desk, who: Caller, ident: str, body: Mapping[str, Any]) -> Change:
    """Ask for approval; refused where the change would break what it touches."""
    who.require("author")
    with caught_up(desk):
        change = at(desk, who, ident, body)
        require(change, ("draft",), "submitted")
        judge(desk, change, desk.changes.managed())
        if starts(change.effective) and starts(change.effective) < time.time() - _DAY_S:
            raise BadRequest(f"effective lies in the past: {change.effective}", param="effective")
        change = replace(change, editors=(*change.editors, who.name))
        return step(desk, change, "submitted", "submitted", who.name, text_of(body))


def approve(desk: Desk, who: Caller, ident: str, body: Mapping[str, Any]) -> Change:
    """Put the change into force, now or from its date.

    Raises:
        Forbidden: there are no keys, the key lacks the right, or has itself written or submitted the change.
        Conflict: it is not submitted (any more), what it is based on has changed, or a required check is missing.
    """
    _require_approver(who)
    with caught_up(desk):
        change = at(desk, who, ident, body)
        require(change, ("submitted",), "approved")
        if who.name in change.editors or who.name == change.author:
            raise Forbidden(
                f"the key {who.name!r} has written or submitted this change: another key must approve it",
                code="own_change",
            )
        config = judge(desk, change, desk.changes.managed())
        if lacking := missing(desk, change, config):
            raise Conflict(f"no passed release check of {', '.join(lacking)} as this change makes it",
                           code="check_missing")  # fmt: skip
        later = starts(change.effective) > time.time()
        return step(desk, change, "approved" if later else "in_force", "approved", who.name, text_of(body))


def reject(desk: Desk, who: Caller, ident: str, body: Mapping[str, Any]) -> Change:
    """Send a submitted change back, or stop an approved one before it is in force."""
    _require_approver(who)
    with caught_up(desk):
        change = at(desk, who, ident, body)
        require(change, ("submitted", "approved"), "rejected")
        return step(desk, change, "rejected", "rejected", who.name, text_of(body))


def withdraw(desk: Desk, who: Caller, ident: str, body: Mapping[str, Any]) -> Change:
    """Take a change back before it is in force."""
    who.require("author")
    with caught_up(desk):
        change = at(desk, who, ident, body)
        require(change, ("draft", "submitted", "approved", "blocked"), "withdrawn")
        return step(desk, change, "withdrawn", "withdrawn", who.name, text_of(body))


def roll_back(desk: Desk, who: Caller, ident: str, body: Mapping[str, Any]) -> Change:
    """Restore what stood there before a change, by a new change that is in force at once.

    What is restored was approved before, so one approver is enough.

    Raises:
        Conflict: the change is not in force, is itself a roll-back, or a later one stands on it.
    """
    _require_approver(who)
    with caught_up(desk):
        change = at(desk, who, ident, body)
        require(change, ("in_force",), "rolled back")
        if change.inverts:
            raise Conflict(f"{ident} is itself a roll-back, of {change.inverts}: draft a change", code="wrong_state")
        items = inverse(change.items)
        standing = desk.standing(desk.changes.managed())
        if moved := [it.label for it in items if digest(standing(it)) != it.base]:
            raise Conflict(
                f"{', '.join(moved)} changed after {ident}: roll the later change back first", code="base_changed"
            )
        now, why = time.time(), text_of(body) or f"rolls back {ident}"
        undo = Change("", f"Roll back {ident}: {change.heading}"[:200], who.name, why, created=now, items=items,
                      editors=(who.name,), history=(Event(now, "drafted", who.name),), inverts=ident)  # fmt: skip
        judge(desk, undo, desk.changes.managed())
        return step(desk, desk.changes.add(undo), "in_force", "rolled_back", who.name, why)


def _require_approver(who: Caller) -> None:
    if who.key is None:
        raise Forbidden(
            "this server has no [[key]]: changes can be drafted, but nobody can approve them", code="no_keys"
        )
    who.require("approver")
