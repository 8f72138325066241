"""Steps of a change, each of which happens wholly or not at all.

A step is decided by one row (the intent). From then on it will happen, whoever is killed: its entry goes to the
account, its rules into their indexes (one transaction each), and then, in one transaction, its policies and its new
state into the record, from which the intent disappears. Whoever finds an intent without finding its maker at work
carries it out again from the beginning, which does no harm: every part of it is idempotent.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from msgspec.structs import replace

from serve.approval.checks import missing
from serve.approval.desk import Desk
from serve.approval.entries import entries
from serve.approval.items import rules_by_index, split
from serve.approval.judge import judge, starts
from serve.chat.record import new_id
from serve.config import ConfigError
from serve.errors import BadRequest, Conflict, Unavailable
from serve.store.account import Account
from serve.store.changes import Change, Event, Intent, State

log = logging.getLogger("trimtab.changes")


def step(desk: Desk, change: Change, state: State, did: str, by: str = "", comment: str = "") -> Change:
    """Take a change to another state, with its entry in the account before it. The desk must be held `alone`.

    Raises:
        Conflict: another step came first. Unavailable: there is no account to write it to, or it is decided, but
            could not be finished now; it will be.
    """
    event = Event(time.time(), did, by, comment)
    after = replace(change, state=state, version=change.version + 1, history=(*change.history, event))
    applies = state == "in_force"
    retired = _retired(desk, after) if applies else ()
    intent = Intent(new_id(), after, entries(desk, after, did, by, comment, retired), applies, retired)
    with _account(desk) as account:
        if not desk.changes.decide(intent):
            raise Conflict(f"the change {change.id} was changed meanwhile: read it again", code="version_changed")
        try:
            _carry_out(desk, intent, account)
        except (OSError, RuntimeError, ValueError, ImportError, sqlite3.Error) as error:
            raise Unavailable(
                f"the step is decided, but could not be finished: {error}. It is retried until it succeeds",
                code="not_finished",
            ) from error
    return after


@contextmanager
def _account(desk: Desk) -> Iterator[Account]:
    try:
        account = desk.account()
    except ConfigError as error:
        raise Unavailable(str(error), code="account_unavailable") from None
    with closing(account):
        yield account


def _carry_out(desk: Desk, intent: Intent, account: Account) -> None:
    """Do what has been decided; again where that was begun before."""
    for entry in intent.entries:
        account.append("change", {"intent": intent.id, **entry})
    if intent.applies:
        _apply_rules(desk, intent.change)
    desk.changes.finish(intent)


def _apply_rules(desk: Desk, change: Change) -> None:
    """One transaction for each index, in the order of names."""
    for name, items in sorted(rules_by_index(change.items).items()):
        desk.open_index(name).add(*split(items))


def _retired(desk: Desk, change: Change) -> tuple[str, ...]:
    """The changes in force of which nothing is left once this one is."""
    taken, gone = {item.target for item in change.items}, []
    for older in desk.changes.page(["in_force"], limit=10_000):
        if older.id == change.inverts or all(item.target in taken for item in older.items):
            gone.append(older.id)
        taken |= {item.target for item in older.items}
    return tuple(gone)


@contextmanager
def caught_up(desk: Desk) -> Iterator[None]:
    """The desk held alone, once the step is finished that somebody may have left unfinished."""
    with desk.alone():
        _resume(desk)
        yield


def _resume(desk: Desk) -> None:
    if (intent := desk.changes.intent()) is not None:
        log.warning("change %s: finishing the step that was interrupted", intent.change.id)
        with _account(desk) as account:
            _carry_out(desk, intent, account)


def catch_up(desk: Desk, *, wait: bool = False) -> float:
    """Finish the step that somebody left unfinished, and put into force what is due. Returns when the next is due.

    Returns infinity where nothing waits, and "now" where another process is at it.
    """
    with desk.alone(wait=wait) as got:
        if not got:
            return time.time()
        _resume(desk)
        following = float("inf")
        for change in desk.changes.due():
            if (due := starts(change.effective)) <= time.time():
                come_into_force(desk, change)
            else:
                following = min(following, due)
    return following


def come_into_force(desk: Desk, change: Change) -> Change:
    """Put an approved change into force; it is blocked where it could not be approved any more as it is."""
    try:
        config = judge(desk, change, desk.changes.managed())
        if lacking := missing(desk, change, config):
            raise Conflict(f"no passed release check of {', '.join(lacking)} as this change now makes it")
    except (BadRequest, Conflict) as error:
        log.error("change %s is blocked: %s", change.id, error.message)
        return step(desk, change, "blocked", "blocked", comment=error.message)
    return step(desk, change, "in_force", "in_force")
