"""Tables of the HTTP paths, from the OpenAPI document, and of the commands, from their argparse parsers."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from importlib import import_module
from unittest import mock

from docs.parts.markdown import table


def paths() -> str:
    """Every path that the server answers, from its OpenAPI document."""
    from serve.api.app import build

    document = build(lambda: None).openapi()  # type: ignore[arg-type, return-value]
    rows = [
        (f"`{method.upper()} {path}`", about.get("summary", ""), ", ".join(about.get("tags", ())))
        for path, methods in sorted(document["paths"].items())
        for method, about in methods.items()
    ]
    return table(("Path", "What it does", "Group"), rows)


class Caught(Exception):
    """Carries a parser out of the command that was about to use it."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__(parser.prog)
        self.parser = parser


def parser_of(command: str, arguments: Iterable[str] = ()) -> argparse.ArgumentParser:
    """The parser of `trimtab COMMAND`, or of `trimtab train METHOD`."""
    from serve.cli.command import COMMANDS

    def catch(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        raise Caught(parser)

    module, _, function = COMMANDS[command].entry.partition(":")
    run = getattr(import_module(module), function)
    try:
        with mock.patch.object(argparse.ArgumentParser, "parse_known_args", catch):
            run(list(arguments))
    except Caught as caught:
        return caught.parser
    raise LookupError(f"trimtab {command} {' '.join(arguments)} reads no arguments")


def commands() -> str:
    """A section for each command, a table for each of its parsers."""
    from serve.cli.command import COMMANDS

    parts = [table(("Command", "What it does"), [(f"`trimtab {n}`", row.about) for n, row in COMMANDS.items()])]
    for name in COMMANDS:
        arguments = [("cpt",), ("sft",), ("chain",), ("ppo", "--backend"), ("check",)] if name == "train" else [()]
        parts.append(f"## `trimtab {name}`\n")
        for each in arguments:
            parts += list(_parsers(parser_of(name, each), top=name != "train"))
    return "\n".join(parts)


def _parsers(parser: argparse.ArgumentParser, top: bool) -> Iterator[str]:
    subs = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    heading = "" if top else f"### `{parser.prog}`\n\n"
    about = (parser.description or "").strip().split("\n\n")[0]
    if not top and about:
        heading += f"{about}\n\n"
    if subs:
        for sub in subs[0].choices.values():
            yield from _parsers(sub, top=False)
        return
    rows = [
        (_flag(action), _help(parser, action))
        for action in parser._actions
        if not isinstance(action, argparse._HelpAction)
    ]
    yield heading + table(("Argument", "Meaning"), rows)


def _flag(action: argparse.Action) -> str:
    if isinstance(action.metavar, str):
        value = action.metavar
    else:
        value = "|".join(map(str, action.choices)) if action.choices else action.dest.upper()
    takes = "" if action.nargs == 0 else f" {value}"
    return f"`{'`, `'.join(f'{flag}{takes}' for flag in action.option_strings) or value}`"


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = (action.help or "").removesuffix(" (default: %(default)s)")  # some Pythons add it to a pair of flags
    text %= {**vars(action), "prog": parser.prog}
    return f"{text} (required)" if action.required and action.option_strings else text
