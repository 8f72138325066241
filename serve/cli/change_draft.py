"""The part of `trimtab change` that writes drafts: by hand, item by item, and from or to TOML."""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from serve.approval import drafts
from serve.approval.desk import Desk
from serve.approval.words import in_words
from serve.chat.keys import Caller
from serve.errors import BadRequest
from serve.store.changes import Change, Item

_RULE = ("title", "source", "url", "region", "language", "kind", "in_force_from", "in_force_to")


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands."""
    draft = command("draft", "draft a change", _draft, ident=False)
    _about(draft)
    draft.add_argument("--file", metavar="FILE", type=Path, help="the draft as JSON, as POST /v1/changes takes it")
    _about(command("edit", "change a draft's title, reason, date or required checks", _edit))
    rule = command("rule", "put a rule into a draft, or withdraw one in it", _rule)
    rule.add_argument("rule", metavar="INDEX/ID", help="the rule")
    rule.add_argument("--text", metavar="TEXT", help="its text; - reads standard input")
    for name in _RULE:
        rule.add_argument(f"--{name.replace('_', '-')}", metavar="TEXT", help=f"its {name.replace('_', ' ')}")
    rule.add_argument("--tag", action="append", default=[], metavar="TEXT", help="repeatable")
    policy = command("policy", "put a managed policy into a draft, or withdraw one in it", _policy)
    policy.add_argument("name", metavar="NAME", help="the policy")
    profile = command("profile", "put a managed profile into a draft, or withdraw one in it", _profile)
    profile.add_argument("name", metavar="NAME", help="the profile")
    policy.add_argument("--file", metavar="FILE", type=Path, help="its settings as TOML, as below [policy.NAME]")
    profile.add_argument("--file", metavar="FILE", type=Path, help="the profile's TOML")
    for made in (rule, policy, profile):
        made.add_argument("--withdraw", action="store_true", help="take it out of force")
    out = command("export", "write the managed policies and profiles as TOML", _export, ident=False)
    out.add_argument("--out", metavar="DIR", type=Path, required=True, help="for managed.toml and profiles/")
    into = command("import", "draft a change that makes what is managed what a TOML file says", _import, ident=False)
    into.add_argument("file", metavar="FILE", type=Path, help="TOML with [policy.NAME] and [profile.NAME] tables")
    into.add_argument("--exact", action="store_true", help="also withdraw what the file does not name")
    _about(into)


def _about(made: argparse.ArgumentParser) -> None:
    made.add_argument("--title", metavar="TEXT", help="default: what its items do")
    made.add_argument("--reason", metavar="TEXT", help="why; needed before it is submitted")
    made.add_argument("--effective", metavar="DATE", help="from when it is in force (UTC); default: at once")
    made.add_argument("--requires", action="append", metavar="POLICY", help="needs a passed release check; repeatable")


def _given(args: argparse.Namespace) -> dict[str, Any]:
    names = ("title", "reason", "effective", "requires")
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def _draft(desk: Desk, who: Caller, args: argparse.Namespace) -> int:
    body = json.loads(args.file.read_text("utf-8")) if args.file else {}
    if not isinstance(body, dict):
        raise ValueError(f"{args.file} is not an object")
    return _say(drafts.draft(desk, who, body | _given(args)))


def _edit(desk: Desk, who: Caller, args: argparse.Namespace) -> int:
    return _say(drafts.revise(desk, who, args.ident, _given(args)))


def _rule(desk: Desk, who: Caller, args: argparse.Namespace) -> int:
    index, slash, name = args.rule.partition("/")
    if not (index and slash and name):
        raise BadRequest(f"{args.rule!r} is no INDEX/ID, such as law/parks-4")
    if args.withdraw:
        return _put(desk, who, args.ident, {"kind": "rule", "op": "withdraw", "index": index, "name": name})
    if not args.text:
        raise BadRequest("give --text with the new text, or --withdraw to take the rule out of force")
    text = sys.stdin.read() if args.text == "-" else args.text
    content = {"text": text, **{field: value for field in _RULE if (value := getattr(args, field)) is not None}}
    content |= {"tags": args.tag} if args.tag else {}
    return _put(desk, who, args.ident, {"kind": "rule", "index": index, "name": name, "content": content})


def _policy(desk: Desk, who: Caller, args: argparse.Namespace) -> int:
    return _filed(desk, who, args, tomllib.loads)


def _profile(desk: Desk, who: Caller, args: argparse.Namespace) -> int:
    return _filed(desk, who, args, lambda text: text)


def _filed(desk: Desk, who: Caller, args: argparse.Namespace, read: Callable[[str], Any]) -> int:
    if args.withdraw:
        return _put(desk, who, args.ident, {"kind": args.command, "op": "withdraw", "name": args.name})
    if args.file is None:
        raise BadRequest(f"give --file with its new content, or --withdraw to take the {args.command} out of force")
    content = read(args.file.read_text("utf-8"))
    return _put(desk, who, args.ident, {"kind": args.command, "name": args.name, "content": content})


def _put(desk: Desk, who: Caller, ident: str, row: dict[str, Any]) -> int:
    """Put an item into a draft, in place of one with the same target."""
    change = desk.find(who, ident)
    target = (row["kind"], row.get("index", ""), row["name"])
    rows = [_row(item) for item in change.items if item.target != target]
    return _say(drafts.revise(desk, who, ident, {"items": [*rows, row], "version": change.version}))


def _row(item: Item) -> dict[str, Any]:
    """An item as a draft has it; whether it adds or changes is looked up again."""
    row = {"kind": item.kind, "name": item.name, **({"index": item.index} if item.index else {})}
    return {**row, "op": "withdraw"} if item.op == "withdraw" else {**row, "content": msgspec.to_builtins(item.content)}


def _say(change: Change) -> int:
    print("\n".join(in_words(change)))
    return 0


def _export(desk: Desk, who: Caller, args: argparse.Namespace) -> int:
    managed = desk.changes.managed()
    folder = args.out
    (folder / "profiles").mkdir(parents=True, exist_ok=True)
    for name, text in managed.profiles.items():
        (folder / "profiles" / f"{_file(name)}.toml").write_text(text, "utf-8")
    profiles = {name: {"file": f"profiles/{_file(name)}.toml"} for name in managed.profiles}
    table = {"profile": profiles, "policy": dict(managed.policies)}
    whole = tomli_w.dumps({name: rows for name, rows in table.items() if rows})
    (folder / "managed.toml").write_text(whole, "utf-8")
    print(f"{len(managed.policies)} policies and {len(profiles)} profiles in {folder / 'managed.toml'}")
    return 0


def _file(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)


def _import(desk: Desk, who: Caller, args: argparse.Namespace) -> int:
    table = tomllib.loads(args.file.read_text("utf-8"))
    profiles = {
        name: (args.file.parent / row["file"]).read_text("utf-8") for name, row in table.get("profile", {}).items()
    }
    managed = desk.changes.managed()
    rows = [
        *_differing("profile", profiles, managed.profiles, exact=args.exact),
        *_differing("policy", table.get("policy", {}), managed.policies, exact=args.exact),
    ]
    if not rows:
        print("nothing differs")
        return 0
    return _say(drafts.draft(desk, who, {"items": rows, **_given(args)}))


def _differing(kind: str, wanted: Mapping[str, Any], there: Mapping[str, Any], *, exact: bool) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"kind": kind, "name": name, "content": content}
        for name, content in wanted.items()
        if there.get(name) != content
    ]
    gone = sorted(there.keys() - wanted.keys()) if exact else []
    return rows + [{"kind": kind, "op": "withdraw", "name": name} for name in gone]
