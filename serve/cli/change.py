"""`trimtab change`: draft, try, submit, approve and roll back changes of rules, managed policies and profiles.

It works on the state folder, with a server running or not. Who acts is told by an API key of the configuration, whose
secret is in the environment variable that `--key-env` names.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from serve.approval import decisions, drafts
from serve.approval.desk import Desk
from serve.approval.enact import catch_up
from serve.approval.words import in_words, shown
from serve.chat.indexes import Indexes
from serve.chat.keys import Caller, known
from serve.cli import change_draft, change_replay
from serve.config import ConfigError, Flags
from serve.configure.flags import CONFIG_HELP, found
from serve.configure.reader import read, resolve
from serve.errors import ApiError
from serve.store.account import AccountError
from serve.store.changes import STATES, Change
from serve.store.place import open_account, open_changes

KEY_ENV = "TRIMTAB_KEY"


def main(argv: list[str]) -> int:
    """`trimtab change`: 0 for done, 1 for a step that was refused, 2 for what cannot be read."""
    args = parser().parse_args(argv)
    try:
        with _at_desk(args) as (desk, who):
            return int(args.run(desk, who, args))
    except ApiError as error:
        print(f"trimtab change {args.command}: {error.message}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `trimtab` itself handles that the reader of its output has gone
        raise
    except (ConfigError, AccountError, ValueError, OSError, sqlite3.Error) as error:
        print(f"trimtab change {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command resumes from there", file=sys.stderr)
        return 130


@contextmanager
def _at_desk(args: argparse.Namespace) -> Iterator[tuple[Desk, Caller]]:
    source, managed = read(Flags(config=found(args.config), state_dir=args.state_dir))
    config = resolve(source, managed)
    indexes = Indexes(config.indexes)
    changes = open_changes(config.store, config.state_dir)
    desk = Desk(source, config, changes, indexes.open, partial(open_account, config))
    secret = os.environ.get(args.key_env)
    if config.keys and not secret:
        raise ConfigError(f"the environment has no {args.key_env}, which should hold your API key (see --key-env)")
    with closing(indexes):
        yield desk, known(config.keys, secret)


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    top = argparse.ArgumentParser("trimtab change", description="Changes of rules, managed policies and profiles.")
    commands = top.add_subparsers(dest="command", required=True)

    def command(name: str, about: str, run: Callable[..., int], *, ident: bool = True) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=about, description=about)
        if ident:
            added.add_argument("ident", metavar="ID", help="the change, like c12")
        added.add_argument("--config", metavar="FILE", help=CONFIG_HELP)
        added.add_argument("--state-dir", metavar="DIR", help="default ./state")
        added.add_argument("--key-env", metavar="NAME", default=KEY_ENV,
                           help="environment variable with your API key (default: %(default)s)")  # fmt: skip
        added.set_defaults(run=run)
        return added

    listing = command("list", "print the changes, newest first", _list, ident=False)
    listing.add_argument("--state", choices=STATES, help="only those in this state")
    show = command("show", "print a change: its diff in words, and its history", _show)
    show.add_argument("--json", action="store_true", help="print it as JSON")
    command("diff", "print what a change does, in words", _diff)
    change_draft.add(command)
    for name, (about, step) in _STEPS.items():
        added = command(name, about, partial(_take, step))
        added.add_argument("--comment", metavar="TEXT", default="", help="kept with the step")
        added.add_argument("--version", metavar="N", type=int, help="refuse if the change has another version by now")
    check = command("check", "keep a passed release check with a change", _check)
    check.add_argument("file", metavar="FILE", type=Path, help="the JSON that `trimtab eval --check` wrote")
    command("settle", "finish what was interrupted, and put into force what is due", _settle, ident=False)
    change_replay.add(command)
    return top


_Step = Callable[[Desk, Caller, str, dict[str, Any]], Change]
_STEPS: dict[str, tuple[str, _Step]] = {
    "submit": ("ask for a change's approval", decisions.submit),
    "approve": ("approve a change: it is in force, or will be on its date", decisions.approve),
    "reject": ("send a submitted or approved change back", decisions.reject),
    "withdraw": ("take a change back before it is in force", decisions.withdraw),
    "rollback": ("restore what a change replaced, by a new change in force at once", decisions.roll_back),
    "rebase": ("hold a draft against what stands there now", drafts.rebase),
    "comment": ("add a comment to a change", drafts.comment),
}


def _take(step: _Step, desk: Desk, who: Caller, args: argparse.Namespace) -> int:
    body = {"comment": args.comment, **({"version": args.version} if args.version is not None else {})}
    change = step(desk, who, args.ident, body)
    print(f"{change.id} is {change.state.replace('_', ' ')}: {change.heading}")
    return 0


def _check(desk: Desk, who: Caller, args: argparse.Namespace) -> int:
    try:
        told = json.loads(args.file.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{args.file} is not JSON: {error}") from None
    change = drafts.attach(desk, who, args.ident, {"check": told})
    print(f"{change.id} has passed checks of {', '.join(change.checks)}")
    return 0


def _list(desk: Desk, who: Caller, args: argparse.Namespace) -> int:
    after, none = "", True
    while rows := desk.changes.page([args.state] if args.state else [], after):
        for change in rows:
            if desk.shows(who, change):
                none = False
                print(f"{change.id:<5} {change.state:<10} {change.author or '-':<12} {change.heading}")
        after = rows[-1].id
    if none:
        print(f"no changes in state {args.state}" if args.state else "no changes", file=sys.stderr)
    return 0


def _show(desk: Desk, who: Caller, args: argparse.Namespace) -> int:
    change = desk.find(who, args.ident)
    if args.json:
        print(json.dumps(shown(change), ensure_ascii=False, indent=2))
        return 0
    print("\n".join(in_words(change)))
    for event in change.history:
        comment = f": {event.comment}" if event.comment else ""
        print(f"  {_moment(event.at)} {event.did}{f' by {event.by}' if event.by else ''}{comment}")
    return 0


def _diff(desk: Desk, who: Caller, args: argparse.Namespace) -> int:
    print("\n".join(in_words(desk.find(who, args.ident))))
    return 0


def _settle(desk: Desk, who: Caller, args: argparse.Namespace) -> int:
    due = catch_up(desk, wait=True)
    print("nothing is due" if due == float("inf") else f"the next change is due at {_moment(due)}")
    return 0


def _moment(at: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
