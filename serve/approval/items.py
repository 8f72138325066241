"""A change's items, as clients write them and as they stand against what is there.

    {"kind": "rule", "op": "add", "index": "law", "name": "gdpr-17", "content": {"text": "…", "title": "…"}}
    {"kind": "policy", "op": "change", "name": "careful", "content": {"stages": ["opo"], "opo": {"index": ["law"]}}}
    {"kind": "profile", "op": "withdraw", "name": "house"}

Without an `op`, what is there already is changed, and anything else added.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from serve.errors import BadRequest
from serve.store.changes import Item, Kind, Op, Wanted

if TYPE_CHECKING:
    from retrieval.passage import Passage

MOST = 1000  # items of one change
_FIELDS = ("kind", "op", "index", "name", "content")
_NAME = 200  # characters
Standing = Callable[[Item], Any]  # what stands at an item's target now; None for nothing


def read_items(rows: Any, standing: Standing) -> tuple[Item, ...]:
    """The items of a draft, each with what it is to replace.

    Raises:
        BadRequest: an item is none; the message names its place.
    """
    if not isinstance(rows, list) or len(rows) > MOST:
        raise BadRequest(f"items must be a list of at most {MOST} objects", param="items")
    items = tuple(_based(_item(row, f"items[{i}]"), standing) for i, row in enumerate(rows))
    seen = set()
    for i, item in enumerate(items):
        if item.target in seen:
            raise BadRequest(f"items[{i}]: {item.label} is there twice", param=f"items[{i}]")
        seen.add(item.target)
    return items


def _item(row: Any, spot: str) -> Item:
    if not isinstance(row, dict):
        raise BadRequest(f"{spot} must be an object", param=spot)
    if unknown := sorted(map(str, row.keys() - set(_FIELDS))):
        raise BadRequest(f"{spot}.{unknown[0]} is unknown; valid are {', '.join(_FIELDS)}", param=spot)
    kind: Any = row.get("kind")
    op: Any = row.get("op", "")
    name, index = row.get("name"), row.get("index", "")
    if kind not in get_args(Kind):
        raise BadRequest(f"{spot}.kind must be one of {', '.join(get_args(Kind))}", param=f"{spot}.kind")
    if op and op not in get_args(Op):
        raise BadRequest(f"{spot}.op must be one of {', '.join(get_args(Op))}", param=f"{spot}.op")
    if not isinstance(name, str) or not 0 < len(name) <= _NAME:
        raise BadRequest(f"{spot}.name must be a text of 1 to {_NAME} characters", param=f"{spot}.name")
    if not isinstance(index, str) or bool(index) != (kind == "rule"):
        raise BadRequest(f"{spot}.index must name the index of a rule, and of nothing else", param=f"{spot}.index")
    content = row.get("content")
    if op == "withdraw":
        if content is not None:
            raise BadRequest(f"{spot}.content must be left out where {name!r} is withdrawn", param=f"{spot}.content")
    elif not isinstance(content, str if kind == "profile" else dict):
        shape = "the text of a TOML profile" if kind == "profile" else "an object"
        raise BadRequest(f"{spot}.content must be {shape}", param=f"{spot}.content")
    return _normal(Item(kind, op, name, index, content))


def _normal(item: Item) -> Item:
    """A rule without its empty fields, as an index gives it back. One that is no rule stays, and is refused later."""
    if item.kind != "rule" or item.content is None:
        return item
    try:
        return msgspec.structs.replace(item, content=fields_of(passage_of(item)))
    except (TypeError, ValueError):
        return item


def passage_of(item: Item) -> Passage:
    """The rule that an item puts.

    Raises:
        ValueError, TypeError: it is none; the message names the field.
    """
    from retrieval.passage import Passage

    fields = dict(item.content)
    if isinstance(fields.get("tags"), list):
        fields["tags"] = tuple(fields["tags"])
    return Passage(item.name, **fields)


def rules_by_index(items: Iterable[Item]) -> dict[str, list[Item]]:
    """The items that put or withdraw rules, by the name of their index."""
    rules: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        if item.kind == "rule":
            rules[item.index].append(item)
    return dict(rules)


def split(rules: Sequence[Item]) -> tuple[list[Passage], list[str]]:
    """The rules that these items put, and the ids of those that they withdraw.

    Raises:
        ValueError, TypeError: an item is no rule.
    """
    puts = [passage_of(item) for item in rules if item.op != "withdraw"]
    return puts, [item.name for item in rules if item.op == "withdraw"]


def fields_of(passage: Passage) -> dict[str, Any]:
    """A rule as an item has it: its fields without the id and whatever is empty."""
    fields = {name: value for name, value in asdict(passage).items() if value and name != "id"}
    return {**fields, **({"tags": list(passage.tags)} if passage.tags else {})}


def _based(item: Item, standing: Standing) -> Item:
    before = standing(item)
    op: Op = item.op or ("add" if before is None else "change")
    return msgspec.structs.replace(item, op=op, before=before, base=digest(before))


def rebased(items: Sequence[Item], standing: Standing) -> tuple[Item, ...]:
    """The items against what stands there now."""
    return tuple(
        _based(item if item.op == "withdraw" else msgspec.structs.replace(item, op=""), standing) for item in items
    )


def inverse(items: Sequence[Item]) -> tuple[Item, ...]:
    """The items that restore what stood there before."""
    ops: dict[Wanted, Op] = {"add": "withdraw", "change": "change", "withdraw": "add"}
    return tuple(
        Item(it.kind, ops[it.op], it.name, it.index, it.before, it.content, digest(it.content)) for it in items
    )


def digest(content: Any) -> str:
    """A hash of what an item puts or finds; "" for nothing."""
    if content is None:
        return ""
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()[:16]
