"""`trimtab account`: is the log whole, what does it say, and a signed word on how far it has come."""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import msgspec

from serve.config import Config, ConfigError, Flags
from serve.configure.flags import CONFIG_HELP, found
from serve.configure.reader import load
from serve.store.account import AccountError
from serve.store.account.verification import lines, verify

_Run = Callable[[Config, argparse.Namespace], int]


def main(argv: list[str]) -> int:
    """`trimtab account`: 0 for done or whole, 1 for an account that is not whole, 2 for what cannot be done."""
    args = _parser().parse_args(argv)
    try:
        config = load(Flags(config=found(args.config), state_dir=args.state_dir))
        return int(args.run(config, args))
    except BrokenPipeError:  # `trimtab` itself handles that the reader of its output has gone
        raise
    except (ConfigError, AccountError, ValueError, OSError, sqlite3.Error) as error:
        print(f"trimtab account {args.command}: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("trimtab account", description="The hash-chained log of changes and requests.")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, about: str, run: _Run) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=about, description=about)
        added.add_argument("--config", metavar="FILE", help=CONFIG_HELP)
        added.add_argument("--state-dir", metavar="DIR", help="default ./state")
        added.set_defaults(run=run)
        return added

    check = command("verify", "check that the log is whole, and say what was changed where", _verify)
    check.add_argument("--export", metavar="FILE", help="check this export instead of the log in the state folder")
    check.add_argument("--checkpoint", metavar="FILE", help="a checkpoint that was kept elsewhere")
    check.add_argument("--public", metavar="HEX", default="", help="the public key, as it is known from elsewhere")
    check.add_argument("--json", action="store_true", help="print the verdict as JSON")
    signed = command("checkpoint", "print a signed statement of how far the log has come, to be kept elsewhere", _point)
    signed.add_argument("--out", metavar="FILE", default="-", help="default: standard output")
    told = command("show", "tell what a request was given, and who approved its policy", _show)
    told.add_argument("trace", help="the id of its trace (X-Trimtab-Trace)")
    told.add_argument("--json", action="store_true", help="print its entries as JSON")
    out = command("export", "write the whole log as JSON lines, to be verified elsewhere", _export)
    out.add_argument("--out", metavar="FILE", default="-", help="default: standard output")
    gone = command("erase", "delete a person's salt, and the traces and feedback of their requests, for ever", _erase)
    gone.add_argument("person", help="as requests name them (safety_identifier, user), else the id of a key")
    gone.add_argument(
        "--tenant", metavar="NAME", default="", help='whose requests; "" (default) is who calls without keys'
    )
    gone.add_argument("--yes", action="store_true", help="do it; without this, only say what would be deleted")
    command("key", "print the public key", _key)
    command("begin", "begin a new log after the old one was lost; the new one says so", _begin)
    return parser


def _folder(config: Config) -> Path:
    folder = config.state_dir / "account"
    if not folder.is_dir():
        raise AccountError(f"there is no account in {folder}")
    return folder


def _verify(config: Config, args: argparse.Namespace) -> int:
    kept = _kept(args.checkpoint) if args.checkpoint else None
    verdict = verify(Path(args.export) if args.export else _folder(config), public=args.public, checkpoint=kept)
    if args.json:
        print(json.dumps(msgspec.to_builtins(verdict) | {"whole": verdict.whole}, indent=2))
    else:
        print("\n".join(verdict.words()))
    return 0 if verdict.whole else 1


def _kept(file: str) -> Mapping[str, Any]:
    """A checkpoint from a file.

    Raises:
        ValueError: it is none.
    """
    told = json.loads(Path(file).read_text("utf-8"))
    if not isinstance(told, dict) or not isinstance(told.get("upto"), int) or not isinstance(told.get("head"), str):
        raise ValueError(f"{file} is not a checkpoint of `trimtab account checkpoint`")
    return told


def _point(config: Config, args: argparse.Namespace) -> int:
    from serve.store.account.journal import writer_of

    _folder(config)
    writer = writer_of(config)
    head = writer.head()
    with _out(args.out) as file:
        print(json.dumps(writer.checkpoint(head.chain, head.link)), file=file)
    return 0


def _export(config: Config, args: argparse.Namespace) -> int:
    count = 0
    with _out(args.out) as file:
        for line in lines(_folder(config)):
            count += 1
            file.write(line.decode())
    print(f"{count} entries from {_folder(config)}", file=sys.stderr)
    return 0


def _show(config: Config, args: argparse.Namespace) -> int:
    from serve.store.account.reading import changes, of_request
    from serve.store.account.story import story

    entries = of_request(_folder(config), args.trace)
    if not entries:
        print(f"trimtab account show: the account has no request {args.trace}", file=sys.stderr)
        return 1
    print("\n".join([json.dumps(it) for it in entries] if args.json else story(entries, changes(_folder(config)))))
    return 0


def _erase(config: Config, args: argparse.Namespace) -> int:
    from serve.store.account.erasure import erase, requests_of
    from serve.store.account.people import People
    from serve.store.place import open_account, open_traces, open_verdicts

    people, folder = People(config.state_dir), _folder(config)
    person = people.find(args.tenant, args.person)
    if person is None:
        print(f"trimtab account erase: no salt of {args.person!r} of tenant {args.tenant!r}", file=sys.stderr)
        return 1
    idents = requests_of(folder, args.tenant, person.pseudonym)
    print(f"{args.person}: {len(idents)} requests in the account as person {person.pseudonym}")
    if not args.yes:
        print("nothing was deleted: add --yes to delete the salt, and these requests' traces and feedback")
        return 0
    with closing(open_account(config)) as account, closing(open_traces(config)) as traces:
        account.append("erased", {"tenant": args.tenant, "person": person.pseudonym, "requests": len(idents)})
        counts = erase(people, traces, open_verdicts(config), args.tenant, args.person, idents)
    print(f"deleted: {counts[0]} traces, {counts[1]} verdicts, the salt; the chain is as it was")
    return 0


def _key(config: Config, args: argparse.Namespace) -> int:
    from serve.store.account.journal import writer_of

    _folder(config)
    print(writer_of(config).signer.public)
    return 0


def _begin(config: Config, args: argparse.Namespace) -> int:
    from serve.store.account.journal import writer_of

    head = writer_of(config, lost="begin").head()
    print(f"account {head.chain} in {head.path.parent}, {head.link.n} entries")
    return 0


def _out(name: str) -> Any:
    return nullcontext(sys.stdout) if name == "-" else Path(name).open("w", encoding="utf-8")
