"""What authors do with changes: draft, revise, rebase, comment, attach a check. None of it is in force."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from serve.approval.checks import read_check
from serve.approval.desk import Desk
from serve.approval.items import read_items, rebased
from serve.approval.judge import starts
from serve.chat.keys import Caller
from serve.errors import BadRequest, Conflict
from serve.store.changes import Change, Event, State

_TITLE = 200  # characters
_DRAFT = ("title", "reason", "effective", "requires", "items")
_EDITABLE = ("draft", "rejected", "withdrawn", "blocked")


def draft(desk: Desk, who: Caller, body: Mapping[str, Any]) -> Change:
    """Keep a new draft.

    Raises:
        BadRequest: the body is no draft. Forbidden: the caller may not write it.
    """
    who.require("author")
    now = time.time()
    change = Change("", author=who.name, created=now, history=(Event(now, "drafted", who.name),))
    return desk.changes.add(_written(desk, who, change, body))


def revise(desk: Desk, who: Caller, ident: str, body: Mapping[str, Any]) -> Change:
    """Store other fields of a draft; one that was rejected, withdrawn or blocked becomes a draft again.

    Raises:
        Conflict: it is submitted or approved, or `version` is not its version any more.
    """
    who.require("author")
    with desk.alone():
        change = _editable(desk, who, ident, body)
        fields = {name: value for name, value in body.items() if name != "version"}
        return _next(desk, _written(desk, who, change, fields), who, "revised", state="draft")


def rebase(desk: Desk, who: Caller, ident: str, body: Mapping[str, Any]) -> Change:
    """Hold a draft's items against what stands there now."""
    who.require("author")
    with desk.alone():
        change = _editable(desk, who, ident, body)
        items = rebased(change.items, desk.standing(desk.changes.managed()))
        return _next(desk, replace(change, items=items), who, "rebased", state="draft")


def comment(desk: Desk, who: Caller, ident: str, body: Mapping[str, Any]) -> Change:
    """Add a comment."""
    if not (who.may("author") or who.may("approver")):
        who.require("author")
    if not (text := text_of(body)):
        raise BadRequest("comment must be a text", param="comment")
    with desk.alone():
        return _next(desk, at(desk, who, ident, body), who, "commented", text)


def attach(desk: Desk, who: Caller, ident: str, body: Mapping[str, Any]) -> Change:
    """Keep the result of a passed release check with the change."""
    who.require("author")
    with desk.alone():
        change = at(desk, who, ident, body)
        require(change, ("draft", "submitted"), "checked")
        policy, found = read_check(body.get("check"))
        return _next(desk, replace(change, checks={**change.checks, policy: found}), who, "checked", policy)


def at(desk: Desk, who: Caller, ident: str, body: Mapping[str, Any]) -> Change:
    """The change that a step is about.

    Raises:
        NotFound: the caller can see none of that id. Conflict: it has another version than the body says.
    """
    change = desk.find(who, ident)
    version = body.get("version")
    if version is not None and version != change.version:
        raise Conflict(f"the change {ident} has version {change.version}, not {version}: read it again",
                       code="version_changed")  # fmt: skip
    return change


def _editable(desk: Desk, who: Caller, ident: str, body: Mapping[str, Any]) -> Change:
    change = at(desk, who, ident, body)
    if change.state not in _EDITABLE:
        raise Conflict(f"the change {ident} is {change.state}: withdraw it first", code="wrong_state")
    return change


def require(change: Change, states: tuple[str, ...], done: str) -> None:
    """Raises Conflict where the change is in none of these states."""
    if change.state not in states:
        last = change.history[-1]
        by = f", {last.did} by {last.by!r}" if last.by else ""
        raise Conflict(
            f"the change {change.id} is {change.state}{by}: it cannot be {done}. Only one that is "
            f"{' or '.join(states)} can",
            code="wrong_state",
        )


def text_of(body: Mapping[str, Any], name: str = "comment", most: int = 4000) -> str:
    """A text of the body, "" where there is none.

    Raises:
        BadRequest: it is no text, or too long.
    """
    text = body.get(name, "")
    if not isinstance(text, str) or len(text) > most:
        raise BadRequest(f"{name} must be a text of at most {most} characters", param=name)
    return text


def _written(desk: Desk, who: Caller, change: Change, body: Mapping[str, Any]) -> Change:
    """The change with these fields, by this caller."""
    if unknown := sorted(body.keys() - set(_DRAFT)):
        raise BadRequest(f"{unknown[0]} is unknown; valid are {', '.join(_DRAFT)}", param=unknown[0])
    fields: dict[str, Any] = {name: text_of(body, name) for name in ("reason", "effective") if name in body}
    starts(fields.get("effective", ""))
    if "title" in body:
        fields["title"] = text_of(body, "title", _TITLE)
    if "requires" in body:
        names = body["requires"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise BadRequest("requires must be a list of policy names", param="requires")
        fields["requires"] = tuple(names)
    if "items" in body:
        fields["items"] = read_items(body["items"], desk.standing(desk.changes.managed()))
    change = replace(change, **fields, editors=_with(change.editors, who.name))
    if not who.sees(desk.owner(change.items)):
        raise BadRequest("the change touches an index that this key cannot see", param="items")
    return change


def _next(desk: Desk, change: Change, who: Caller, did: str, note: str = "", *, state: State | None = None) -> Change:
    """Store the next version."""
    event = Event(time.time(), did, who.name, note)
    after = replace(change, version=change.version + 1, history=(*change.history, event), state=state or change.state)
    if not desk.changes.replace(after):
        raise Conflict(f"the change {change.id} was changed meanwhile: read it again", code="version_changed")
    return after


def _with(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    return names if name in names else (*names, name)
