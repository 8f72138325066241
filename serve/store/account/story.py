"""A request's entries in words: what was sent, under which policy, and who approved that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from serve.store.account.verdict import day

_FINISH = {
    "complete": "the answer was complete",
    "refused": "the request was refused or failed before an answer began",
    "broken": "the answer broke off",
    "client left": "the client left before the answer had ended",
}


def story(entries: Sequence[Mapping[str, Any]], changes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines for a person. `entries` are one request's, `changes` all entries about changes."""
    lines: list[str] = []
    for entry in entries:
        lines += _opened(entry, changes) if entry["kind"] == "open" else _closed(entry)
    if not any(entry["kind"] == "close" for entry in entries):
        lines.append("No entry says how it ended: it is running, or the server was stopped while it ran.")
    return lines


def _opened(entry: Mapping[str, Any], changes: Sequence[Mapping[str, Any]]) -> list[str]:
    who = f"key {entry['key']}" if entry.get("key") else "a caller without a key"
    lines = [
        f"{day(entry['at'])}: {who} asked {entry.get('path', '?')}; sent to engine {entry.get('engine', '?')}"
        f" as model {entry.get('model') or '(its own)'} (entry {entry['n']:,}, {entry.get('place', '')})",
        f"Policy {entry.get('policy')}, digest {entry.get('digest')}: {_approval(entry, changes)}",
    ]
    for index, ident, version in entry.get("rules", ()):
        lines.append(f"Quoted rule {index}/{ident}, version {version}{_rule_change(index, entry['at'], changes)}")
    if not entry.get("rules"):
        lines.append("No rule was quoted.")
    lines += [f"Index {name} stood at revision {revision}." for name, revision in entry.get("indexes", {}).items()]
    what = {"messages": "its messages", "text": "its text", "body": "its body"}.get(entry.get("of", ""), "it")
    lines.append(f"HMAC of the prompt ({what}) with the salt of person {entry.get('person')}: {entry.get('prompt')}")
    return lines


def _closed(entry: Mapping[str, Any]) -> list[str]:
    how = _FINISH.get(entry.get("finish", ""), "how it ended is not known")
    lines = [
        f"{day(entry['at'])}: {how}, status {entry.get('status')} (entry {entry['n']:,}, {entry.get('place', '')})"
    ]
    if entry.get("applied"):
        lines.append(f"Stages: {entry['applied']}")
    if entry.get("answer"):
        lines.append(f"HMAC of the answer as the client received it: {entry['answer']}")
    return lines


def _approval(entry: Mapping[str, Any], changes: Sequence[Mapping[str, Any]]) -> str:
    """Who approved the policy as it was, by the newest change before the request that names this digest."""
    name, digest = entry.get("policy"), entry.get("digest")
    mine = [it for it in changes if it["at"] <= entry["at"] and it.get("policies", {}).get(name) == digest]
    change, since = (mine[-1]["change"], "") if mine else (entry.get("change"), "; its rules were changed since")
    if not change:
        return "no change put it in force; it stands in trimtab.toml or is built in"
    steps = [it for it in changes if it["change"] == change and it["at"] <= entry["at"]]
    approved = [f"{_by(it)} on {day(it['at'])}" for it in steps if it["step"] == "approved"]
    author = next((it["author"] for it in steps if it.get("author")), "")
    reason = next((it["reason"] for it in steps if it.get("reason")), "")
    title = next((it["title"] for it in steps if it.get("title")), "")
    text = f"in force by change {change}{since}" + (f" ({title})" if title else "")
    text += f", written by {author}" if author else ""
    text += f", approved by {' and '.join(approved)}" if approved else ", whose approval has no entry"
    return text + (f"; reason: {reason}" if reason else "")


def _rule_change(index: str, at: float, changes: Sequence[Mapping[str, Any]]) -> str:
    mine = [it for it in changes if it["at"] <= at and index in it.get("indexes", {}) and it["step"] == "in_force"]
    return f"; index last changed by change {mine[-1]['change']} on {day(mine[-1]['at'])}" if mine else ""


def _by(entry: Mapping[str, Any]) -> str:
    return str(entry.get("by") or "a caller without a key")
