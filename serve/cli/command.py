"""The command `trimtab`: a table of sub-commands, each loaded when it is called.

This module itself imports little, since a Ctrl-C before `main` runs cannot be handled.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serve.config import Config


@dataclass(frozen=True, slots=True)
class Command:
    """A sub-command: `entry` is a "module:function" that takes the arguments and returns an exit status.

    `extra` names the optional part that it needs, "" for none.
    """

    about: str
    entry: str
    extra: str = ""


COMMANDS: Mapping[str, Command] = {
    "serve": Command("serve a model, or stand before one, with alignment policies", "serve.cli.command:serve"),
    "check": Command("check the configuration and print it resolved", "serve.cli.command:check"),
    "explain": Command("print the prompt that a chat becomes, without sending it", "serve.cli.explain:main"),
    "index": Command("make, change and search an index of principles", "retrieval.cli.command:main", "retrieval"),
    "rewrite": Command("ask a rewriter, or try its gate, on prompts", "serve.cli.rewrite:main"),
    "feedback": Command("write what people said of answers as data for `trimtab train`", "serve.cli.feedback:main"),
    "change": Command("draft, approve, try and roll back changes of rules and policies", "serve.cli.change:main"),
    "account": Command("verify and read the log of changes and requests", "serve.cli.account:main", "account"),
    "train": Command("train a model (see `trimtab train --list`)", "trainers.command:main", "train"),
    "eval": Command(
        "ask several policies or engines the same, and say what changed", "trainers.evaluation.entry:main", "eval"
    ),
    "profile": Command(
        "find a profile for a model, by likelihoods",
        "trainers.evaluation.search.profile_search:main",
        "eval",
    ),
    "export": Command(
        "make a finished run a folder that engines load, checked", "trainers.export.release:main", "train"
    ),
}


def serve(argv: list[str]) -> int:
    """`trimtab serve`: returns when the server has drained."""
    from serve.config import ConfigError
    from serve.configure.flags import parse, parser, settled
    from serve.configure.reader import load
    from serve.process.parent import run

    parser("trimtab serve", "An OpenAI-compatible server that aligns every chat by a policy.").parse_args(argv)

    argv = settled(argv)

    def read() -> Config:
        return load(parse(argv))

    try:
        return run(read, argv=argv)
    except ConfigError as error:
        print(f"trimtab serve: {error}", file=sys.stderr)
        return 2


def check(argv: list[str]) -> int:
    """`trimtab check`: the resolved configuration as JSON, or what is wrong with it."""
    from serve.config import ConfigError
    from serve.configure.flags import parse, parser, settled
    from serve.configure.reader import load
    from serve.process.launcher import resolve

    parser("trimtab check", "Check the configuration and print it resolved, defaults and all.").parse_args(argv)
    try:
        config = load(parse(settled(argv)))
        for engine in config.engines.values():
            if engine.launched:
                resolve(engine)
    except ConfigError as error:
        print(f"trimtab check: {error}", file=sys.stderr)
        return 2
    table = asdict(replace(config, profiles={}, keys=()))
    table["state_dir"] = str(config.state_dir)
    table["profiles"] = {name: profile.source for name, profile in config.profiles.items()}
    table["keys"] = [{**asdict(key), "sha256": "…"} for key in config.keys]
    for name, policy in table["policies"].items():
        policy["profile"] = config.policies[name].profile.name
    print(json.dumps(table, indent=2, ensure_ascii=False))
    return 0


def main(argv: list[str] | None = None) -> int:
    """Entry point; `argv` without the program's name."""
    argv = sys.argv[1:] if argv is None else argv
    name = argv[0] if argv else "--help"
    try:
        try:
            return _dispatch(name, argv[1:])
        finally:
            if sys.stdout is not None:  # that is, unless it was closed
                sys.stdout.flush()  # here, since at exit nobody could handle its errors
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has what it wants
        _drop()
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        _drop()
        print(f"trimtab {name}: {error.filename or 'standard output'}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before a command can say what it has kept, or where it keeps nothing
        print(f"\ntrimtab {name}: stopped", file=sys.stderr)
        return 128 + signal.SIGINT


def _drop() -> None:
    """Let nothing of what is left on standard output be written at exit."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(name: str, argv: list[str]) -> int:
    if name in ("-h", "--help", "help"):
        print("usage: trimtab COMMAND [OPTIONS]\n\nThe alignment layer for any language model.\n\ncommands:")
        for command, row in COMMANDS.items():
            print(f"  {command:<9} {row.about}")
        print("\n`trimtab COMMAND --help` says more.")
        return 0
    if name in ("-V", "--version"):
        from importlib.metadata import version

        print(f"trimtab {version('trimtab')}")
        return 0
    if name not in COMMANDS:
        print(f"trimtab: no command {name!r}; valid are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module, _, function = COMMANDS[name].entry.partition(":")
    try:
        run: Callable[[list[str]], int] = getattr(import_module(module), function)
        return run(argv)
    except ModuleNotFoundError as error:
        if not COMMANDS[name].extra:
            raise
        from retrieval.extra import lacking

        print(f"trimtab {name}: {lacking(error.name, COMMANDS[name].extra)}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
