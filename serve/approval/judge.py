"""Whether a change may be submitted, and still be approved: what would break what it touches is refused, by place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from typing import Any

import msgspec

from prompt_opt.core import Policy
from serve.approval.desk import Desk
from serve.approval.items import digest, passage_of
from serve.config import RAW, Config, ConfigError
from serve.configure.reader import resolve
from serve.errors import BadRequest, Conflict
from serve.store.changes import Change, Item, Managed, managed_after


def judge(desk: Desk, change: Change, managed: Managed) -> Config:
    """The configuration that the change would make.

    Raises:
        BadRequest: an item is wrong; the message and `param` name its place.
        Conflict: what an item is based on has changed meanwhile.
    """
    if not change.items:
        raise BadRequest("the change has no items", param="items")
    if not change.reason.strip():
        raise BadRequest("the change gives no reason", param="reason")
    starts(change.effective)
    standing = desk.standing(managed)
    for i, item in enumerate(change.items):
        _judge_item(desk, item, standing(item), i)
    try:
        config = resolve(desk.source, managed_after(managed, change))
    except ConfigError as error:
        raise _misplaced(error, change.items) from None
    _judge_pins(desk, change, config)
    for name in change.requires:
        if name not in config.policies:
            raise BadRequest(f"requires: no policy {name!r}", param="requires")
    return config


def starts(effective: str) -> float:
    """The Unix time from which a change is in force; 0.0: from its approval.

    Raises:
        BadRequest: it is neither a date nor a time.
    """
    if not effective:
        return 0.0
    try:
        if len(effective) == 10:
            day = date.fromisoformat(effective)
            return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
        moment = datetime.fromisoformat(effective)
    except ValueError:
        raise BadRequest(
            f"effective is not a date like 2027-01-31 or a time like 2027-01-31T08:00:00+00:00: {effective!r}",
            param="effective",
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _judge_item(desk: Desk, item: Item, there: Any, i: int) -> None:
    spot = f"items[{i}]"
    if item.kind == "rule" and item.index not in desk.config.indexes:
        valid = ", ".join(sorted(desk.config.indexes)) or "none"
        raise BadRequest(f"{spot} ({item.label}): no index {item.index!r}; valid are {valid}", param=f"{spot}.index")
    if there is None and item.op != "add" and not item.base:
        raise BadRequest(
            f"{spot}: there is no {item.label}, so it cannot be {_done(item)}", param=f"{spot}.name",
            code=f"unknown_{item.kind}",
        )  # fmt: skip
    if there is not None and item.op == "add" and item.base:
        raise BadRequest(f"{spot}: {item.label} exists already: change it instead", param=f"{spot}.op")
    if digest(there) != item.base:
        raise Conflict(
            f"{spot}: {item.label} has changed since this was drafted: look at what stands there now, and rebase",
            code="base_changed", param=spot,
        )  # fmt: skip
    if item.kind == "rule" and item.op != "withdraw":
        _judge_rule(item, spot)
    elif item.kind == "policy":
        _judge_name(desk, item, spot)
    elif item.kind == "profile" and item.name in desk.source.profiles:
        raise BadRequest(f"{spot}: the profile {item.name!r} is shipped or defined in the file", param=f"{spot}.name")


def _done(item: Item) -> str:
    return "withdrawn" if item.op == "withdraw" else "changed"


def _judge_rule(item: Item, spot: str) -> None:
    if "parent" in item.content or "id" in item.content:
        raise BadRequest(f"{spot}.content: id and parent cannot be set", param=f"{spot}.content")
    try:
        passage_of(item)
    except (TypeError, ValueError) as error:
        words = str(error).replace("Passage.__init__() ", "")
        raise BadRequest(f"{spot}.content ({item.label}): {words}", param=f"{spot}.content") from None


def _judge_name(desk: Desk, item: Item, spot: str) -> None:
    """A managed policy's name must not be that of another one."""
    other = desk.config.policies.get(item.name)
    if item.name == RAW or (other is not None and not other.change):
        where = "stands in trimtab.toml" if item.name in desk.source.toml.section("policy") else "is built in"
        raise BadRequest(f"{spot}: the policy {item.name!r} {where}, so it cannot be managed", param=f"{spot}.name")


def _misplaced(error: ConfigError, items: tuple[Item, ...]) -> BadRequest:
    """The error as the API gives it: at the item whose policy or profile it names, where it is one's."""
    for i, item in enumerate(items):
        if f"{item.kind} {item.name}:" in str(error):
            return BadRequest(f"items[{i}].content: {error}", param=f"items[{i}].content")
    return BadRequest(f"the change does not fit the configuration: {error}", param="items")


def _judge_pins(desk: Desk, change: Change, config: Config) -> None:
    """Refuse a policy that would pin a rule that is not there, if the change is at fault."""
    put = {it.name for it in change.items if it.kind == "policy"}
    there = {(it.index, it.name): it.op != "withdraw" for it in change.items if it.kind == "rule"}
    for policy, index, name in _pins(config.policies):
        if (index, name) in there:
            if not there[index, name]:
                raise BadRequest(f"the policy {policy.name!r} pins the rule {index}/{name}", param="items")
        elif policy.name in put and desk.open_index(index).get(name) is None:
            raise BadRequest(
                f"policy {policy.name}: opo.pinned: there is no rule {index}/{name}", param="items", code="unknown_rule"
            )


def _pins(policies: Mapping[str, Policy]) -> Iterator[tuple[Policy, str, str]]:
    for policy in policies.values():
        for options in policy.options.values():
            for pinned in getattr(options, "pinned", ()):
                index, _, name = pinned.partition("/")
                yield policy, index, name


def fingerprint(change: Change) -> str:
    """A hash of what an approver approves: the items, their bases, the date and the required checks."""
    items = [msgspec.to_builtins(msgspec.structs.replace(item, before=None)) for item in change.items]
    whole = [change.id, items, change.effective, list(change.requires), change.inverts]
    return digest(whole)
