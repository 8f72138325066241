"""A change in words: what each item does, field by field, as the command, the API and the page show it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from prompt_opt.gate.diff import marked, word_diff
from serve.approval.judge import fingerprint
from serve.store.changes import Change, Event, Item

_BY_WORD = 4000  # characters; longer texts are compared line by line
_DONE = {"add": "adds", "change": "changes", "withdraw": "withdraws", "": "puts"}


def shown(change: Change) -> dict[str, Any]:
    """A change as JSON, with its diff and its digest."""
    return {
        "object": "change", **listed(change), "reason": change.reason, "editors": list(change.editors),
        "requires": list(change.requires), "checks": dict(change.checks),
        "items": [msgspec.to_builtins(item) for item in change.items],
        "diff": [differing(item) for item in change.items],
        "history": [{"at": e.at, "did": e.did, "by": e.by, "comment": e.comment} for e in change.history],
    }  # fmt: skip


def listed(change: Change) -> dict[str, Any]:
    """The line that a list has of a change."""
    last = change.history[-1] if change.history else Event(change.created, "drafted", change.author)
    return {
        "id": change.id, "title": change.heading, "state": change.state, "version": change.version,
        "author": change.author, "created": change.created, "effective": change.effective,
        "digest": fingerprint(change), "inverts": change.inverts or None,
        "touches": [f"{item.op} {item.label}" for item in change.items],
        "last": {"at": last.at, "did": last.did, "by": last.by},
    }  # fmt: skip


def differing(item: Item) -> dict[str, Any]:
    """What an item does: a sentence, and each field that differs with both its values and their difference."""
    before, after = _fields(item, item.before), _fields(item, item.content)
    names = [name for name in {**before, **after} if before.get(name, "") != after.get(name, "")]
    rows = [
        {"field": name, "before": before.get(name, ""), "after": after.get(name, ""),
         "diff": difference(before.get(name, ""), after.get(name, ""))}
        for name in names
    ]  # fmt: skip
    return {"item": item.label, "op": item.op, "sentence": f"{_DONE[item.op]} the {item.label}", "fields": rows}


def difference(before: str, after: str) -> list[tuple[str, str]]:
    """Two texts as kept ("="), removed ("-") and added ("+") runs: by words, or by lines where they are long."""
    if len(before) + len(after) <= _BY_WORD:
        return [(what, text) for what, text in word_diff(before, after)]
    old, new, out = before.splitlines(keepends=True), after.splitlines(keepends=True), list[tuple[str, str]]()
    for what, i, j, k, m in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if what == "equal":
            out.append(("=", "".join(old[i:j])))
            continue
        out += [("-", "".join(old[i:j]))] if i < j else []
        out += [("+", "".join(new[k:m]))] if k < m else []
    return out


def _fields(item: Item, content: Any) -> dict[str, str]:
    """What an item puts or finds, as texts by field: a policy's settings by their dotted names."""
    if content is None:
        return {}
    if isinstance(content, str):
        return {"text": content}
    return dict(_flat(content))


def _flat(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")
        elif isinstance(value, list):
            yield above + name, ", ".join(str(one) for one in value)
        else:
            yield above + name, value if isinstance(value, str) else msgspec.json.encode(value).decode()


def in_words(change: Change) -> Iterator[str]:
    """A change as lines of text, for a terminal."""
    yield f"{change.id}  {change.heading}  [{change.state}]"
    yield f"    author {change.author or 'nobody (no keys)'}, version {change.version}, digest {fingerprint(change)}"
    if change.effective:
        yield f"    in force from {change.effective}"
    if change.requires:
        yield f"    requires a passed check of {', '.join(change.requires)}"
    if change.reason:
        yield f"    because: {change.reason}"
    for item in change.items:
        row = differing(item)
        yield f"  {row['sentence']}"
        for field in row["fields"]:
            yield f"      {field['field']}: {marked(field['diff'])}"
